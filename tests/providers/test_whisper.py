"""Whisper with its real model on synthetic speech and on noise."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from providers.asr.chinese_script import to_script
from providers.asr.phantoms import is_phantom
from providers.asr.whisper import Whisper, _Decoded, believable, pieces
from providers.base import ModelMissing, Pcm, PcmFrame, ProviderRejected, ProviderUnavailable, SpeechToText, Transcript
from providers.models import ModelStore
from settings.providers import WhisperAsr
from tests.providers.spoken import noise, say

PHRASES = [
    "Turn on the kitchen light.",
    "What is the weather like tomorrow morning?",
    "How many ounces are in a pound?",
    "Play some quiet music in the living room.",
    "Tell me a story about a dragon who was afraid of fire.",
    "Make it warmer.",
    "No, thank you.",
]
LONG = [
    *PHRASES,
    "I would like to know whether the museum of natural history is open on Sundays.",
    "The train to the city leaves from the third platform in twenty minutes.",
    "Please remind my brother that the dog has to see the doctor on Friday.",
    "A recipe for four people needs two onions, a pound of tomatoes and some fresh bread.",
    "The sun rises in the east and sets in the west.",
    "My grandmother planted those apple trees long before the war.",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"), offline=True)


@pytest.fixture
async def asr(store: ModelStore) -> AsyncIterator[Whisper]:
    whisper = Whisper(WhisperAsr(), store=store)
    yield whisper
    await whisper.aclose()


async def frames(samples: Pcm) -> AsyncIterator[PcmFrame]:
    for start in range(0, len(samples), 960):
        yield PcmFrame(samples[start : start + 960], 16000)


async def heard(asr: SpeechToText, samples: Pcm) -> Transcript:
    async with contextlib.aclosing(asr.transcribe(frames(samples))) as stream:
        (transcript,) = [item async for item in stream]
    assert transcript.final
    return transcript


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def word_errors(said: list[str], found: list[str]) -> int:
    """Edit distance in words."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(said, 1):
        last, row[0] = row[0], number
        for place, other in enumerate(found, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (word != other))
    return row[-1]


@pytest.mark.models
async def test_english_phrases(asr: Whisper) -> None:
    errors = total = 0
    for phrase in PHRASES:
        transcript = await heard(asr, say(phrase))
        assert transcript.language == "en"
        errors += word_errors(words(phrase), words(transcript.text))
        total += len(words(phrase))
    assert errors / total <= 0.1


@pytest.mark.models
@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.int16),
        np.zeros(32000, np.int16),
        noise(0.05, level=3000),
        noise(2, level=100),
        noise(3, level=1000),
        noise(1, level=5000),
        (np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000) * 8000).astype(np.int16),
        (np.sin(2 * np.pi * 50 * np.arange(48000) / 16000) * 3000).astype(np.int16),
    ],
    ids=["nothing", "silence", "click", "hiss", "noise", "loud noise", "beep", "hum"],
)
async def test_what_is_no_speech_has_no_text(asr: Whisper, samples: Pcm) -> None:
    assert (await heard(asr, samples)).text == ""
    assert asr.stats.empty == 1


@pytest.mark.models
@pytest.mark.slow
async def test_long_speech_is_heard_whole(asr: Whisper) -> None:
    for sentences in (LONG[5:11], LONG):  # one window, two windows
        samples = np.concatenate([say(sentence) for sentence in sentences])
        found = words((await heard(asr, samples)).text)
        said = words(" ".join(sentences))
        assert word_errors(said, found) <= len(said) * 0.15, (len(samples) / 16000, found)


def test_loops_are_known_by_repetition_and_haste() -> None:
    assert _Decoded("no " * 60, 120, 2.0, "en", -0.1, 0.0).loops
    assert not _Decoded("turn on the light. " * 9, 45, 12.0, "en", -0.1, 0.0).loops
    assert not _Decoded("打开客厅的灯，把空调调到二十六度，然后播放音乐。", 40, 4.0, "zh", -0.1, 0.0).loops


@pytest.mark.models
async def test_language_of_the_settings_is_obeyed_and_a_wrong_one_is_named(store: ModelStore) -> None:
    german = Whisper(WhisperAsr(language="de-DE"), store=store)
    assert (await heard(german, say("What time is it?"))).language == "de"
    await german.aclose()
    wrong = Whisper(WhisperAsr(language="klingon"), store=store)
    with pytest.raises(ProviderRejected, match="klingon"):
        await heard(wrong, say("What time is it?"))
    await wrong.aclose()


@pytest.mark.models
async def test_cancelled_transcription_leaves_the_engine_usable(asr: Whisper) -> None:
    await asr.warm()
    for pause in (0, 0.01, 0.05):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(heard(asr, say("Turn on the kitchen light.")))
            await asyncio.sleep(pause)
            task.cancel()
    assert words((await heard(asr, say("Make it warmer."))).text) == ["make", "it", "warmer"]


@pytest.mark.models
async def test_parallel_utterances_do_not_mix(asr: Whisper) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(heard(asr, say(phrase))) for phrase in PHRASES[:4]]
    for task, phrase in zip(tasks, PHRASES, strict=False):
        assert word_errors(words(phrase), words(task.result().text)) <= 1


@pytest.mark.models
async def test_closed_is_closed(asr: Whisper) -> None:
    await asr.aclose()
    with pytest.raises(ProviderUnavailable, match="closed"):
        await heard(asr, say("Make it warmer."))


async def test_missing_and_broken_models_are_provider_errors(tmp_path: Path) -> None:
    missing = Whisper(WhisperAsr(model="whisper-huge"), store=ModelStore(tmp_path, offline=True))
    with pytest.raises(ModelMissing, match="whisper-huge"):
        await missing.warm()
    await missing.aclose()
    broken = Whisper(WhisperAsr(model=str(tmp_path)), store=ModelStore(tmp_path))
    with pytest.raises(ProviderUnavailable, match="whisper failed"):
        await broken.warm()
    await broken.aclose()


async def test_other_sample_rates_are_a_mistake_of_the_caller(asr: Whisper) -> None:
    async def wrong() -> AsyncIterator[PcmFrame]:
        yield PcmFrame(noise(0.1, level=100), 24000)

    with pytest.raises(ValueError, match="16 kHz"):
        await anext(asr.transcribe(wrong()))


@pytest.mark.parametrize("seconds", [0, 1, 29, 29.5, 31, 70, 125])
def test_pieces_fit_the_window_and_lose_nothing(seconds: float) -> None:
    samples = noise(seconds, level=500)
    found = pieces(samples)
    assert np.array_equal(np.concatenate(found), samples)
    assert all(len(piece) <= 29 * 16000 for piece in found)


def test_long_audio_is_cut_in_the_pause() -> None:
    samples = noise(40, level=2000)
    samples[27 * 16000 : 27 * 16000 + 4800] = 0
    assert 27 * 16000 <= len(pieces(samples)[0]) <= 27 * 16000 + 4800


@pytest.mark.parametrize(
    ("text", "facts", "expected"),
    [
        ("Stop!", (-1.86, 0.10), True),  # measured: a word at 15 dB signal to noise
        ("Thank you.", (-0.25, 0.03), True),
        ("谢谢", (-0.90, 0.00), True),
        ("Thank you.", (-0.50, 0.30), False),
        ("you", (-3.05, 0.86), False),  # hum
        ("I'm going to go to the bathroom.", (-1.80, 0.78), False),  # hiss
        ("You", (-2.89, 0.60), False),  # breath
        ("Thanks for watching!", (-0.10, 0.01), False),
        ("...", (-0.10, 0.01), False),
    ],
)
def test_what_is_believed(text: str, facts: tuple[float, float], expected: Any) -> None:
    assert believable(text, *facts) is expected


def test_phantoms() -> None:
    assert is_phantom("Thank you!", weak=True)
    assert not is_phantom("Thank you!", weak=False)
    assert not is_phantom("Thank you for the music.", weak=True)
    assert is_phantom("字幕由 Amara.org 社区提供", weak=False)


def test_chinese_script() -> None:
    pytest.importorskip("opencc")
    assert to_script("打開客廳的燈", "simplified") == "打开客厅的灯"
    assert to_script("打开客厅的灯 please", "traditional") == "打開客廳的燈 please"
    assert to_script("打開", "as-is") == "打開"
