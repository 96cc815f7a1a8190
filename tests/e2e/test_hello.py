"""Checklist C: hello and session."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.device import State, is_message
from providers.base import Message
from tests.e2e.pitch import EchoLlm, pitch_of
from tests.e2e.raw_device import raw_device
from tests.e2e.running import Cast, running, sung, until
from udp_audio.opus import packet_duration_ms

AUDIO_OPEN = "xiaozhi_udp_channels_open"
SESSIONS = "xiaozhi_bridge_sessions"


class NeverWarmLlm(EchoLlm):
    """A model whose loading does not end."""

    async def warm(self, prefix: Sequence[Message] = ()) -> None:
        await asyncio.Event().wait()


async def test_check_031_reply_comes_within_a_second_without_tools_and_models(tmp_path: Path) -> None:
    """A device that never answers MCP, a language model that never gets loaded."""
    loop = asyncio.get_running_loop()
    async with running(tmp_path, Cast(llm=NeverWarmLlm())) as server, raw_device(server) as device:
        before = loop.time()
        await device.hello(features={"mcp": True})
        assert loop.time() - before < 1.0
        hello = device.all("hello")[0]
        request = await device.wait("mcp")
        assert request.index > hello.index
        before_answer = device.sing(600)
        assert await device.answer(before_answer) == ["You sang 600."]


async def test_check_032_and_033_mandatory_members_and_fresh_secrets(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        grants = [await device.hello() for _ in range(20)]
        for grant in grants:
            message = grant.message
            assert message["type"] == "hello"
            assert message["transport"] == "udp"
            assert isinstance(message["udp"]["port"], int)
            assert isinstance(message["udp"]["server"], str)
            assert len(message["udp"]["key"]) == len(message["udp"]["nonce"]) == 32
            assert len(grant.session_id) >= 22  # 128 bits, in base64 at the tightest
            assert grant.nonce[:4] == bytes.fromhex("01000000")
            assert grant.nonce[8:] == bytes(8)
            assert grant.nonce[4:8] != bytes(4)
        for secrets in ({g.session_id for g in grants}, {g.key for g in grants}, {g.nonce for g in grants}):
            assert len(secrets) == len(grants)


async def test_check_034_downlink_comes_from_the_address_in_hello(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        await device.hello()
        await device.answer(device.sing(500))
        assert device.packets
        assert {packet.source for packet in device.packets} == {device.session.server}


@pytest.mark.parametrize(("rate_hz", "frame_ms"), [(24000, 60), (16000, 20), (48000, 40), (8000, 60)])
async def test_check_035_and_064_audio_params_are_told_and_kept(tmp_path: Path, rate_hz: int, frame_ms: int) -> None:
    """The simulated device decodes every packet to its announced length, and drops what is longer."""
    settings = {"audio.sample_rate_hz": rate_hz, "audio.frame_ms": frame_ms}
    async with running(tmp_path, settings=settings) as server, server.device() as device:
        await device.boot()
        turn = await device.converse(sung(500))
        assert device.grant is not None
        assert (device.grant.audio.sample_rate_hz, device.grant.audio.frame_ms) == (rate_hz, frame_ms)
        assert turn.counters.dropped == {}
        assert len(turn.heard_wav) == turn.counters.played_packets * frame_ms * 24
        assert pitch_of(turn.heard_wav, rate_hz=24000) == 500


@pytest.mark.parametrize(("announced", "configured", "told"), [(20, 60, 20), (40, 60, 40), (60, 60, 60), (60, 20, 20), (30, 60, 60)])
async def test_check_035_and_064_answers_have_no_longer_frames_than_the_client(
    tmp_path: Path, announced: int, configured: int, told: int
) -> None:
    """py-xiaozhi does not read the reply's parameters: it decodes each packet into one frame of the length that it announced."""
    async with running(tmp_path, settings={"audio.frame_ms": configured}) as server, raw_device(server) as device:
        await device.hello(audio_params={"frame_duration": announced})
        assert device.all("hello")[-1].message["audio_params"]["frame_duration"] == told
        sent_ms = announced if announced in {20, 40, 60} else 60
        before = device.sing(speech=sung(450, rest_s=0.6, frame_ms=sent_ms))
        assert await device.answer(before) == ["You sang 450."]
        assert {packet_duration_ms(packet.opus) for packet in device.packets} == {told}


async def test_check_036_second_hello_replaces_the_session(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        old = await device.hello()
        stale = [device.sealed(frame, sequence=n + 1) for n, frame in enumerate(sung(900, rest_s=0.6).frames)]
        new = await device.hello()
        before = device.sing(500)
        for datagram in stale:
            device.socket.send(datagram, old.server)
        assert await device.answer(before) == ["You sang 500."]
        assert {event.message["session_id"] for event in device.all("tts")} == {new.session_id}
        metrics = await server.metrics()
        assert metrics["xiaozhi_udp_unknown_ssrc"] == len(stale)
        assert metrics[AUDIO_OPEN] == metrics[SESSIONS] == 1
        assert device.all("goodbye") == []


@pytest.mark.parametrize("frame_ms", [20, 40, 60])
async def test_check_037_hello_of_every_shape(tmp_path: Path, frame_ms: int) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        await device.hello(audio_params={"frame_duration": frame_ms}, text_font={"bundle": 7}, future={"deep": [1, {"x": None}]})
        before = device.sing(speech=sung(450, rest_s=0.6, frame_ms=frame_ms))
        assert await device.answer(before) == ["You sang 450."]


async def test_check_038_wrong_transport_or_version_opens_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        wrong: list[dict[str, Any]] = [{"transport": "websocket"}, {"version": 1}, {"transport": None}, {"version": "three"}]
        for members in wrong:
            device.publish(**({"type": "hello", "version": 3, "transport": "udp"} | members))
        await device.hello()
        # None is an absent member, which means the default: that one is good
        assert len(device.all("hello")) == 1 + sum(None in members.values() for members in wrong)
        assert (await server.metrics())[SESSIONS] == 1


async def test_check_039_goodbye_frees_the_session_and_is_not_echoed(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        grant = await device.hello()
        device.publish(type="goodbye", session_id=grant.session_id)
        await server.settled(SESSIONS, 0)
        assert (await server.metrics())[AUDIO_OPEN] == 0
        device.transmit(sung(500).frames)
        await device.hello()  # a round trip: whatever was to come has come
        assert device.all("goodbye") == []
        assert (await server.metrics())["xiaozhi_udp_unknown_ssrc"] == len(sung(500).frames)


async def test_check_039_goodbye_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    llm = EchoLlm(sentences=20)
    async with running(tmp_path, Cast(llm=llm)) as server, server.device() as device:
        await device.boot()
        await device.start_listening()
        await device.say(sung(500))
        await device.wait_for(is_message("tts", state="sentence_start"), since=0)
        llm.sentences = 1
        await device.goodbye()
        await server.settled(SESSIONS, 0)
        assert (await server.metrics())[AUDIO_OPEN] == 0
        assert not [event for event in device.events if event.message["type"] == "goodbye"]
        turn = await device.converse(sung(700))
        assert turn.sentences == ["You sang 700."]


async def test_check_040_silence_ends_in_a_goodbye_with_the_right_id(tmp_path: Path) -> None:
    async with running(tmp_path, beyond={"session.idle_timeout_s": 0.4}) as server, server.device() as device:
        assert 60 <= type(server.loaded.tree.session)().idle_timeout_s <= 120
        await device.boot()
        turn = await device.converse(sung(500))
        assert turn.answered
        session_id = device.session_id
        goodbye = await device.wait_for(is_message("goodbye"), since=0)
        assert goodbye.message["session_id"] == session_id
        await device.wait_for_state(State.IDLE)
        assert not device.channel_open
        assert device.stats.goodbyes_ignored == 0
        await server.settled(SESSIONS, 0)


async def test_check_041_stale_session_gets_a_goodbye_with_its_own_id(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        device.publish(type="listen", state="start", mode="auto", session_id="of yesterday")
        assert (await device.wait("goodbye")).message["session_id"] == "of yesterday"
        grant = await device.hello()
        before = device.events.mark()
        device.publish(type="abort", session_id="of last week")
        assert (await device.wait("goodbye", since=before)).message["session_id"] == "of last week"
        assert await device.answer(device.sing(500)) == ["You sang 500."]
        assert {event.message["session_id"] for event in device.all("tts")} == {grant.session_id}


async def test_check_042_messages_before_hello(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        device.publish(type="mcp", session_id="", payload={"jsonrpc": "2.0", "id": 1, "result": {}})
        device.publish(type="mcp", session_id="", payload={"jsonrpc": "2.0", "method": "notifications/x"})
        device.publish(type="iot", session_id="", update=True, states=[])
        device.publish(type="goodbye", session_id="")
        await device.hello()
        assert [event.message["type"] for event in device.events] == ["hello"]


async def test_check_045_a_thousand_hellos_leave_one_session(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"limits.exempt": "127.0.0.0/8"}) as server, raw_device(server) as device:
        await device.hello(features={"mcp": True})
        await asyncio.sleep(0.1)
        tasks = len(asyncio.all_tasks())
        for _ in range(1000):
            await device.hello(features={"mcp": True})
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        metrics = await server.metrics()
        assert metrics["xiaozhi_udp_channels_opened"] == 1001
        assert metrics[AUDIO_OPEN] == metrics[SESSIONS] == 1
        assert await device.answer(device.sing(550)) == ["You sang 550."]
