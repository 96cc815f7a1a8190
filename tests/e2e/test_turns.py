"""Checklist D: turns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.device import Device, State, is_message
from bridge.device.codec import Decoder
from bridge.device.events import Event
from providers.base import Intent, ProviderUnavailable
from tests.e2e.pitch import EchoLlm, PitchAsr, PitchTts, pitch_of
from tests.e2e.raw_device import Packet, RawDevice, raw_device
from tests.e2e.running import Cast, running, sung, until
from tests.scripted import ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts

FRAME_S = 0.06
EMOTIONS = frozenset(
    "neutral happy laughing funny sad angry crying loving embarrassed surprised shocked thinking winking cool relaxed delicious "
    "kissy confident sleepy silly confused".split()
)
BROKEN = ProviderUnavailable("the engine is broken")


def kinds(events: Sequence[Event]) -> list[str]:
    """What the server said, in order; faces and tools left out."""
    named = [f"{event.message['type']} {event.message.get('state', '')}".strip() for event in events]
    return [name for name in named if name not in {"llm", "mcp", "hello"}]


def listens(device: Device) -> list[str]:
    return [event.message["state"] for event in device.sent if event.message["type"] == "listen"]


def balanced(device: Device | RawDevice) -> bool:
    """Every `tts start` so far has exactly one `tts stop`, in turn; a `tts stop` more is harmless only after an abort."""
    states = [event.message["state"] for event in device.events if event.message["type"] == "tts"]
    told = [state for state in states if state != "sentence_start"]
    return told == ["start", "stop"] * (len(told) // 2)


def pitch(packets: Sequence[Packet]) -> int:
    decoder = Decoder()
    return pitch_of(np.concatenate([decoder.decode(packet.opus) for packet in packets]), rate_hz=24000)


# -- modes -----------------------------------------------------------------------------------------------------------------
async def test_check_046_and_054_auto(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.device() as device:
        await device.boot()
        for number, hz in enumerate((400, 700), start=1):
            before = device.events.mark()
            turn = await device.converse(sung(hz))
            assert kinds(device.events.since(before)) == ["stt", "tts start", "tts sentence_start", "tts stop"]
            assert (turn.stt, turn.sentences) == (f"pitch {hz}", [f"You sang {hz}."])
            assert pitch_of(turn.heard_wav, rate_hz=24000) == hz
            assert device.state is State.LISTENING
            assert listens(device) == ["start"] * (number + 1)


async def test_check_047_manual_answers_only_after_stop(tmp_path: Path) -> None:
    asr = PitchAsr()
    async with running(tmp_path, Cast(asr=asr)) as server, server.device(mode="manual") as device:
        await device.boot()
        before = device.snapshot()
        await device.start_listening()
        for _ in range(2):
            await device.say(sung(400, 0.5, rest_s=0.9))  # a pause far beyond the closing silence
        assert kinds(device.events.since(before.mark)) == []
        await device.stop_listening()
        turn = await device.await_reply(before)
        assert turn.sentences == ["You sang 400."]
        assert len(asr.utterances) == 1
        assert asr.utterances[0].duration_s > 2.5
        assert device.state is State.IDLE
        assert device.channel_open
        assert listens(device) == ["start", "stop"]
        assert (await device.converse(sung(600))).sentences == ["You sang 600."]
        assert device.state is State.IDLE


async def test_check_048_realtime_needs_one_listen_start_and_can_be_interrupted(tmp_path: Path) -> None:
    llm = EchoLlm()
    async with running(tmp_path, Cast(llm=llm)) as server, server.device(mode="realtime", realtime=True) as device:
        await device.boot()
        for hz in (400, 700):
            assert (await device.converse(sung(hz))).sentences == [f"You sang {hz}."]
        llm.sentences = 30
        before = device.snapshot()
        await device.say(sung(500))
        await device.wait_for(is_message("tts", state="sentence_start"), since=before.mark)
        llm.sentences = 1
        interruption = device.snapshot()
        said = await device.say(sung(900, 1.2))
        stop = await device.wait_for(is_message("tts", state="stop"), since=interruption.mark)
        assert stop.at_s < said.finished_s + 1.0  # not after nine seconds of answer
        answer = await device.wait_for(is_message("tts", state="start"), since=stop.index)
        await device.wait_for(is_message("tts", state="stop"), since=answer.index)
        stt = [event.message["text"] for event in device.events if event.message["type"] == "stt"]
        assert stt == ["pitch 400", "pitch 700", "pitch 500", "pitch 900"]
        assert [e.message["text"] for e in device.events.since(answer.index) if e.message.get("state") == "sentence_start"] == [
            "You sang 900."
        ]
        assert listens(device) == ["start"]
        assert balanced(device)


async def test_check_048_barge_in_can_be_switched_off(tmp_path: Path) -> None:
    cast = Cast(llm=EchoLlm(sentences=5))
    async with (
        running(tmp_path, cast, settings={"session.barge_in": False}) as server,
        server.device(mode="realtime", realtime=True) as device,
    ):
        await device.boot()
        await device.start_listening()
        await device.say(sung(500))
        start = await device.wait_for(is_message("tts", state="sentence_start"), since=0)
        await device.say(sung(900, 0.8))
        await device.wait_for(is_message("tts", state="stop"), since=start.index)
        assert kinds(device.events.since(start.index)).count("tts sentence_start") == 5


# -- the wake word ---------------------------------------------------------------------------------------------------------
async def test_check_049_wake_word_audio_is_no_request(tmp_path: Path) -> None:
    asr = PitchAsr()
    async with running(tmp_path, Cast(asr=asr)) as server, raw_device(server) as device:
        await device.hello()
        device.transmit(sung(900, 1.0).frames)
        await asyncio.sleep(0.1)
        device.listen("detect", text="hello")
        assert await device.answer(device.sing(500)) == ["You sang 500."]
        assert [pitch_of(heard.samples, rate_hz=16000) for heard in asr.utterances] == [500]
        assert [event.message["text"] for event in device.all("stt")] == ["pitch 500"]


async def test_check_049_wake_word_that_is_heard_again_is_not_answered(tmp_path: Path) -> None:
    """UDP and MQTT are unordered: the wake word's audio may come last."""
    asr = ScriptedAsr(("Hello, XiaoZhi!", "Hello XiaoZhi, what is new?"))
    async with running(tmp_path, Cast(asr=asr, llm=ScriptedLlm((("Nothing. ",),)))) as server, raw_device(server) as device:
        await device.hello()
        device.listen("detect", text="Hello XiaoZhi")
        device.sing(900)
        await until(lambda: asr.utterances)
        assert await device.answer(device.sing(500)) == ["Nothing."]
        assert [event.message["text"] for event in device.all("stt")] == ["what is new?"]
        assert len(device.all("tts", state="start")) == 1


async def test_check_049_greeting_is_spoken_once(tmp_path: Path) -> None:
    asr = PitchAsr()
    async with running(tmp_path, Cast(asr=asr), settings={"session.greeting": "Hi 300"}) as server, server.device() as device:
        await device.boot()
        before = device.snapshot()
        await device.wake_word("hello")
        turn = await device.await_reply(before)
        assert turn.sentences == ["Hi 300"]
        assert pitch_of(turn.heard_wav, rate_hz=24000) == 300
        assert listens(device) == ["detect", "start", "start"]
        assert (await device.converse(sung(500))).sentences == ["You sang 500."]
        assert len(asr.utterances) == 1
        assert balanced(device)


async def test_check_050_audio_before_listen_start_is_not_lost(tmp_path: Path) -> None:
    asr = PitchAsr()
    early, rest = sung(500, 0.48), sung(500, 0.0, rest_s=0.6)
    async with running(tmp_path, Cast(asr=asr)) as server, raw_device(server) as device:
        await device.hello()
        before = device.events.mark()
        device.transmit(early.frames)
        await asyncio.sleep(0.1)
        device.listen()
        device.transmit(rest.frames)
        assert await device.answer(before) == ["You sang 500."]
        loud = np.abs(asr.utterances[0].samples.astype(np.int32)) > 1000
        assert loud.sum() / 16000 > 0.48 * 0.8  # most samples of a sine of 8000 are over 1000


async def test_check_051_out_of_place_messages_do_no_harm(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        await device.hello()
        device.listen("stop")
        device.abort()
        device.listen()
        device.transmit(sung(900).frames)
        device.listen()  # the wake word again: what was said before is forgotten
        assert await device.answer(device.sing(500)) == ["You sang 500."]
        device.listen("stop")
        device.abort(reason="wake_word_detected")
        device.publish(type="listen", session_id="", state="start", mode="nonsense")
        device.abort()
        assert await device.answer(device.sing(600)) == ["You sang 600."]
        assert device.all("goodbye") == []
        assert device.all("alert") == []


# -- abort -----------------------------------------------------------------------------------------------------------------
async def test_check_052_abort_stops_at_once(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    delays, stragglers = [], []
    async with running(tmp_path, Cast(llm=EchoLlm(sentences=30))) as server, raw_device(server) as device:
        await device.hello()
        for _ in range(3):
            before = device.sing(500)
            first = len(device.socket.datagrams)
            await device.packets_until(first + 8)
            aborted, sent = loop.time(), len(device.socket.datagrams)
            device.abort()
            stop = await device.wait("tts", since=before, state="stop")
            delays.append(stop.at_s - aborted)
            await asyncio.sleep(0.3)
            stragglers.append(len(device.socket.datagrams) - sent)
        assert min(delays) < 0.3  # the machine may be busy once, not three times
        assert max(stragglers) <= 2
        assert balanced(device)


@pytest.mark.parametrize("reason", [None, "wake_word_detected"])
async def test_check_052_and_053_nothing_of_the_old_answer_is_left(tmp_path: Path, reason: str | None) -> None:
    llm = EchoLlm(sentences=30)
    async with running(tmp_path, Cast(llm=llm)) as server, server.device() as device:
        await device.boot()
        await device.start_listening()
        await device.say(sung(500))
        await device.wait_for(is_message("tts", state="sentence_start"), since=0)
        await asyncio.sleep(0.3)
        llm.sentences = 2
        await device.abort(reason)
        stop = await device.wait_for(is_message("tts", state="stop"), since=0)
        await device.wait_for_state(State.LISTENING)
        await until(lambda: device.player.drained)  # the firmware plays what it has, four frames at most
        turn = await device.converse(sung(900))
        assert turn.sentences == ["You sang 900."] * 2
        assert kinds(device.events.since(stop.index + 1)) == ["stt", "tts start", "tts sentence_start", "tts sentence_start", "tts stop"]
        assert pitch_of(turn.heard_wav, rate_hz=24000) == 900
        assert 0.48 <= len(turn.heard_wav) / 24000 <= 0.48 + FRAME_S
        assert balanced(device)
        model_saw = " ".join(message.content for message in llm.histories[-1])
        assert "[interrupted]" in model_saw
        assert model_saw.count("You sang 500.") < 30


async def test_check_053_abort_while_thinking(tmp_path: Path) -> None:
    asr = PitchAsr(delay_s=0.5)
    async with running(tmp_path, Cast(asr=asr)) as server, raw_device(server) as device:
        await device.hello()
        before = device.sing(500)
        await until(lambda: asr.utterances)
        device.abort()
        await device.wait("tts", since=before, state="stop")
        assert await device.answer(device.sing(900)) == ["You sang 900."]
        assert [event.message["text"] for event in device.all("stt")] == ["pitch 900"]


# -- failures, silence -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["asr", "llm", "llm in the middle", "tts"])
async def test_check_054_and_090_one_stop_for_every_start_whatever_fails(tmp_path: Path, part: str) -> None:
    casts: dict[str, dict[str, Any]] = {
        "asr": {"asr": ScriptedAsr((BROKEN, "hello"))},
        "llm": {"asr": ScriptedAsr(), "llm": ScriptedLlm(((BROKEN,), ("It works. ",)))},
        "llm in the middle": {"asr": ScriptedAsr(), "llm": ScriptedLlm((("I will. ", BROKEN), ("It works. ",)))},
        "tts": {"asr": ScriptedAsr(), "tts": ScriptedTts(error=BROKEN)},
    }
    cast = Cast(**({"llm": ScriptedLlm((("It works. ",),))} | casts[part]))
    async with running(tmp_path, cast) as server, raw_device(server) as device:
        await device.hello()
        said = await device.answer(device.sing(500))
        apologies = said + [event.message["message"] for event in device.all("alert")]
        assert any("not working" in text or "cannot reach" in text for text in apologies), apologies
        if isinstance(cast.tts, ScriptedTts):
            cast.tts.error = None
        assert await device.answer(device.sing(500)) == ["It works."]
        assert balanced(device)


async def test_check_055_nothing_heard_nothing_said(tmp_path: Path) -> None:
    asr = ScriptedAsr(("", " ... ", "hello"))
    async with running(tmp_path, Cast(asr=asr, llm=ScriptedLlm((("Hi. ",),)))) as server, server.device() as device:
        await device.boot()
        await device.start_listening()
        await device.say(sung(500, 0.06))  # a click: nobody is bothered with it
        for _ in range(2):
            await device.say(sung(500, 0.5, rest_s=0.6))
        assert kinds(list(device.events)) == []
        assert device.state is State.LISTENING
        assert (await device.converse(sung(500))).sentences == ["Hi."]
        assert len(asr.utterances) == 3
        assert listens(device) == ["start", "start"]


async def test_check_055_silent_push_to_talk(tmp_path: Path) -> None:
    """Released without a word: no answer, and the next press works."""
    asr = PitchAsr()
    async with running(tmp_path, Cast(asr=asr)) as server, server.device(mode="manual") as device:
        await device.boot()
        await device.start_listening()
        await device.say(sung(500, 0.0, rest_s=0.3))
        await device.stop_listening()
        await asyncio.sleep(0.4)
        assert kinds(list(device.events)) == []
        assert asr.utterances == []
        assert (await device.converse(sung(500))).sentences == ["You sang 500."]


# -- timing of one answer --------------------------------------------------------------------------------------------------
async def test_check_056_057_and_058_start_text_audio_and_stop(tmp_path: Path) -> None:
    """Bounds are wide where only a busy machine moves them; exact ones are those of the virtual clock in tests/bridge."""
    texts = ["One 400.", "Two 600.", "Three 800."]
    llm = ScriptedLlm(([f"{text} " for text in texts],))
    async with running(tmp_path, Cast(llm=llm, tts=PitchTts(seconds=0.6))) as server, raw_device(server) as device:
        await device.hello()
        assert await device.answer(device.sing(500)) == texts
        packets = device.packets
        start, stop = device.all("tts", state="start")[0], device.all("tts", state="stop")[0]
        assert packets[0].at_s - start.at_s > 0.08
        assert len(packets) == 30
        assert stop.at_s > packets[-1].at_s
        playback_end_s = packets[0].at_s + len(packets) * FRAME_S
        assert -FRAME_S < stop.at_s - playback_end_s < 1.0
        for number, sentence in enumerate(device.all("tts", state="sentence_start")):
            own = packets[number * 10 : number * 10 + 10]
            assert abs(sentence.at_s - own[0].at_s) < 0.3
            assert pitch(own[1:-1]) == (400, 600, 800)[number]


async def test_check_059_emotions_are_those_of_the_display(tmp_path: Path) -> None:
    llm = ScriptedLlm((("😂 That is funny. ", "[sad] Oh no. ", "[bogus] Well. ", "🦄 Fine. ", "[sleepy] Good night. "),))
    async with running(tmp_path, Cast(llm=llm)) as server, raw_device(server) as device:
        await device.hello()
        await device.answer(device.sing(500))
        shown = [event.message["emotion"] for event in device.all("llm")]
        assert set(shown) <= EMOTIONS
        assert {"sad", "sleepy"} <= set(shown)
        assert len(shown) >= 3
        assert all(first != second for first, second in pairwise(shown))
        spoken = " ".join(event.message["text"] for event in device.all("tts", state="sentence_start"))
        assert not set("😂🦄") & set(spoken)
        assert "[s" not in spoken


async def test_check_060_goodbye_comes_after_the_last_word(tmp_path: Path) -> None:
    intents = ScriptedIntents(lambda _text: Intent("Goodbye", {}, "en"))
    async with running(tmp_path, Cast(intents=intents, tts=PitchTts(seconds=1.0))) as server, server.device() as device:
        await device.boot()
        turn = await device.converse(sung(500))
        goodbye = await device.wait_for(is_message("goodbye"), since=0)
        assert goodbye.message["session_id"] == device.session_id
        await device.wait_for_state(State.IDLE)
        assert not device.channel_open
        assert turn.counters.dropped == {}
        assert len(turn.heard_wav) >= 24000
        assert turn.stamps.playback_end is not None
        assert goodbye.at_s > turn.stamps.playback_end - FRAME_S
        await server.settled("xiaozhi_bridge_sessions", 0)
        assert (await device.converse(sung(500))).answered  # the next wake word opens a new session
