"""What is spoken of a text, by which voice, in which pieces."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.tts.text import clauses, prevailing_script, speakable

FRAGMENTS = (
    *("*", "**", "_", "`", "```", "# ", "- ", "> ", "[a](http://b.c)", "https://www.x.y/z", "|", "---", "\n", " ", "<b>", "~~", "![", "]("),
    *("😀", "❤️", "👨\u200d👩\u200d👧", "\u200b", "\x00", "\ud83d", "\U000e0041"),
    *("hello", "你好", "3.14", "12:30", "。", ", ", ".", "1. ", "2) "),
)
MARKED_UP = st.lists(st.sampled_from(FRAGMENTS)).map("".join)
ANY_TEXT = st.text() | MARKED_UP


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("**Hello** *world* 😀!", "Hello world!"),
        ("今天**很好**👍。\n你呢", "今天很好。你呢"),
        ("# Lights\n- kitchen\n- hall 🎉", "Lights, kitchen, hall"),
        ("灯:\n* 厨房\n* 客厅", "灯:厨房，客厅".replace(":", ": ")),
        ("1. Open it\n2. Close it", "Open it, Close it"),
        ("7. Anything else?", "7. Anything else?"),
        ("[ ] milk", "[ ] milk"),
        ("- [x] milk", "milk"),
        ("> said she", "said she"),
        ("See [the docs](https://a.b/c_(d)) or https://www.example.com/x/y?z=1.", "See the docs or example.com."),
        ("![a cat](cat.png)", "a cat"),
        ("<https://example.com/a>", "example.com"),
        ("Here:\n```py\nprint('*')\n```\nDone.", "Here: Done."),
        ("Unfinished ```x = 1``` code", "Unfinished code"),
        ("```\nnever closed", ""),
        ("Use `ls` now", "Use ls now"),
        ("snake_case _it_ __b__ ~~old~~", "snake case it b old"),
        ("2 * 3 = 6", "2 × 3 = 6"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a, b, 1, 2"),
        ("one\n---\ntwo", "one, two"),
        ("24.5°C, 30℃ and 5 €", "24.5°C, 30℃ and 5 €"),
        ("1️⃣ first ❤️ 🇩🇪 👨‍👩‍👧", "1 first"),
        ("go → there", "go there"),
        ("Hi :) you ;-)", "Hi you"),
        ("a\u200bb\u00adc\x07", "abc"),
        ("x < y <br> z", "x < y z"),
        ("As shown[1] before[^2].", "As shown before."),
        ("it's 12:30 and 3.14", "it's 12:30 and 3.14"),
        ("💬 ✨ ---", ""),
        ("", ""),
        ("...", ""),
    ],
)
def test_what_is_spoken(written: str, expected: str) -> None:
    assert speakable(written) == expected


@settings(deadline=None)  # machines pause
@given(ANY_TEXT)
def test_spoken_text_is_one_clean_line(text: str) -> None:
    spoken = speakable(text)
    assert "\n" not in spoken
    assert spoken == spoken.strip()
    assert not any(unicodedata.category(character)[0] == "C" for character in spoken)
    assert not any(mark in spoken for mark in ("*", "`", "|", "😀", "❤", "_"))
    assert spoken == "" or any(character.isalnum() for character in spoken)
    spoken.encode()  # no lone surrogates: the text goes to C libraries and over HTTP


@settings(deadline=None)  # machines pause
@given(st.text(alphabet=st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1))
def test_plain_words_are_left_alone(word: str) -> None:
    assert speakable(word) == word


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("What time is it?", "latin"),
        ("现在几点了？", "cjk"),
        ("打开Home Assistant", "cjk"),
        ("用 Wi-Fi", "cjk"),
        ("My name is 小智.", "latin"),
        ("こんにちは", "cjk"),
        ("Привет", "latin"),
        ("3.14", "latin"),
        ("42。", "cjk"),
        ("", "latin"),
        ("it's OK 好的", "cjk"),
    ],
)
def test_script(text: str, script: str) -> None:
    assert prevailing_script(text) == script


def test_clauses_are_cut_where_one_breathes() -> None:
    text = "今天天气很好，气温二十五度，适合出去走走。记得带上“水”。"
    assert clauses(text, min_units=6, max_units=40) == ["今天天气很好，", "气温二十五度，", "适合出去走走。", "记得带上“水”。"]


def test_short_clauses_are_joined() -> None:
    assert clauses("好，我来，打开客厅的灯。是。", min_units=6, max_units=40) == ["好，我来，打开客厅的灯。是。"]
    assert clauses("Yes, sure, I will turn it on.", min_units=3, max_units=20) == ["Yes, sure, I will turn it on."]


def test_numbers_and_times_stay_whole() -> None:
    assert clauses("It is 3.14, or 12:30.", min_units=1, max_units=9) == ["It is 3.14,", "or 12:30."]


def test_a_clause_without_stops_is_cut_between_units() -> None:
    assert clauses("一二三四五六七八九十", min_units=2, max_units=4) == ["一二三四", "五六七八", "九十"]
    assert clauses("one two three four five", min_units=1, max_units=2) == ["one two", "three four", "five"]


@settings(deadline=None)  # machines pause
@given(ANY_TEXT, st.integers(1, 8), st.integers(8, 40))
def test_clauses_lose_nothing_but_space(text: str, least: int, most: int) -> None:
    pieces = clauses(text, min_units=least, max_units=most)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(pieces)
