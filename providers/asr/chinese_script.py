"""Chinese in the script that the user reads: recognisers write simplified or traditional characters as they like."""

from __future__ import annotations

import functools
from typing import Any, Final, Literal, TypeAlias

Script: TypeAlias = Literal["simplified", "traditional", "as-is"]

_CONVERSION: Final = {"simplified": "t2s", "traditional": "s2t"}


def to_script(text: str, script: Script) -> str:
    """The text in that script; characters of the other languages in it stay."""
    if script == "as-is":
        return text
    return str(_converter(_CONVERSION[script]).convert(text))


@functools.cache
def _converter(conversion: str) -> Any:
    import opencc

    return opencc.OpenCC(conversion)
