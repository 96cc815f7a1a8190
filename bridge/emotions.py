"""The 21 faces of the device's display, and which of them a text shows.

Pure. Names are those of the device's emoji set; anything else would fall back to an icon or keep the old face.
"""

from __future__ import annotations

from typing import Final

NEUTRAL: Final = "neutral"
EMOJI: Final[dict[str, str]] = {
    "neutral": "😶😐😑",
    "happy": "🙂😊😀😃😄🤗☺👍🎉",
    "laughing": "😆😁😅",
    "funny": "😂🤣",
    "sad": "😔😞😟☹🙁",
    "angry": "😠😡🤬😤",
    "crying": "😭😢",
    "loving": "😍🥰❤💕😻",
    "embarrassed": "😳☺🙈",
    "surprised": "😯😮😲",
    "shocked": "😱🤯",
    "thinking": "🤔🧐",
    "winking": "😉",
    "cool": "😎",
    "relaxed": "😌",
    "delicious": "🤤😋",
    "kissy": "😘😗😚",
    "confident": "😏💪",
    "sleepy": "😴😪🥱",
    "silly": "😜🤪😝",
    "confused": "🙄😕😵",
}
EMOTIONS: Final = frozenset(EMOJI)
_BY_CHARACTER: Final = {character: name for name, characters in reversed(EMOJI.items()) for character in characters}


def emotion_of(text: str) -> str | None:
    """The emotion of the first known emoji in ``text``, or None.

    >>> emotion_of("Sure! 😂")
    'funny'
    """
    return next((_BY_CHARACTER[character] for character in text if character in _BY_CHARACTER), None)


def known(name: str) -> str:
    """``name`` if devices know it, else neutral."""
    return name if name in EMOTIONS else NEUTRAL
