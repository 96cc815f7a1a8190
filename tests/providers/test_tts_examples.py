"""The shipped questions are what their README says, and are understood."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from tests.providers import voices

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.models
@pytest.mark.parametrize(("name", "language", "words"), [("question_en", "en", "What time is it?"), ("question_zh", "zh", "现在几点了？")])
def test_question(name: str, language: str, words: str) -> None:
    with wave.open(str(EXAMPLES / f"{name}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.int16)
    assert 1 < len(samples) / 16000 < 3
    assert 8000 < np.abs(samples.astype(int)).max() < 32000
    voices.require("whisper-base")
    assert voices.character_error_rate(words, voices.heard(samples, 16000, language=language)) < 0.35
