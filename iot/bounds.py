"""What a device sends is bounded and stripped before a log or a model sees it (P)."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]+")


def bounded_text(value: object, *, limit: int) -> str:
    """``value`` as text of at most ``limit`` characters, without control characters; "" when it is no string.

    A cut text ends in an ellipsis. Tabs and line feeds stay: tool results are often lines.
    """
    if not isinstance(value, str):
        return ""
    text = _UNPRINTABLE.sub(" ", value[: 2 * limit]).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
