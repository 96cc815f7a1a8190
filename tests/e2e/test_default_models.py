"""Whole conversations with the default engines: heard, understood, answered aloud, and the answer understood again."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cn2an
import numpy as np
import pytest
import pytest_asyncio
import soxr
from pypinyin import lazy_pinyin

from bridge.device import Device, Impairment, Speech, State, is_message, load_speech
from bridge.device.speech import read_wav
from bridge.device.turn_record import TurnRecord
from bridge.engines import Providers
from providers.base import Message, Pcm, PcmFrame
from providers.models import ModelStore
from settings.model import SettingsTree
from tests.e2e.running import Server, running
from tests.e2e.test_tools import tools_known
from tests.providers import voices

pytestmark = [pytest.mark.models, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Stage:
    """A bridge with its default engines, warm."""

    server: Server
    engines: Providers

    def device(self, number: int, **options: Any) -> Device:
        """A device with a microphone in real time."""
        return self.server.device(number, realtime=True, warm_up_s=0.12, **options)

    async def transcript(self, samples: Pcm, rate_hz: int) -> str:
        still = np.zeros(rate_hz // 3)  # Whisper now and then leaves out a word that begins with the recording
        padded = np.concatenate((still, samples.astype(np.float64), still))
        heard = np.rint(np.clip(soxr.resample(padded, rate_hz, 16000), -32768, 32767)).astype(np.int16)

        async def audio() -> AsyncIterator[PcmFrame]:
            yield PcmFrame(heard, 16000)

        text = ""
        async with aclosing(self.engines.asr.transcribe(audio())) as transcripts:
            async for transcript in transcripts:
                text = transcript.text
        return text

    async def spoken(self, text: str) -> Speech:
        """The text as the default voice says it, as microphone packets with silence around it."""
        async with aclosing(self.engines.tts.synthesize(text)) as speech:
            pieces = [soxr.resample(piece.samples.astype(np.float64), piece.sample_rate_hz, 16000) async for piece in speech]
        still = np.zeros(4800)
        return load_speech(np.rint(np.clip(np.concatenate((still, *pieces, still)), -32768, 32767)).astype(np.int16))

    async def check_sound(self, turn: TurnRecord, *, least_overlap: float = 0.4) -> None:
        """What was heard is the text of the answer, loud enough, not clipped, without gaps."""
        assert turn.answered
        assert turn.sentences
        assert turn.counters.dropped == {}
        level = turn.heard_wav.astype(np.float64) / 32768
        assert np.sqrt((level**2).mean()) > 0.01
        assert np.abs(level).max() > 0.1
        assert (np.abs(turn.heard_wav.astype(np.int32)) >= 32767).mean() < 1e-4
        assert turn.counters.underrun_s < 1.0  # none at all but for a stall of this machine
        heard = await self.transcript(turn.heard_wav, 24000)
        assert overlap(turn.reply, heard) >= least_overlap, (turn.reply, heard)


def symbols(text: str) -> str:
    """Letters and digits: 8:32 PM and 8.32pm are the same. Chinese by its sound: homophones are the same, and so are 9 and 九."""
    if re.search(r"[\u4e00-\u9fff]", text):
        text = "".join(lazy_pinyin(cn2an.transform(text, "an2cn")))
    return "".join(character for character in unicodedata.normalize("NFKC", text).casefold() if character.isalnum())


def overlap(said: str, heard: str) -> float:
    """How much of what was said is found in what was heard, by pairs of characters."""
    first, second = symbols(said), symbols(heard)
    pairs = {first[n : n + 2] for n in range(len(first) - 1)} or {first}
    return sum(pair in second for pair in pairs) / len(pairs)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("default")


async def _serve(directory: Path, ready: asyncio.Future[Stage], stop: asyncio.Event) -> None:
    built: list[Providers] = []

    def build(settings: SettingsTree, _store: ModelStore) -> Providers:
        built.append(Providers.build(settings, voices.store()))
        return built[0]

    async with running(directory, providers=build, settings={"assistant.timezone": "UTC"}, quick=False) as server:
        engines = built[0]
        for engine in (engines.vad, engines.asr, engines.intents, engines.tts):
            await engine.warm()
        await engines.llm.warm([Message("system", "You are a test.")])
        ready.set_result(Stage(server, engines))
        await stop.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(directory: Path) -> AsyncIterator[Stage]:
    """One bridge for the module, so that models are loaded once; skipped where they are not to be had.

    A task of its own holds it, as set-up and tear-down are two tasks.
    """
    voices.require("whisper-base", "smollm2-135m-instruct", "piper-en-us-joe-medium")
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Stage] = loop.create_future()
    stop = asyncio.Event()
    serving = loop.create_task(_serve(directory, ready, stop))
    await asyncio.wait((ready, serving), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    yield await ready
    stop.set()
    await serving


async def test_check_046_english_question(stage: Stage) -> None:
    async with stage.device(1) as device:
        await device.boot()
        turn = await device.converse(EXAMPLES / "question_en.wav", timeout_s=PATIENCE_S)
        assert overlap(await stage.transcript(_wav("question_en.wav"), 16000), turn.stt) > 0.8
        await stage.check_sound(turn)
        assert device.state is State.LISTENING


async def test_check_046_chinese_question(stage: Stage) -> None:
    voices.require("kokoro-82m-int8", "kokoro-voices")
    async with stage.device(2) as device:
        await device.boot()
        turn = await device.converse(EXAMPLES / "question_zh.wav", timeout_s=PATIENCE_S)
        assert re.search(r"[\u4e00-\u9fff]", turn.stt)
        assert re.search(r"[\u4e00-\u9fff]", turn.reply)
        await stage.check_sound(turn)


async def test_check_047_manual_mode(stage: Stage) -> None:
    async with stage.device(3, mode="manual") as device:
        await device.boot()
        turn = await device.converse(EXAMPLES / "question_en.wav", timeout_s=PATIENCE_S)
        await stage.check_sound(turn)
        assert device.state is State.IDLE


async def test_check_052_abort_in_the_middle_of_a_spoken_answer(stage: Stage) -> None:
    async with stage.device(4) as device:
        await device.boot()
        await device.start_listening()
        await device.say(await stage.spoken("What can you do?"))
        await device.wait_for(is_message("tts", state="sentence_start"), PATIENCE_S, since=0)
        await asyncio.sleep(0.5)
        await device.abort()
        stop = await device.wait_for(is_message("tts", state="stop"), since=0)
        await device.wait_for_state(State.LISTENING)
        turn = await device.converse(EXAMPLES / "question_en.wav", timeout_s=PATIENCE_S)
        assert device.events.since(stop.index + 1)[0].message["type"] == "stt"
        assert turn.answered


async def test_check_073_one_in_ten_lost_both_ways(stage: Stage) -> None:
    async with stage.device(5, impairment=Impairment(loss=0.1, seed=11)) as device:
        await device.boot()
        turn = await device.converse(EXAMPLES / "question_en.wav", timeout_s=PATIENCE_S)
        assert turn.answered
        assert turn.counters.lost_packets > 0
        assert overlap(await stage.transcript(_wav("question_en.wav"), 16000), turn.stt) > 0.6


async def test_check_080_volume_by_voice(stage: Stage) -> None:
    async with stage.device(6) as device:
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        assert device.volume == 70
        turn = await device.converse(await stage.spoken("Set the volume to thirty."), timeout_s=PATIENCE_S)
        assert device.volume == 30
        assert turn.sentences == ["Volume is at 30."]
        await stage.check_sound(turn)


async def test_check_089_two_devices_with_different_questions(stage: Stage) -> None:
    english, volume = EXAMPLES / "question_en.wav", await stage.spoken("What is seven times nine?")
    async with stage.device(7) as first, stage.device(8) as second, asyncio.TaskGroup() as tasks:
        await first.boot()
        await second.boot()
        one = tasks.create_task(first.converse(english, timeout_s=PATIENCE_S))
        two = tasks.create_task(second.converse(volume, timeout_s=PATIENCE_S))
        turns = await one, await two
        assert "63" in turns[1].reply
        assert "63" not in turns[0].reply  # which is a time, so no two digits of it are 63
        for turn in turns:
            await stage.check_sound(turn)


def _wav(name: str) -> Pcm:
    return read_wav(EXAMPLES / name)
