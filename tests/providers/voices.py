"""What the tests of voices share: the models, a listener that writes down what was spoken, and measures of speech."""

from __future__ import annotations

import functools
import os
import re
import tempfile
import unicodedata
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from providers.base import ModelMissing, Pcm, TextToSpeech
from providers.models import ModelStore


@functools.cache
def store() -> ModelStore:
    """Models stay between runs (their sums are checked), as assembling them takes seconds."""
    return ModelStore(Path(os.environ.get("XZ_TEST_MODELS") or Path(tempfile.gettempdir()) / "xiaozhi-bridge-test-models"))


def require(*names: str) -> None:
    """Skip the test where the models are not to be had."""
    for name in names:
        try:
            store().resolve(name)
        except ModelMissing as error:
            pytest.skip(str(error))


async def spoken(voice: TextToSpeech, text: str) -> tuple[Pcm, int]:
    """The whole speech of ``text`` and its rate. The frames must agree on the rate and hold int16 mono."""
    pieces: list[Pcm] = []
    rates: set[int] = set()
    async with aclosing(voice.synthesize(text)) as frames:
        async for frame in frames:
            assert frame.samples.dtype == np.int16
            assert frame.samples.ndim == 1
            pieces.append(frame.samples)
            rates.add(frame.sample_rate_hz)
    assert len(rates) == 1
    return np.concatenate(pieces), rates.pop()


def assert_clean(samples: Pcm, rate_hz: int) -> None:
    """Loud enough, not clipped, begins and ends quietly, without long silence around."""
    magnitude = np.abs(samples.astype(np.int32))
    assert 8000 < magnitude.max() < 32000
    assert magnitude[0] < 300
    assert magnitude[-1] < 300
    sounding = np.flatnonzero(magnitude > 500)
    assert sounding[0] / rate_hz <= 0.12
    assert (len(samples) - sounding[-1]) / rate_hz <= 0.2


@functools.cache
def _listener() -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(store().resolve("whisper-base")), device="cpu", compute_type="int8", cpu_threads=2)


def heard(samples: Pcm, rate_hz: int, *, language: str) -> str:
    """What Whisper base understands."""
    audio = soxr.resample(samples.astype(np.float32) / 32768, rate_hz, 16000)
    prompt = "以下是普通话的句子。" if language == "zh" else None  # asks for simplified characters
    segments, _ = _listener().transcribe(audio, language=language, beam_size=1, initial_prompt=prompt)
    return " ".join(segment.text for segment in segments)


def word_error_rate(reference: str, hypothesis: str) -> float:
    return _error_rate(_words(reference), _words(hypothesis))


def character_error_rate(reference: str, hypothesis: str) -> float:
    return _error_rate(list("".join(_words(reference))), list("".join(_words(hypothesis))))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def _error_rate(reference: list[str], hypothesis: list[str]) -> float:
    """Levenshtein distance over the length of the reference."""
    row = list(range(len(hypothesis) + 1))
    for done, expected in enumerate(reference, start=1):
        steps = [done]
        for (diagonal, above), got in zip(pairwise(row), hypothesis, strict=True):
            steps.append(min(steps[-1] + 1, above + 1, diagonal + (expected != got)))
        row = steps
    return row[-1] / len(reference)
