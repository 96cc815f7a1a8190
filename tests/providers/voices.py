"""What the tests of voices share: the models, a listener that writes down what was spoken, and measures of speech."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import tempfile
import unicodedata
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soxr

from providers.asr.whisper import Whisper
from providers.base import ModelMissing, Pcm, PcmFrame, TextToSpeech
from providers.models import ModelStore
from settings.providers import WhisperAsr


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
def _listener(language: str) -> Whisper:
    return Whisper(WhisperAsr(language=language), store=store())


def heard(samples: Pcm, rate_hz: int, *, language: str) -> str:
    """What Whisper base understands. Runs in a loop of its own, so that tests with and without one may ask."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _transcribe(samples, rate_hz, language)).result()


async def _transcribe(samples: Pcm, rate_hz: int, language: str) -> str:
    resampled = np.asarray(soxr.resample(samples, rate_hz, 16000), np.int16)

    async def audio() -> AsyncGenerator[PcmFrame, None]:
        yield PcmFrame(resampled, 16000)

    return " ".join([transcript.text async for transcript in _listener(language).transcribe(audio()) if transcript.final])


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
