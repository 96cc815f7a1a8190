"""Endpointing over rows of probabilities."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bridge.endpointing import Endpointer, Mark
from settings.providers import SileroVad

OPTIONS = SileroVad(silence_ms=480, max_silence_ms=960, min_speech_ms=96)


def marks(probabilities: list[float]) -> list[Mark]:
    endpointer = Endpointer(OPTIONS, window_ms=32)
    return [mark for probability in probabilities if (mark := endpointer.push(probability))]


def test_speech_then_silence() -> None:
    assert marks([0.9] * 10 + [0.1] * 40) == [Mark.STARTED, Mark.EARLY, Mark.END, Mark.LAST]


def test_a_click_is_not_speech() -> None:
    assert marks([0.1] * 5 + [0.9, 0.9] + [0.1] * 40) == []


def test_voice_after_a_pause_resumes() -> None:
    assert marks([0.9] * 10 + [0.1] * 8 + [0.9] * 5 + [0.1] * 16) == [Mark.STARTED, Mark.EARLY, Mark.RESUMED, Mark.EARLY, Mark.END]


def test_the_band_between_the_thresholds_prolongs_speech() -> None:
    assert marks([0.9] * 10 + [0.4] * 100) == [Mark.STARTED]


def test_the_band_between_the_thresholds_prolongs_silence() -> None:
    assert marks([0.9] * 10 + [0.1] + [0.4] * 14) == [Mark.STARTED, Mark.EARLY, Mark.END]


def test_silence_is_counted_exactly() -> None:
    endpointer = Endpointer(OPTIONS, window_ms=32)
    for _ in range(10):
        endpointer.push(0.9)
    row = [endpointer.push(0.0) for _ in range(15)]
    assert row[14] is Mark.END
    assert Mark.END not in row[:14]


@given(st.lists(st.floats(0, 1), max_size=300))
def test_marks_come_in_order(probabilities: list[float]) -> None:
    seen = marks(probabilities)
    assert not seen or seen[0] is Mark.STARTED
    assert seen.count(Mark.STARTED) <= 1
    for before, after in itertools.pairwise(seen):
        assert after is not Mark.RESUMED or before in {Mark.EARLY, Mark.END, Mark.LAST}
        assert after is not Mark.LAST or before is Mark.END
