"""Checklist C 43, 44 and G 91, 92, 93: sessions and the connection that carries them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from bridge.device import State, is_message
from bridge.scope import task_scope
from settings.model import Session
from tests.e2e.pitch import EchoLlm, PitchTts
from tests.e2e.raw_device import RawDevice, raw_device
from tests.e2e.running import Cast, running, sung
from tests.mqtt_control.half_open import needs_socket_filters, vanish

SESSIONS = "xiaozhi_bridge_sessions"
AUDIO_OPEN = "xiaozhi_udp_channels_open"


async def test_check_043_conversation_goes_on_after_a_drop_while_listening(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.device() as device:
        await device.boot()
        assert (await device.converse(sung(400))).sentences == ["You sang 400."]
        session_id = device.session_id
        device.drop_mqtt()
        await server.settled("xiaozhi_bridge_devices_connected", 0)
        await device.control.connected.wait()
        turn = await device.converse(sung(700))
        assert turn.sentences == ["You sang 700."]
        assert device.session_id == session_id
        assert device.stats.hellos == 1
        assert not [event for event in device.events if event.message["type"] == "goodbye"]


async def test_check_043_words_spoken_while_mqtt_was_away_are_answered(tmp_path: Path) -> None:
    """The microphone streams on over UDP; the answer is thought of once the connection is back, or spoken at once."""
    async with running(tmp_path) as server, server.device(reconnect_s=0.1) as device:
        await device.boot()
        await device.start_listening()
        device.drop_mqtt()
        await device.say(sung(500))
        stt = await device.wait_for(is_message("tts", state="stop"), since=0)
        assert stt.message["session_id"] == device.session_id
        assert (await device.converse(sung(600))).sentences == ["You sang 600."]


@pytest.mark.parametrize("back_after_s", [0.1, 1.5])
async def test_check_043_drop_in_the_middle_of_an_answer(tmp_path: Path, back_after_s: float) -> None:
    """Whether the connection is back before or after the answer ends, the device does not stay in `speaking`."""
    cast = Cast(tts=PitchTts(seconds=1.0))
    async with running(tmp_path, cast) as server, server.device(reconnect_s=back_after_s) as device:
        await device.boot()
        await device.start_listening()
        await device.say(sung(500))
        await device.wait_for(is_message("tts", state="sentence_start"), since=0)
        device.drop_mqtt()
        await device.wait_for_state(State.LISTENING)
        assert device.player.stats.played >= 16  # audio went on over UDP
        assert (await device.converse(sung(700))).sentences == ["You sang 700."]
        assert device.stats.hellos == 1


async def test_check_043_start_of_an_answer_that_was_missed(tmp_path: Path) -> None:
    """`tts start` was sent while nobody was connected: the device must not wait in `listening` for ever."""
    async with running(tmp_path) as server, server.device(reconnect_s=1.2) as device:
        await device.boot()
        await device.start_listening()
        saying = device.say(sung(500, 0.6))
        device.drop_mqtt()
        await saying
        await device.wait_for(is_message("goodbye", session_id=device.session_id), since=0)
        await device.wait_for_state(State.IDLE)
        assert (await device.converse(sung(700))).sentences == ["You sang 700."]


async def test_check_044_session_is_kept_for_the_grace_and_freed_afterwards(tmp_path: Path) -> None:
    assert Session().grace_s >= 30
    async with running(tmp_path, beyond={"session.grace_s": 0.6}) as server, server.device(reconnect_s=3600.0) as device:
        await device.boot()
        assert (await device.converse(sung(400))).answered
        device.drop_mqtt()
        await server.settled("xiaozhi_bridge_devices_connected", 0)
        assert (await server.metrics())[SESSIONS] == 1
        await server.settled(SESSIONS, 0)
        assert (await server.metrics())[AUDIO_OPEN] == 0
        await device.control.reconnect_now()
        await device.start_listening()  # the device still believes in the session: its first message is answered with a goodbye
        await device.wait_for(is_message("goodbye"), since=0)
        await device.wait_for_state(State.IDLE)
        assert (await device.converse(sung(700))).sentences == ["You sang 700."]
        assert device.stats.hellos == 2


async def test_check_043_take_over_of_the_connection_keeps_the_session(tmp_path: Path) -> None:
    """The device connects anew before the server has noticed that the old connection is dead."""
    async with running(tmp_path) as server, raw_device(server) as old:
        await old.hello()
        async with raw_device(server) as newest:
            newest.grant, newest.sequence = old.grant, old.sequence
            async with asyncio.timeout(10):
                await old.closed.wait()
            assert await newest.answer(newest.sing(500)) == ["You sang 500."]
            assert newest.all("goodbye") == []
            assert (await server.metrics())[SESSIONS] == 1


async def test_check_091_device_that_vanishes_mid_speech(tmp_path: Path) -> None:
    """Its connection stays open, it just never says anything again; then one whose connection ends."""
    beyond = {"session.idle_timeout_s": 0.5, "session.grace_s": 0.5}
    async with running(tmp_path, Cast(llm=EchoLlm(sentences=4)), beyond=beyond) as server:
        assert Session().idle_timeout_s + Session().grace_s < 180
        for hard in (False, True):
            async with raw_device(server) as device:
                await device.hello()
                device.sing(500)
                await device.packets_until(3)
                if hard:
                    device.drop()
                await server.settled(SESSIONS, 0)
                assert (await server.metrics())[AUDIO_OPEN] == 0


async def test_check_092_server_restart(tmp_path: Path) -> None:
    """The devices come back by themselves with their old credentials; what belongs to the old process gets a goodbye."""
    async with contextlib.AsyncExitStack() as devices:
        async with running(tmp_path) as first:
            ports = {"http.port": first.facts.http_port, "mqtt.port": first.facts.mqtt_port, "udp.port": first.facts.udp_port}
            device = await devices.enter_async_context(first.device())
            raw = await devices.enter_async_context(raw_device(first, 2))
            await device.boot()
            assert (await device.converse(sung(400))).answered
            stale = await raw.hello()
        await raw.closed.wait()
        await device.wait_for_state(State.IDLE)
        async with running(tmp_path, settings=ports) as second, task_scope() as tasks:
            await second.settled("xiaozhi_bridge_devices_connected", 1)
            assert (await device.converse(sung(700))).sentences == ["You sang 700."]
            before = raw.events.mark()
            tasks.create_task(raw.read(await raw.connect()))
            raw.publish(type="listen", state="start", mode="auto", session_id=stale.session_id)
            assert (await raw.wait("goodbye", since=before)).message["session_id"] == stale.session_id


async def test_check_093_shutdown_says_goodbye_to_all_before_it_closes(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as devices:
        async with running(tmp_path, Cast(llm=EchoLlm(sentences=10))) as server:
            raws = [await devices.enter_async_context(raw_device(server, number)) for number in range(1, 6)]
            for number, raw in enumerate(raws):
                await raw.hello()
                if number % 2:
                    raw.sing(500)
                    await raw.packets_until(1)
            told = [len(raw.all("goodbye")) for raw in raws]
            assert told == [0] * 5
        for raw in raws:
            async with asyncio.timeout(10):
                await raw.closed.wait()
            events = [event.message for event in raw.events]
            assert events[-1] == {"type": "goodbye", "session_id": raw.session.session_id}
            starts, stops = raw.all("tts", state="start"), raw.all("tts", state="stop")
            assert len(starts) == len(stops)


# -- half-open connections -------------------------------------------------------------------------------------------------
def _network_gone(device: RawDevice) -> None:
    """What the server sends over MQTT is acknowledged by nobody any more. UDP goes on."""
    assert device.writer is not None
    vanish(device.writer.get_extra_info("socket"))


def _in_place_of(newest: RawDevice, old: RawDevice) -> None:
    newest.grant, newest.sequence, newest.socket = old.grant, old.sequence, old.socket


@needs_socket_filters
@pytest.mark.parametrize("noticed", ["by the device", "by the server"])
async def test_check_043_start_of_an_answer_that_went_into_a_half_open_connection(tmp_path: Path, noticed: str) -> None:
    """Nobody has acknowledged `tts start`: the device listens still, so it is hung up when it is back."""
    timeout_s = 1.0 if noticed == "by the server" else 20.0
    async with running(tmp_path, settings={"mqtt.ack_timeout_s": timeout_s}) as server, raw_device(server) as old:
        await old.hello()
        assert await old.answer(old.sing(500)) == ["You sang 500."]
        _network_gone(old)
        before = old.events.mark()
        old.sing(600)
        await old.packets_until(len(old.packets) + 1)  # it is being answered
        if noticed == "by the server":
            await server.settled("xiaozhi_bridge_devices_connected", 0)
        async with raw_device(server) as newest:
            _in_place_of(newest, old)
            assert (await newest.wait("goodbye")).message["session_id"] == old.session.session_id
            await server.settled(SESSIONS, 0)
            assert old.all("tts", since=before) == []
            await newest.hello()
            assert await newest.answer(newest.sing(700)) == ["You sang 700."]
        assert (await server.metrics())["xiaozhi_mqtt_messages_missed"] >= 1


@needs_socket_filters
async def test_check_043_end_of_an_answer_that_went_into_a_half_open_connection(tmp_path: Path) -> None:
    """`tts start` was heard, `tts stop` not: it comes again, and the conversation goes on."""
    async with running(tmp_path, Cast(tts=PitchTts(seconds=0.6))) as server, raw_device(server) as old:
        await old.hello()
        before = old.sing(500)
        await old.wait("tts", since=before, state="sentence_start")
        _network_gone(old)
        await asyncio.sleep(2)  # the answer is over, as far as the server knows
        assert old.all("tts", since=before, state="stop") == []
        async with raw_device(server) as newest:
            _in_place_of(newest, old)
            assert (await newest.wait("tts", state="stop")).message["session_id"] == old.session.session_id
            assert await newest.answer(newest.sing(700)) == ["You sang 700."]
            assert newest.all("goodbye") == []
            assert (await server.metrics())[SESSIONS] == 1


@needs_socket_filters
async def test_check_040_goodbye_that_went_into_a_half_open_connection(tmp_path: Path) -> None:
    """The device believes in a session that is over; it is told when it is back, though it says nothing."""
    async with running(tmp_path, beyond={"session.idle_timeout_s": 0.5}) as server, raw_device(server) as old:
        await old.hello()
        _network_gone(old)
        await server.settled(SESSIONS, 0)
        async with raw_device(server) as newest:
            assert (await newest.wait("goodbye")).message["session_id"] == old.session.session_id
        async with raw_device(server) as again:
            await again.hello()
            assert [event.message["type"] for event in again.events] == ["hello"]


async def test_check_023_two_hundred_connections_of_one_device_in_a_session(tmp_path: Path) -> None:
    """Its session goes on with the last of them; nothing is left of the others."""
    limits = {"limits.device_connections_per_minute": 1000}
    async with running(tmp_path, settings=limits) as server, raw_device(server) as first, contextlib.AsyncExitStack() as stack:
        await first.hello()
        assert await first.answer(first.sing(500)) == ["You sang 500."]
        tasks = len(asyncio.all_tasks())
        for _ in range(200):
            assert first.writer is not None
            stack.callback(first.writer.close)
            await first.connect()
        async with raw_device(server) as newest:
            _in_place_of(newest, first)
            await server.settled("xiaozhi_mqtt_connections", 1)
            assert (await server.metrics())["xiaozhi_mqtt_takeovers"] >= 199
            assert await newest.answer(newest.sing(700)) == ["You sang 700."]
            assert newest.all("goodbye") == []
            metrics = await server.metrics()
            assert metrics[SESSIONS] == metrics[AUDIO_OPEN] == metrics["xiaozhi_mqtt_devices"] == 1
        assert len(asyncio.all_tasks()) <= tasks + 2
