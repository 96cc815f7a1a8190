"""Checklist G: many devices, failing engines, logs, memory."""

from __future__ import annotations

import asyncio
import gc
import io
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bridge import session
from bridge.logs import configure
from bridge.turn import TurnLimits
from providers.base import ChatEvent, Message, PcmFrame, ToolSpec, Transcript
from settings.model import Log
from tests.e2e.pitch import EchoLlm, PitchAsr, PitchTts, pitch_of
from tests.e2e.raw_device import raw_device
from tests.e2e.running import Cast, Server, running, sung
from tests.e2e.test_turns import balanced
from tests.scripted import ScriptedAsr, ScriptedLlm, ScriptedTts


# -- many ------------------------------------------------------------------------------------------------------------------
async def test_check_089_ten_devices_each_get_their_own_answer(tmp_path: Path) -> None:
    """Each sings its own pitch three times, and must read and hear that pitch and no other."""

    async def converse(server: Server, number: int) -> None:
        modes = ("auto", "realtime", "manual")
        async with server.device(number, mode=modes[number % 3]) as device:
            await device.boot()
            for turn_number in range(3):
                hz = 300 + 100 * number + 50 * (turn_number % 2)
                turn = await device.converse(sung(hz), timeout_s=60)
                assert (turn.stt, turn.sentences) == (f"pitch {hz}", [f"You sang {hz}."] * 2)
                assert pitch_of(turn.heard_wav, rate_hz=24000) == hz
                assert turn.counters.dropped == {}
            assert balanced(device)

    async with running(tmp_path, Cast(llm=EchoLlm(sentences=2))) as server, asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(converse(server, number))


async def test_check_096_two_hundred_turns_leave_nothing(tmp_path: Path) -> None:
    """Twenty devices, four turns each, three times: the last two times must not add anything."""
    asr, llm, tts = PitchAsr(), EchoLlm(), PitchTts(seconds=0.06)
    cast, settings = Cast(asr=asr, llm=llm, tts=tts), {"session.history_turns": 2}
    async with running(tmp_path, cast, settings=settings) as server:

        async def converse(number: int) -> None:
            async with raw_device(server, number) as device:
                await device.hello()
                for _ in range(4):
                    assert await device.answer(device.sing(400 + 50 * number)) == [f"You sang {400 + 50 * number}."]

        async def eighty_turns() -> tuple[int, Counter[str]]:
            async with asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(converse(number))
            await server.settled("xiaozhi_bridge_devices_connected", 0)
            for kept in (asr.utterances, llm.histories, tts.texts):
                kept.clear()
            await asyncio.sleep(0.2)
            gc.collect()
            return len(asyncio.all_tasks()), _ours()

        await eighty_turns()
        tasks_before, objects_before = await eighty_turns()
        tasks_after, objects_after = await eighty_turns()
        assert tasks_after == tasks_before
        assert sum((objects_after - objects_before).values()) < 50, objects_after - objects_before
        assert (await server.metrics())["xiaozhi_udp_channels_open"] == 20  # their sessions wait for the connection to come back


def _ours() -> Counter[str]:
    """Live objects of the bridge's own classes."""
    packages = ("bridge.", "udp_audio.", "mqtt_control.", "iot.", "providers.", "ota.")
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith(packages))


# -- engines that fail -----------------------------------------------------------------------------------------------------
STALL_S = 3600.0


@dataclass
class StallingAsr(ScriptedAsr):
    """Stalls in the first utterance."""

    async def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        self.delay_s = 0.0 if self.utterances else STALL_S
        async for transcript in super().transcribe(audio):
            yield transcript


@dataclass
class StallingLlm(ScriptedLlm):
    """Stalls in the first answer after its first sentence."""

    async def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        first = not self.histories
        async for event in super().chat(history, tools):
            yield event
            if first:
                await asyncio.sleep(STALL_S)


@dataclass
class StallingTts(ScriptedTts):
    """Stalls in its first sentence."""

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        self.delay_s = 0.0 if self.texts else STALL_S
        async for frame in super().synthesize(text):
            yield frame


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn's patience is no setting: the test would wait for 15 s and more."""
    limits = TurnLimits()
    assert max(limits.asr_s, limits.llm_s, limits.tts_s) <= 30
    monkeypatch.setattr(session, "TurnLimits", lambda **members: replace(limits, asr_s=0.4, llm_s=0.4, tts_s=0.4, **members))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
async def test_check_090_a_stalled_engine_is_told_and_the_device_stays_usable(tmp_path: Path, part: str) -> None:
    parts: dict[str, dict[str, Any]] = {
        "asr": {"asr": StallingAsr(), "llm": ScriptedLlm((("It works. ",),))},
        "llm": {"asr": ScriptedAsr(), "llm": StallingLlm((("I think. ",), ("It works. ",)))},
        "tts": {"asr": ScriptedAsr(), "llm": ScriptedLlm((("It works. ",),)), "tts": StallingTts()},
    }
    async with running(tmp_path, Cast(**parts[part])) as server, raw_device(server) as device:
        await device.hello()
        said = await device.answer(device.sing(500))
        told = said + [event.message["message"] for event in device.all("alert")]
        assert any("not working" in text or "cannot reach" in text for text in told), told
        assert await device.answer(device.sing(500)) == ["It works."]
        assert balanced(device)


async def test_check_090_engine_that_breaks_in_an_unforeseen_way(tmp_path: Path) -> None:
    """Not a ProviderError but a bug."""
    logged = io.StringIO()
    configure(Log(format="json"), stream=logged)
    cast = Cast(asr=ScriptedAsr((ZeroDivisionError("a bug"), "hello")), llm=ScriptedLlm((("It works. ",),)))
    async with running(tmp_path, cast) as server, raw_device(server) as device:
        await device.hello()
        device.sing(500)
        assert (await device.wait("alert")).message["message"]
        assert await device.answer(device.sing(500)) == ["It works."]
        assert balanced(device)


# -- logs ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transcripts", [False, True])
@pytest.mark.parametrize("style", ["json", "console"])
async def test_check_094_a_whole_conversation_leaves_no_secret_in_the_log(tmp_path: Path, transcripts: bool, style: Any) -> None:
    heard, said = "my diary says marmalade", "Rhubarb is what I answer. "
    logged = io.StringIO()
    configure(Log(level="debug", format=style, transcripts=transcripts, tracebacks=True), stream=logged)
    cast = Cast(asr=ScriptedAsr((heard, heard, RuntimeError("a bug"))), llm=ScriptedLlm(((said,),)))
    secrets: set[str] = set()
    async with running(tmp_path, cast, settings={"admin.token": "swordfish-and-trout"}) as server:
        async with server.device(1) as device:
            await device.boot()
            assert (await device.converse(sung(500))).answered
            assert device.mqtt is not None
            assert device.grant is not None
            secrets |= {device.mqtt.password, device.mqtt.username, device.grant.key.hex(), device.grant.nonce.hex()}
        async with raw_device(server, 2) as raw:
            grant = await raw.hello(features={"mcp": True})
            secrets |= {raw.mqtt["password"], raw.mqtt["username"], grant.key.hex(), grant.nonce.hex(), str(grant.key)}
            await raw.answer(raw.sing(500))
            raw.publish_bytes(b'{"type":"hello","version":3,"udp":{"key":"%s"}' % grant.key.hex().encode())
            raw.sing(500)
            await raw.wait("alert")
            raw.publish(type="listen", state="start", session_id="stale")
            await raw.wait("goodbye")
        database = sqlite3.connect(tmp_path / "data" / "devices.sqlite3")
        tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        columns = [value for table in tables for row in database.execute(f"select * from {table}") for value in row]  # noqa: S608 - its own tables
        database.close()
        blobs = [value for value in columns if isinstance(value, bytes) and len(value) >= 16]
        assert blobs
        secrets |= {blob.hex() for blob in blobs} | {str(blob) for blob in blobs} | {"swordfish-and-trout"}
    log = logged.getvalue()
    assert log.count("\n") > 20
    assert [secret for secret in secrets if secret and secret in log] == []
    assert ("marmalade" in log) == transcripts
    if not transcripts:
        assert "Rhubarb" not in log
