"""What skills say. One file a language; another language is another file and a line in :func:`phrases_for`."""

from __future__ import annotations

from bridge.skills.phrases.base import Part, Phrases, TimerLine
from bridge.skills.phrases.en import English
from bridge.skills.phrases.zh import Chinese

_ENGLISH = English()
_BY_LANGUAGE: dict[str, Phrases] = {"en": _ENGLISH, "zh": Chinese()}

__all__ = ["Part", "Phrases", "TimerLine", "phrases_for"]


def phrases_for(language: str) -> Phrases:
    """The phrases of a BCP 47 language; English where there are none."""
    return _BY_LANGUAGE.get(language.split("-", maxsplit=1)[0].lower(), _ENGLISH)
