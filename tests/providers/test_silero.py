"""Silero with its real model: exactness of batches, order, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from providers.base import ModelMissing, Pcm, ProviderUnavailable, Vad, VadStream
from providers.models import ModelStore
from providers.vad.silero import Silero
from settings.providers import SileroVad
from tests.providers.spoken import noise, say

pytestmark = pytest.mark.models


@pytest.fixture
async def vad(tmp_path: Path) -> AsyncIterator[Silero]:
    silero = Silero(SileroVad(), store=ModelStore(tmp_path, offline=True))
    yield silero
    await silero.aclose()


def one_by_one(audio: Pcm, path: Path) -> list[float]:
    """The model called by hand as its authors do: a window at a time, 64 samples of context, its own state."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    context, state = np.zeros(64, np.float32), np.zeros((2, 1, 128), np.float32)
    found = []
    for start in range(0, len(audio) - 511, 512):
        window = np.concatenate((context, audio[start : start + 512].astype(np.float32) / np.float32(32768)))
        out, state = session.run(None, {"input": window[None], "state": state, "sr": np.array(16000, np.int64)})
        found.append(float(out[0, 0]))
        context = window[-64:]
    return found


async def in_pieces(stream: VadStream, audio: Pcm, samples: int) -> list[float]:
    found: list[float] = []
    for start in range(0, len(audio), samples):
        found += await stream.feed(audio[start : start + samples])
    return found


async def test_batches_equal_the_published_model_one_by_one(vad: Silero, tmp_path: Path) -> None:
    path = ModelStore(tmp_path, offline=True).resolve("silero-vad") / "silero_vad.onnx"
    audios = [noise(1.5, level=20 * (1 + number), seed=number) for number in range(31)] + [say("Turn on the kitchen light.")]
    sizes = [320, 512, 960, 1600, 5000]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(in_pieces(vad.open(), audio, sizes[number % 5])) for number, audio in enumerate(audios)]
    assert vad.stats.batches < vad.stats.windows / 4
    # digital silence is left to another test: the joe voice begins with 6 windows of it, fewer than are skipped
    for task, audio in zip(tasks, audios, strict=True):
        assert task.result() == pytest.approx(one_by_one(audio, path)[: len(task.result())], abs=1e-5)
        assert len(task.result()) == len(audio) // 512


async def test_speech_is_told_from_noise(vad: Silero) -> None:
    speech = await vad.open().feed(say("What is the weather like tomorrow morning?"))
    hiss = await vad.open().feed(noise(2, level=300))
    assert np.mean(np.array(speech) > 0.5) > 0.6
    assert max(hiss) < 0.5


async def test_long_digital_silence_does_without_the_model(vad: Silero) -> None:
    stream = vad.open()
    await stream.feed(say("Hello there."))
    before = vad.stats.windows
    silence = await stream.feed(np.zeros(512 * 100, np.int16))
    assert len(silence) in {100, 101}  # one window was begun before
    assert max(silence[8:]) < 0.35
    assert vad.stats.windows - before <= 9
    assert vad.stats.silent_windows >= 91
    again = await stream.feed(say("Hello there."))
    assert max(again) > 0.9


async def test_remainder_waits_for_the_next_feed(vad: Silero) -> None:
    stream = vad.open()
    assert await stream.feed(np.zeros(0, np.int16)) == []
    assert await stream.feed(noise(511 / 16000, level=100)) == []
    assert len(await stream.feed(noise(1 / 16000, level=100))) == 1


async def test_reset_forgets(vad: Silero) -> None:
    stream = vad.open()
    hiss = noise(0.5, level=400)
    first = await stream.feed(hiss)
    assert await stream.feed(hiss) != first
    stream.reset()
    assert await stream.feed(hiss) == first


async def test_cancelled_feed_leaves_the_stream_usable(vad: Silero) -> None:
    await vad.warm()
    stream = vad.open()
    speech = say("Please set a timer for ten minutes.")
    for pause in (0, 0, 0.001, 0.003):
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(stream.feed(speech))
            await asyncio.sleep(pause)
            feeding.cancel()
            other = group.create_task(vad.open().feed(speech))
        assert max(other.result()) > 0.9
    stream.reset()
    fresh = await vad.open().feed(speech)
    assert await stream.feed(speech) == fresh


async def test_backlog_of_one_does_not_hold_up_another(vad: Silero) -> None:
    await vad.warm()
    order: list[str] = []

    async def listen(name: str, audio: Pcm) -> None:
        await vad.open().feed(audio)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(listen("long", noise(60, level=100)))
        await asyncio.sleep(0)
        group.create_task(listen("short", noise(0.1, level=100)))
    assert order == ["short", "long"]


async def test_missing_and_broken_models_are_provider_errors(tmp_path: Path) -> None:
    nowhere = Silero(SileroVad(), store=ModelStore(tmp_path, offline=True, table={}))
    with pytest.raises(ModelMissing):
        await nowhere.warm()
    with pytest.raises(ModelMissing):
        await nowhere.open().feed(noise(0.1, level=100))
    await nowhere.aclose()
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    broken = Silero(SileroVad(model_path=tmp_path / "broken.onnx"), store=ModelStore(tmp_path))
    with pytest.raises(ProviderUnavailable, match="silero failed"):
        await broken.warm()
    await broken.aclose()


async def test_closing_ends_what_waits(vad: Silero) -> None:
    await vad.warm()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(_failure(vad.open(), noise(5, level=100))) for _ in range(3)]
        await asyncio.sleep(0.002)
        await vad.aclose()
    assert all(isinstance(task.result(), ProviderUnavailable) for task in waiting)
    with pytest.raises(ProviderUnavailable, match="closed"):
        await vad.open().feed(noise(1, level=100))
    await vad.aclose()


async def _failure(stream: VadStream, audio: Pcm) -> Exception | None:
    try:
        await stream.feed(audio)
    except ProviderUnavailable as error:
        return error
    return None


def test_the_provider_is_a_vad(tmp_path: Path) -> None:
    vad: Vad = Silero(SileroVad(), store=ModelStore(tmp_path))
    assert vad.open().window_samples == 512
