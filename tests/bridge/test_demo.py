"""How the demonstration judges what it heard, and what it says when a part does not work."""

from __future__ import annotations

import json

import pytest

from bridge.demo import LEAST_OVERLAP, overlap, turn_summary, words
from bridge.progress import TransferProgress


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 8:23 PM.", ["its", "823", "pm"]),
        ("its 823 p.m.", ["its", "823", "pm"]),
        ("It's 8.23pm.", ["its", "823", "pm"]),
        ("Its 8 23 pm", ["its", "823", "pm"]),
        ("现在是8点。 Good!", ["现", "在", "是", "8", "点", "good"]),
        ("snake_case ...", ["snake", "case"]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_overlap() -> None:
    assert overlap("The capital of France is Paris.", "the capital of france is paris") == 1
    assert overlap("one two three four", "four three") == 0.5
    assert overlap("no no no", "no") == pytest.approx(1 / 3)
    assert overlap("", "anything") == 0
    assert overlap("It's 8:23 PM.", "It's 823 p.m.") >= LEAST_OVERLAP
    assert overlap("It's 8:23 PM.", "Thank you for watching.") < LEAST_OVERLAP


def test_the_last_turn_of_the_devices_report() -> None:
    turn = {"kind": "turn", "stt": "hello", "sentences": ["hi"], "latencies": {}}
    lines = [{"kind": "step"}, turn | {"stt": "first"}, turn, {"kind": "step"}]
    output = "\n".join([json.dumps(line) for line in lines] + ["not json", "[1]"]).encode()
    assert turn_summary(output) == turn
    assert turn_summary(b"") is None


def test_progress_is_a_line_each_quarter_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    progress = TransferProgress(sys.stdout)
    for done in range(0, 1_000_001, 10_000):
        progress("model.bin", done, 1_000_000)
    assert capsys.readouterr().out.splitlines() == [f"model.bin: {quarter:3d} % of 1 MB" for quarter in (25, 50, 75, 100)]
