"""The sentence splitter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sentences import LONGEST, CodeFilter, SentenceSplitter, bare, sounds_unfinished, without_prefix


def split(text: str, *, step: int = 1) -> list[str]:
    splitter = SentenceSplitter()
    out: list[str] = []
    for start in range(0, len(text), step):
        out += splitter.feed(text[start : start + step])
    return out + splitter.flush()


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there. How are you? Fine!", ["Hello there.", "How are you?", "Fine!"]),
        ("Pi is 3.14 and e is 2.72. Nice.", ["Pi is 3.14 and e is 2.72.", "Nice."]),
        ("Use fruit, e.g. apples. Done.", ["Use fruit, e.g. apples.", "Done."]),
        ("Dr. Smith met Mr. J. Doe. They left.", ["Dr. Smith met Mr. J. Doe.", "They left."]),
        ("See example.com/a.html for more. Bye.", ["See example.com/a.html for more.", "Bye."]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("你好。今天天气很好！出去走走吗？", ["你好。", "今天天气很好！", "出去走走吗？"]),
        ("你好!很高兴见到你.", ["你好!", "很高兴见到你."]),
        ("“真的吗？”他问。", ["“真的吗？”", "他问。"]),
        ("Wait... what? Yes.", ["Wait...", "what?", "Yes."]),
        ("1. Milk\n2. Bread\n", ["1. Milk", "2. Bread"]),
        ("The year was 1999. Then came 2000.", ["The year was 1999.", "Then came 2000."]),
        ("नमस्ते। आप कैसे हैं?", ["नमस्ते।", "आप कैसे हैं?"]),
        ("Come at 5 p.m. tomorrow. Or at 6 p.m. Then we eat.", ["Come at 5 p.m. tomorrow.", "Or at 6 p.m.", "Then we eat."]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_stop(text: str, expected: list[str], step: int) -> None:
    assert split(text, step=step) == expected


def test_first_clause_comes_early_and_later_ones_do_not() -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("Well of course I can, ") == ["Well of course I can,"]
    assert splitter.feed("but it will take a while, ") == []
    assert splitter.feed("so wait. ") == ["but it will take a while, so wait."]


def test_a_first_clause_of_two_words_is_too_short() -> None:
    assert SentenceSplitter().feed("Well then, here it is") == []


def test_first_clause_in_chinese() -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("好的，") == []
    assert splitter.feed("我来帮你设置一下，请稍") == ["好的，我来帮你设置一下，"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("The old capital city of the", "The old capital city"),
        ("The old capital ci", "The old capital"),
        ("The old capital - ", "The old capital"),
        ("The old", ""),
        ("Here and there", ""),
        ("It is in the", ""),
        ("今天天气真的很好", "今天天气真的"),
        ("今天的天气很好适合出去", ""),
        ("我们昨天去过的那家", "我们昨天去过的"),
        ("我们想要知道的东西有很多了解", "我们想要知道的"),
        ("You can read it in [the manual of", "You can read it"),
        ("你好", ""),
        ("", ""),
    ],
)
def test_first_words_of_a_long_sentence(text: str, first: str) -> None:
    splitter = SentenceSplitter()
    assert splitter.feed(text) == []
    assert splitter.cut() == ([first] if first else [])
    rest = splitter.flush()
    assert "".join(first.split()) + "".join("".join(rest).split()) == "".join(text.split())


def test_only_the_first_words_are_cut() -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("Yes. And now for something ") == ["Yes."]
    assert splitter.cut() == []


def test_text_without_an_end_is_cut() -> None:
    pieces = split("word " * 200)
    assert len(pieces) > 2
    assert all(len(piece) <= LONGEST for piece in pieces)


@given(st.text(max_size=400), st.integers(1, 20))
def test_nothing_is_lost_or_invented(text: str, step: int) -> None:
    joined = "".join("".join(split(text, step=step)).split())
    assert joined == "".join(text.split())


@given(st.text(alphabet="ab .!?,。，3\n\"e'g", max_size=120), st.integers(1, 7))
def test_pieces_do_not_depend_on_how_the_text_arrives(text: str, step: int) -> None:
    assert split(text, step=step) == split(text, step=max(1, len(text)))


@pytest.mark.parametrize(
    "text",
    [
        "Turn on the",
        "I want to,",
        "because",
        "Set a timer for...",
        "帮我把",
        "如果",
        "I would like to know.",
        "Can you",
        "And remind me",
        "请问。",
    ],
)
def test_unfinished(text: str) -> None:
    assert sounds_unfinished(text)


@pytest.mark.parametrize(
    "text",
    ["Turn on the light.", "What time is it?", "现在几点了？", "", "Stop", "I don't know.", "Can you?", "Let me know.", "你能告诉我吗？"],
)
def test_finished(text: str) -> None:
    assert not sounds_unfinished(text)


@pytest.mark.parametrize(
    ("text", "wake", "rest"),
    [
        ("Hi ESP, what time is it?", "Hi, ESP", "what time is it?"),
        ("你好小智，现在几点", "你好小智", "现在几点"),
        ("Hi ESP.", "hi esp", ""),
        ("Hi Esperanza", "hi esp", "Hi Esperanza"),
        ("What time is it?", "hi esp", "What time is it?"),
    ],
)
def test_wake_word_is_no_request(text: str, wake: str, rest: str) -> None:
    assert without_prefix(text, bare(wake)) == rest


def prose(text: str, *, step: int) -> str:
    code = CodeFilter()
    return "".join(code.feed(text[at : at + step]) for at in range(0, len(text), step)) + code.flush()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Here:\n```python\nprint('hi')\nx = 1\n```\nThat is all.", "Here:\n\n\nThat is all."),
        ("A\n~~~\n```\n~~~\nB", "A\n\n\nB"),
        ("Not closed ```js\nlet a = `b`;", "Not closed \n"),
        ("Run ```ls``` now.", "Run \n now."),
        ("`x` and ``y`` stay, ~5 too", "`x` and ``y`` stay, ~5 too"),
        ("ends in ``", "ends in ``"),
        ("", ""),
    ],
)
def test_code_is_taken_out(text: str, left: str, step: int) -> None:
    assert prose(text, step=step) == left


@given(st.text(alphabet="a`~\n", max_size=60), st.integers(1, 7))
def test_what_is_code_does_not_depend_on_how_the_text_arrives(text: str, step: int) -> None:
    assert prose(text, step=step) == prose(text, step=max(1, len(text)))
