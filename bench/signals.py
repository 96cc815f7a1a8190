"""Sounds to measure with."""

from __future__ import annotations

import numpy as np

from udp_audio.opus import Pcm


def voice(*, rate_hz: int, duration_s: float) -> Pcm:
    """Something that keeps a speech codec busy: a vowel-like sum of harmonics with a changing pitch and some noise."""
    at_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.5 * at_s)) / rate_hz
    harmonics = np.sum([np.sin(number * phase) / number for number in range(1, 20)], axis=0)
    noise = np.random.default_rng(0).standard_normal(len(at_s)) * 0.05
    samples: Pcm = ((harmonics + noise) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * at_s)) * 6000).astype(np.int16)
    return samples
