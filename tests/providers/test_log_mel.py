"""The spectrogram against values of faster-whisper 1.2.1's extractor (an independent implementation)."""

from __future__ import annotations

import numpy as np
import pytest

from providers.asr.log_mel import log_mel

TIME_S = np.arange(16000) / 16000
TONES = np.round(np.sin(2 * np.pi * 440 * TIME_S) * 8000 + np.sin(2 * np.pi * 3000 * TIME_S) * 2000 * (TIME_S > 0.5)).astype(np.int16)


@pytest.mark.parametrize(
    ("mels", "expected"),
    [
        (80, {(0, 0): 0.8276, (10, 20): 1.1931, (11, 20): 1.2825, (12, 50): 1.1379, (47, 20): -0.7175, (79, 99): -0.6642}),
        (128, {(0, 0): 0.7519, (10, 20): -0.6703, (12, 50): -0.1343, (79, 99): -0.4162, (127, 49): -0.6703}),
    ],
)
def test_known_values(mels: int, expected: dict[tuple[int, int], float]) -> None:
    spectrogram = log_mel(TONES, mels=mels, frames=120)
    assert spectrogram.shape == (mels, 120)
    assert spectrogram.dtype == np.float32
    for place, value in expected.items():
        assert spectrogram[place] == pytest.approx(value, abs=2e-4)
    assert np.all(spectrogram[:, 110:] == spectrogram.min())  # filled up with silence


def test_longer_audio_is_cut() -> None:
    assert log_mel(TONES, mels=80, frames=50).shape == (80, 50)


@pytest.mark.parametrize("samples", [0, 1, 159, 161, 399])
def test_very_short_audio(samples: int) -> None:
    assert np.all(np.isfinite(log_mel(TONES[:samples], mels=80, frames=100)))
