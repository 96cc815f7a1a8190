"""How the demonstration judges what it heard, and what it says when a part does not work."""

from __future__ import annotations

import json

import pytest

from bridge.demo import LEAST_SIMILARITY, similarity, turn_summary
from bridge.progress import TransferProgress


@pytest.mark.parametrize(
    ("answer", "heard", "same"),
    [
        ("It's 8:23 PM.", "Its 823 p.m.", True),
        ("It's 8:23 PM.", "It's 8.23pm.", True),
        ("The capital of France is Paris.", "the capital of france is paris", True),
        ("现在是晚上8点23分。", "现在是晚上八点二十三分", True),
        ("It's 8:23 PM.", "Thank you for watching.", False),
        ("The capital of France is Paris.", "I like to eat cheese.", False),
        ("现在是晚上8点23分。", "谢谢观看", False),
        ("", "anything", False),
        ("Something", "", False),
    ],
)
def test_an_answer_is_recognised_in_what_was_heard(answer: str, heard: str, same: bool) -> None:
    assert (similarity(answer, heard) >= LEAST_SIMILARITY) is same


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
