"""The log-mel spectrogram that Whisper models take (Radford et al. 2022, §2.2), in NumPy.

25 ms Hann windows every 10 ms, power spectrum, mel filters of Slaney's Auditory Toolbox (linear below 1 kHz, logarithmic
above, each of unit area), logarithm clipped to 8 decades under the loudest, scaled to about -1..1.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from providers.base import Pcm

SAMPLE_RATE_HZ: Final = 16_000
HOP_SAMPLES: Final = 160
FRAMES_PER_S: Final = SAMPLE_RATE_HZ // HOP_SAMPLES
_FFT_SAMPLES: Final = 400
_BREAK_HZ: Final = 1000.0  # where Slaney's scale turns from linear to logarithmic
_LINEAR_HZ: Final = 200 / 3  # width of one mel below
_LOG_STEP: Final = np.log(6.4) / 27  # growth of one mel above

_Floats = NDArray[np.float32]


def log_mel(samples: Pcm, *, mels: int, frames: int) -> _Floats:
    """The spectrogram ``[mels, frames]`` of 16 kHz samples; longer audio is cut, shorter is filled with silence."""
    audio = samples[: frames * HOP_SAMPLES].astype(np.float32) / np.float32(32768)
    # the tail of silence carries the last real frames; reflection at the start is how the models were trained
    audio = np.pad(np.pad(audio, (0, _FFT_SAMPLES)), (_FFT_SAMPLES // 2, 0), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(audio, _FFT_SAMPLES)[::HOP_SAMPLES][:frames]
    power = np.abs(np.fft.rfft(windows * _hann(), axis=1)).astype(np.float32) ** 2
    decades = np.log10(np.maximum(_filters(mels) @ power.T, 1e-10))
    floor = decades.max() - 8
    spectrogram = np.full((mels, frames), floor, np.float32)
    np.maximum(decades, floor, out=spectrogram[:, : decades.shape[1]])
    return (spectrogram + np.float32(4)) / np.float32(4)


@functools.cache
def _hann() -> _Floats:
    """The periodic window: one longer, its last sample dropped."""
    return np.hanning(_FFT_SAMPLES + 1)[:-1].astype(np.float32)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    break_mel = _BREAK_HZ / _LINEAR_HZ
    return np.where(mel < break_mel, mel * _LINEAR_HZ, _BREAK_HZ * np.exp(_LOG_STEP * (mel - break_mel)))


@functools.cache
def _filters(mels: int) -> _Floats:
    """Triangles ``[mels, bins]`` whose corners are equally spaced in mel from 0 Hz to half the sample rate."""
    top_mel = _BREAK_HZ / _LINEAR_HZ + np.log(SAMPLE_RATE_HZ / 2 / _BREAK_HZ) / _LOG_STEP
    corners = _mel_to_hz(np.linspace(0, top_mel, mels + 2))
    bins = np.fft.rfftfreq(_FFT_SAMPLES, 1 / SAMPLE_RATE_HZ)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    return (np.maximum(triangles, 0) * 2 / (high - low)).astype(np.float32)
