"""Phonemes for Kokoro: every symbol known to the model, no word dropped."""

from __future__ import annotations

import builtins
import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.tts import espeak
from providers.tts.phonemes import TOKENS, Phonemizer, tokens


@functools.cache
def phonemizer() -> Phonemizer:
    return Phonemizer()


def test_token_table() -> None:
    # numbers from the model's own configuration
    assert len(TOKENS) == 114
    facts = {
        ";": 1,
        "—": 9,
        " ": 16,
        "\uab67": 23,
        "A": 24,
        "I": 25,
        "Q": 33,
        "ᵊ": 42,
        "z": 68,
        "ʂ": 130,
        "ʰ": 162,
        "↓": 169,
        "↘": 173,
        "ᵻ": 177,
    }
    assert {symbol: TOKENS[symbol] for symbol in facts} == facts
    assert tokens("ni↓") == [56, 51, 169]


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        # by hand from the pinyin: xiàn zài jǐ diǎn le; yín háng, xíng (one character, two readings)
        ("现在几点了？", "ɕjɛ↘nʦai↘ ʨi↓tjɛ↓n lɤ?"),
        ("银行", "i↗nxa↗ŋ"),
        ("行", "ɕi↗ŋ"),
        ("3个", "sa→nkɤ↘"),
        ("打开Wi-Fi。", "ta↓kʰai→ wˈIfˌI."),
        ("用USB", "jʊ↘ŋ jˈu ˈɛs bˈi"),
        ("“好”，（是）", "“xau↓”, (ʂɨ↘)"),
        ("café好好好", "kæfˈA xau↓xau↓ xau↓"),
    ],
)
def test_phonemes(text: str, phonemes: str) -> None:
    spoken = phonemizer().phonemes(text)
    assert spoken.replace(" ", "") == phonemes.replace(" ", "")


@settings(deadline=None)  # machines pause
@given(st.text() | st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)))
def test_any_text_gives_known_symbols(text: str) -> None:
    assert all(number in TOKENS.values() for number in tokens(phonemizer().phonemes(text)))


def test_characters_without_a_reading_are_counted() -> None:
    before = phonemizer().unspoken
    assert phonemizer().phonemes("兙好ㄅ") == "xau↓"
    assert phonemizer().unspoken == before + 2


@pytest.mark.parametrize("word", ["Spotify", "Kubernetes", "HomeAssistant", "thermostat", "xyzzy", "I", "a", "MQTT"])
def test_english_words_have_a_sound(word: str) -> None:
    assert len(phonemizer().phonemes(f"打开{word}吧")) > len(phonemizer().phonemes("打开吧")) + 1


def test_without_espeak_words_are_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "piper":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    espeak._phonemizer.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refusing)
    try:
        assert espeak.ipa("word") is None
        assert phonemizer().phonemes("用xqz") == "jʊ↘ŋ ˈɛks kjˈu zˈi"
        assert phonemizer().phonemes("It is 22.") == "ɪt ɪz tˈu tˈu."
    finally:
        espeak._phonemizer.cache_clear()
