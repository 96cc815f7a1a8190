"""The eSpeak NG phonemizer that comes with Piper: one C library with one current voice for the whole process."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from piper.phonemize_espeak import EspeakPhonemizer

LOCK: Final = threading.Lock()
"""Held during every use of the library, whoever uses it: choosing a voice and using it are two calls."""


def ipa(text: str, *, voice: str = "en-us") -> str | None:
    """The pronunciation of ``text`` in IPA (decomposed, with stress and stops); None when Piper is not installed."""
    with LOCK:
        phonemizer = _phonemizer()
        if phonemizer is None:
            return None
        return " ".join("".join(sentence) for sentence in phonemizer.phonemize(voice, text))


@cache
def _phonemizer() -> EspeakPhonemizer | None:
    try:
        from piper.phonemize_espeak import EspeakPhonemizer
    except ImportError:
        return None
    return EspeakPhonemizer()
