"""What recognisers trained on subtitles write when nobody speaks."""

from __future__ import annotations

import re
from typing import Final

_ALWAYS: Final = (
    "thanks for watching",
    "thank you for watching",
    "please subscribe",
    "subtitles by",
    "amara org",
    "以下是普通",
    "字幕由",
    "字幕志愿者",
    "字幕志願者",
    "请不吝点赞",
    "請不吝點贊",
    "明镜与点点",
    "明鏡與點點",
    "谢谢观看",
    "謝謝觀看",
    "感谢观看",
    "感謝觀看",
    "多谢您的观看",
    "謝謝大家觀看",
)
"""Nobody says these to a speaker."""

_WEAK: Final = frozenset(
    {
        "thank you",
        "thank you very much",
        "thanks",
        "you",
        "bye",
        "bye bye",
        "so",
        "okay",
        "oh",
        "uh",
        "um",
        "hmm",
        "i m sorry",
        "the end",
        "谢谢",
        "謝謝",
        "谢谢大家",
        "謝謝大家",
        "嗯",
        "啊",
        "好",
        "我",
    }
)
"""People do say these: phantoms only when there is little behind them."""

_CAPTION: Final = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|\*[^*]*\*|（[^（）]*）|【[^【】]*】|[♪♫].*?[♪♫]", re.DOTALL)
"""What is not said but described: ``[BLANK_AUDIO]``, ``(music)``, ``*coughs*``, ``（笑声）``."""


def is_phantom(text: str, *, weak: bool) -> bool:
    """True for a text that stands for noise; ``weak`` says that the recogniser itself had doubts."""
    spoken = _CAPTION.sub(" ", text)
    words = " ".join("".join(character if character.isalnum() else " " for character in spoken.lower()).split())
    if not words and spoken != text:
        return True  # nothing but captions
    return any(phrase in words for phrase in _ALWAYS) or (weak and words in _WEAK)
