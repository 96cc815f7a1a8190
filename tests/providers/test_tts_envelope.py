"""Trimmed silence, no clicks, nothing of the speech lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.base import Pcm
from providers.tts.envelope import SILENCE_LEVEL, Envelope, quantize

RATE_HZ = 1000  # one sample a millisecond


def pcm(*runs: tuple[int, int]) -> Pcm:
    """Runs of (level, samples)."""
    return np.concatenate([np.full(count, level, dtype=np.int16) for level, count in runs])


def shaped(samples: Pcm, *, cuts: list[int], **options: int) -> Pcm:
    envelope = Envelope(RATE_HZ, **options)
    pieces = [envelope.feed(piece) for piece in np.split(samples, sorted(cuts))]
    return np.concatenate([*pieces, envelope.finish()])


@settings(deadline=None)  # machines pause
@given(st.lists(st.integers(0, 1600), max_size=12))
def test_long_silence_around_is_cut_and_pauses_stay(cuts: list[int]) -> None:
    out = shaped(pcm((0, 400), (5000, 300), (0, 200), (6000, 300), (0, 400)), cuts=cuts, lead_ms=30, tail_ms=100, fade_ms=1)
    assert len(out) == 30 + 300 + 200 + 300 + 100
    assert np.array_equal(out[30:830], pcm((5000, 300), (0, 200), (6000, 300)))


@settings(deadline=None)  # machines pause
@given(st.lists(st.integers(0, 1000), max_size=6))
def test_abrupt_edges_are_faded(cuts: list[int]) -> None:
    out = shaped(pcm((20000, 1000)), cuts=cuts, fade_ms=10)
    assert len(out) == 1000
    assert out[0] == 0
    assert out[-1] == 0
    assert np.all(np.diff(out[:11].astype(int)) > 0)
    assert np.all(np.diff(out[-10:].astype(int)) < 0)
    assert np.all(out[10:-10] == 20000)


@settings(deadline=None)  # machines pause
@given(st.lists(st.integers(-32768, 32767), max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_any_sound_survives_any_cutting(values: list[int], cuts: list[int]) -> None:
    samples = np.array(values, dtype=np.int16)
    whole = shaped(samples, cuts=[])
    assert np.array_equal(shaped(samples, cuts=cuts), whole)
    sounding = np.flatnonzero(np.abs(samples.astype(int)) >= SILENCE_LEVEL)
    if not len(sounding):
        assert not len(whole)
    else:
        lead = min(int(sounding[0]), 30)
        span = lead + int(sounding[-1] - sounding[0]) + 1
        assert len(whole) >= span
        if span > 8:  # between the fades
            assert np.array_equal(whole[4 : span - 4], samples[sounding[0] - lead :][4 : span - 4])


def test_silence_alone_is_nothing() -> None:
    assert not len(shaped(pcm((0, 500), (SILENCE_LEVEL - 1, 500)), cuts=[100]))


def test_one_envelope_serves_one_sentence_after_another() -> None:
    envelope = Envelope(RATE_HZ)
    first = np.concatenate([envelope.feed(pcm((0, 200), (9000, 50))), envelope.finish()])
    second = np.concatenate([envelope.feed(pcm((0, 200), (9000, 50))), envelope.finish()])
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("level", "gain", "expected"), [(0.5, 1.0, 16384), (0.5, 1.6, 26214), (0.5, 9.0, 29490), (-2.0, 1.0, -29490)])
def test_quantize_never_clips(level: float, gain: float, expected: int) -> None:
    assert quantize(np.full(8, level, dtype=np.float32), gain=gain)[0] == pytest.approx(expected, abs=1)


def test_what_is_not_a_number_is_silence() -> None:
    samples = np.array([[np.nan, np.inf, -np.inf, 0.5]], dtype=np.float32)
    assert quantize(samples).tolist() == [0, 0, 0, 16384]
    assert quantize(np.empty(0, dtype=np.float32)).tolist() == []
