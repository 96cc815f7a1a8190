"""The WebSocket transport with the real server and devices over loopback; only the engines are scripted (device protocol §13)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bridge.app import bridge
from bridge.banner import Facts
from bridge.device import Device, DeviceOptions, State, is_message
from bridge.device.errors import OtaError, WebSocketError
from bridge.device.ota_client import Hardware
from bridge.device.websocket_link import WebSocketLink
from bridge.engines import Providers
from bridge.errors import OperatorError
from providers.base import Intent, ToolCall
from settings.load import load
from tests.scripted import EnergyVad, ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts, silence, tone

ADMIN = "admin-token-of-the-test"
QUESTION = np.concatenate((silence(0.2), tone(0.8), silence(0.2)))
HELLO = {
    "type": "hello",
    "version": 3,
    "transport": "websocket",
    "features": {"mcp": True},
    "audio_params": {"format": "opus", "sample_rate": 16000, "channels": 1, "frame_duration": 60},
}


@dataclass
class Server:
    facts: Facts
    asr: ScriptedAsr
    llm: ScriptedLlm

    def options(self, **members: Any) -> DeviceOptions:
        facts: dict[str, Any] = {"ota_url": self.facts.ota_url, "transport": "websocket", "warm_up_s": 0.02}
        return DeviceOptions(**facts | members)

    async def metric(self, name: str) -> float:
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"http://127.0.0.1:{self.facts.http_port}/metrics")).text
        found = re.search(rf"^xiaozhi_{name}(?:_total)? (\S+)$", text, re.MULTILINE)
        assert found, name
        return float(found[1])

    async def until(self, name: str, value: float) -> None:
        async with asyncio.timeout(20):
            while await self.metric(name) != value:
                await asyncio.sleep(0.05)

    async def ota(self, device_id: str = "02:00:00:00:00:01", client_id: str = "") -> dict[str, Any]:
        hardware = Hardware.of(device_id, client_id)
        async with httpx.AsyncClient(trust_env=False) as http:
            headers = {"Device-Id": hardware.device_id, "Client-Id": hardware.client_id}
            answer: dict[str, Any] = (await http.post(self.facts.ota_url, headers=headers, json={})).json()
        return answer

    async def headers(self, device_id: str = "02:00:00:00:00:01", *, version: int = 3) -> dict[str, str]:
        token = (await self.ota(device_id))["websocket"]["token"]
        client_id = Hardware.of(device_id).client_id
        return {"Authorization": f"Bearer {token}", "Device-Id": device_id, "Client-Id": client_id, "Protocol-Version": str(version)}

    @asynccontextmanager
    async def raw(self, headers: dict[str, str]) -> AsyncGenerator[ClientConnection]:
        """A client that sends what it is told to."""
        url = f"ws://127.0.0.1:{self.facts.http_port}/xiaozhi/v1/"
        async with connect(url, additional_headers=headers, proxy=None, compression=None, close_timeout=1) as connection:
            yield connection


@asynccontextmanager
async def serving(
    directory: Path, *, find: Callable[[str], Intent | None] = lambda _text: None, llm: ScriptedLlm | None = None, **sets: Any
) -> AsyncGenerator[Server]:
    values = {
        "http.port": 0,
        "mqtt.port": 0,
        "udp.port": 0,
        "advertise.host": "127.0.0.1",
        "http.host": "127.0.0.1",
        "data_dir": str(directory),
        "admin.token": ADMIN,
        "websocket.enabled": True,
    } | {name.replace("__", "."): value for name, value in sets.items()}
    loaded = load(environ={}, directory=directory, overrides=values)
    asr, llm = ScriptedAsr(("what is the time", "and tomorrow")), llm or ScriptedLlm()
    engines = Providers(vad=EnergyVad(), asr=asr, llm=llm, tts=ScriptedTts(), intents=ScriptedIntents(find))
    async with bridge(loaded, providers=lambda _settings, _store: engines) as facts:
        yield Server(facts, asr, llm)


async def closed(connection: ClientConnection) -> int | None:
    """The code with which the server closes."""
    async with asyncio.timeout(10):
        try:
            while True:
                await connection.recv()
        except ConnectionClosed:
            return connection.close_code


async def channel_closed(device: Device) -> None:
    async with asyncio.timeout(10):
        while device.channel_open:
            await asyncio.sleep(0.01)


async def hello(connection: ClientConnection, **members: Any) -> dict[str, Any]:
    await connection.send(json.dumps(HELLO | members))
    async with asyncio.timeout(10):
        reply: dict[str, Any] = json.loads(await connection.recv())
    return reply


# -- conversations ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_conversation(tmp_path: Path, version: int) -> None:
    async with serving(tmp_path) as server, Device(server.options(websocket_version=version)) as device:
        await device.boot()
        for heard in ("what is the time", "and tomorrow"):
            turn = await device.converse(QUESTION)
            assert turn.stt == heard
            assert turn.sentences == ["It works.", "Really."]
            assert not turn.counters.dropped
            assert np.abs(turn.heard_wav.astype(np.int32)).max() > 1000
        assert len(server.asr.utterances[0].samples) >= 16000 * 0.7
        (reply,) = [event.message for event in device.events.since(0) if event.message["type"] == "hello"]
        assert (reply["transport"], reply["version"]) == ("websocket", version)
        assert "udp" not in reply
        assert len(reply["session_id"]) == 32
        await device.goodbye()
        assert device.state is State.IDLE
        await server.until("bridge_sessions", 0)
        await server.until("websocket_connections_open", 0)
        assert await server.metric("websocket_bad_frames") == 0
        assert await server.metric("websocket_implausible") == 0


@pytest.mark.parametrize("mode", ["manual", "realtime"])
async def test_other_ways_to_listen(tmp_path: Path, mode: Any) -> None:
    async with serving(tmp_path) as server, Device(server.options(mode=mode)) as device:
        await device.boot()
        assert (await device.converse(QUESTION)).stt == "what is the time"
        assert (await device.converse(QUESTION)).stt == "and tomorrow"


async def test_a_tool_of_the_device(tmp_path: Path) -> None:
    llm = ScriptedLlm(((ToolCall("1", "self_audio_speaker_set_volume", {"volume": 33}),), ("Done.",)))
    async with serving(tmp_path, llm=llm) as server, Device(server.options()) as device:
        await device.boot()
        await device.open_channel()
        await device.sent.wait_for(lambda message: "tools" in message.get("payload", {}).get("result", {}), timeout_s=10, since=0)
        await server.until("websocket_messages_in", len(device.sent.since(0)))
        assert (await device.converse(QUESTION)).sentences == ["Done."]
        assert device.volume == 33


async def test_an_answer_is_interrupted(tmp_path: Path) -> None:
    llm = ScriptedLlm((("A very long sentence that goes on and on and on for many seconds. " * 6,),))
    async with serving(tmp_path, llm=llm) as server, Device(server.options()) as device:
        await device.boot()
        await device.start_listening()
        mark = device.events.mark()
        await device.say(QUESTION)
        await device.wait_for(is_message("tts", state="sentence_start"), since=mark)
        received = device.channel_stats.received
        await device.abort()
        await device.wait_for(is_message("tts", state="stop"), since=mark, timeout_s=2)
        stopped = device.channel_stats.received
        assert stopped - received <= 6
        await asyncio.sleep(0.3)
        assert device.channel_stats.received == stopped
        assert [event.message.get("state") for event in device.events.since(mark) if event.message["type"] == "tts"].count("stop") == 1


async def test_the_server_hangs_up_after_its_last_word(tmp_path: Path) -> None:
    def find(text: str) -> Intent | None:
        return Intent("Goodbye", {}, "en") if "time" in text else None

    async with serving(tmp_path, find=find) as server, Device(server.options()) as device:
        await device.boot()
        await device.start_listening()
        mark = device.events.mark()
        await device.say(QUESTION)
        await device.wait_for(is_message("tts", state="stop"), since=mark)
        await device.wait_for_state(State.IDLE)
        assert not device.channel_open
        assert not [event for event in device.events.since(mark) if event.message["type"] == "goodbye"]
        await server.until("websocket_connections_open", 0)


async def test_a_lost_connection_ends_the_session_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, Device(server.options()) as device:
        await device.boot()
        await device.start_listening()
        await server.until("bridge_sessions", 1)
        device.drop_websocket()
        await device.wait_for_state(State.IDLE)
        await server.until("bridge_sessions", 0)
        assert await server.metric("bridge_devices_connected") == 0
        assert (await device.converse(QUESTION)).stt == "what is the time"


async def test_the_end_of_the_server_is_a_goodbye(tmp_path: Path) -> None:
    async with AsyncExitStack() as devices:
        async with serving(tmp_path) as server:
            device = await devices.enter_async_context(Device(server.options()))
            silent = await devices.enter_async_context(server.raw(await server.headers("02:00:00:00:00:02")))
            greeted = await devices.enter_async_context(server.raw(await server.headers("02:00:00:00:00:03")))
            await device.boot()
            await device.start_listening()
            await hello(greeted)
        await device.wait_for_state(State.IDLE)
        assert not device.channel_open
        assert await closed(greeted) == 1000
        assert await closed(silent) in {1000, 1012}  # it had no session that could have ended


# -- what OTA offers -------------------------------------------------------------------------------------------------------
async def test_stock_devices_take_mqtt_while_it_is_offered(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        answer = await server.ota()
        assert answer["websocket"]["url"] == f"ws://127.0.0.1:{server.facts.http_port}/xiaozhi/v1/"
        assert answer["websocket"]["version"] == 3
        assert " " not in answer["websocket"]["token"]
        async with Device(server.options(transport="auto")) as device:
            await device.boot()
            assert device.mqtt is not None
            assert device.websocket is None


async def test_websocket_alone_moves_stock_devices_there(tmp_path: Path) -> None:
    sets: dict[str, Any] = {"advertise__transport": "websocket", "websocket__version": 2}
    async with serving(tmp_path, **sets) as server, Device(server.options(transport="auto")) as device:
        assert "mqtt" not in await server.ota()
        await device.boot()
        assert device.websocket is not None
        assert device.websocket.version == 2
        assert (await device.converse(QUESTION)).stt == "what is the time"


@pytest.mark.parametrize("sets", [{"websocket__enabled": False}, {"advertise__transport": "mqtt"}])
async def test_nothing_is_offered(tmp_path: Path, sets: dict[str, Any]) -> None:
    async with serving(tmp_path, **sets) as server, Device(server.options()) as device:
        assert "websocket" not in await server.ota()
        with pytest.raises(OtaError, match=r"websocket\.enabled"):
            await device.boot()


async def test_the_address_of_a_proxy(tmp_path: Path) -> None:
    async with serving(tmp_path, advertise__websocket_url="wss://voice.example.org/xiaozhi/v1/") as server:
        assert (await server.ota())["websocket"]["url"] == "wss://voice.example.org/xiaozhi/v1/"


async def test_nobody_could_connect(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"websocket\.enabled"):
        async with serving(tmp_path, websocket__enabled=False, advertise__transport="websocket"):
            pass


async def test_a_device_without_approval_gets_no_token(tmp_path: Path) -> None:
    async with serving(tmp_path, enrolment="code") as server:
        answer = await server.ota()
        assert "websocket" not in answer
        assert "activation" in answer


# -- who is let in ---------------------------------------------------------------------------------------------------------
async def test_who_is_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        good = await server.headers()
        other = await server.headers("02:00:00:00:00:02")
        mqtt_password = (await server.ota())["mqtt"]["password"]
        wrong = [
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer x" + good["Authorization"][8:]},
            {"Authorization": good["Authorization"].replace("Bearer", "Basic")},
            {"Authorization": other["Authorization"]},
            {"Authorization": f"Bearer {mqtt_password}"},
            {"Device-Id": other["Device-Id"]},
            {"Device-Id": "02:00:00:00:00:03"},
            {"Device-Id": "nonsense"},
            {"Device-Id": ""},
            {"Client-Id": "another"},
            {"Client-Id": ""},
            {"Client-Id": "ü"},
        ]
        for members in wrong:
            with pytest.raises(InvalidStatus) as refused:
                async with server.raw(good | members):
                    pass
            assert refused.value.response.status_code == 401, members
            assert refused.value.response.headers["WWW-Authenticate"] == "Bearer"
        assert await server.metric("websocket_unauthorised") == len(wrong)
        assert await server.metric("websocket_connections_opened") == 0
        async with server.raw(good | {"Device-Id": "02-00-00-00-00-01"}) as connection:
            assert (await hello(connection))["transport"] == "websocket"


async def test_the_simulated_device_says_what_is_wrong(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, Device(server.options()) as device:
        await device.boot()
        assert device.websocket is not None
        device.websocket = replace(device.websocket, token="wrong")
        with pytest.raises(WebSocketError, match="401"):
            await device.open_channel()
        assert device.state is State.IDLE


async def test_access_ends_with_the_credentials(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, Device(server.options()) as device:
        await device.boot()
        await device.open_channel()
        url = f"http://127.0.0.1:{server.facts.http_port}/api/devices/02:00:00:00:00:01/rotate"
        async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {ADMIN}"}) as http:
            assert (await http.post(url)).status_code == 200
        await channel_closed(device)
        await server.until("bridge_sessions", 0)
        with pytest.raises(WebSocketError, match="401"):
            await device.open_channel()


# -- hello -----------------------------------------------------------------------------------------------------------------
async def test_hello_does_not_come(tmp_path: Path) -> None:
    async with serving(tmp_path, websocket__hello_timeout_s=0.3) as server, server.raw(await server.headers()) as connection:
        await connection.send(b"\x00")
        await connection.send('{"type":"mcp","payload":{}}')
        assert await closed(connection) == 1008
        assert await server.metric("websocket_hello_timeouts") == 1
        assert await server.metric("websocket_early_audio") == 1


@pytest.mark.parametrize("members", [{"transport": "udp"}, {"transport": None}])
async def test_a_hello_that_is_none(tmp_path: Path, members: dict[str, Any]) -> None:
    async with serving(tmp_path) as server, server.raw(await server.headers()) as connection:
        await connection.send(json.dumps(HELLO | members))
        assert await closed(connection) == 1008
        assert await server.metric("bridge_hellos_refused") == 1


async def test_the_version_of_the_request_counts_then_that_of_hello(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        headers = await server.headers()
        for announced, said, expected in (("2", 1, 2), ("", 2, 2), ("nine", 1, 1), ("1", 77, 1)):
            async with server.raw(headers | {"Protocol-Version": announced}) as connection:
                assert (await hello(connection, version=said))["version"] == expected
        async with server.raw(headers | {"Protocol-Version": ""}) as connection:
            await connection.send(json.dumps(HELLO | {"version": 4}))
            assert await closed(connection) == 1008


async def test_another_hello_on_the_same_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, server.raw(await server.headers()) as connection:
        first, second = await hello(connection), {"type": ""}
        await connection.send(json.dumps(HELLO))
        async with asyncio.timeout(10):
            while second["type"] != "hello":
                second = json.loads(await connection.recv())
        assert first["session_id"] != second["session_id"]
        assert await server.metric("bridge_sessions") == 1
        assert connection.close_code is None


# -- one device, several connections ---------------------------------------------------------------------------------------
async def test_from_mqtt_to_websocket_and_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        mqtt, websocket = Device(server.options(transport="mqtt")), Device(server.options())
        async with mqtt, websocket:
            await mqtt.boot()
            await mqtt.open_channel()
            old = mqtt.session_id
            await websocket.boot()
            await websocket.open_channel()
            await mqtt.wait_for(is_message("goodbye", session_id=old), since=0)
            assert await server.metric("bridge_sessions") == 1
            assert (await websocket.converse(QUESTION)).stt == "what is the time"
            # Its MQTT connection ends: that is nothing to the session, which does not use it.
            await mqtt.goodbye()
            mqtt.drop_mqtt()
            await server.until("mqtt_devices", 0)
            assert await server.metric("bridge_sessions") == 1
            await mqtt.control.connect()
            await mqtt.open_channel()
            await channel_closed(websocket)
            assert await server.metric("bridge_sessions") == 1
            assert (await mqtt.converse(QUESTION)).stt == "and tomorrow"


async def test_the_newest_websocket_wins(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        headers = await server.headers()
        async with server.raw(headers) as first, server.raw(headers) as second:
            assert await closed(first) == 1000  # it had not said hello
            await hello(second)
            async with server.raw(headers) as third:
                assert second.close_code is None  # only a hello takes the session over
                await hello(third)
                assert await closed(second) == 1000
                assert await server.metric("bridge_sessions") == 1
                assert await server.metric("websocket_connections_open") == 1


async def test_devices_do_not_hear_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        devices = [Device(server.options(device_id=f"02:00:00:00:00:0{n}", websocket_version=n)) for n in (1, 2, 3)]
        async with devices[0], devices[1], devices[2], asyncio.TaskGroup() as tasks:
            for device in devices:
                await device.boot()
            turns = [tasks.create_task(device.converse(QUESTION)) for device in devices]
        assert all(turn.result().sentences == ["It works.", "Really."] for turn in turns)
        assert len({device.session_id for device in devices}) == 3


async def test_a_message_of_a_session_that_is_gone_closes_the_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, server.raw(await server.headers()) as connection:
        await hello(connection)
        await connection.send(json.dumps({"type": "listen", "state": "start", "session_id": "stale"}))
        assert await closed(connection) == 1000


async def test_a_goodbye_closes_the_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, server.raw(await server.headers()) as connection:
        session_id = (await hello(connection))["session_id"]
        await connection.send(json.dumps({"type": "goodbye", "session_id": session_id}))
        assert await closed(connection) == 1000
        await server.until("bridge_sessions", 0)


# -- hostile input ---------------------------------------------------------------------------------------------------------
async def test_garbage_is_counted_and_survived(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, Device(server.options(websocket_version=3)) as device:
        await device.boot()
        await device.open_channel()
        assert isinstance(device.channel, WebSocketLink)
        frames = [
            b"\x00",
            b"\x00\x00\x00",
            b"\x00\x00\x00\x00",
            b"\x00\x00\x00\x05abcd",
            b"\x01\x00\x00\x02{}",
            b"\x00\x00\xff\xff" + b"a" * 10,
        ]
        for frame in frames:
            device.channel.send_raw(frame)
        device.channel.send_raw(b"\x00\x00\x00\x03\xff\xff\xff")  # framed well, but stereo and of no known length
        for text in ("", "{", "[]", '{"type":"unknown"}', '{"type":"listen"}', "[" * 5000):
            device.channel.publish(text)
        await server.until("websocket_bad_messages", 6)
        assert await server.metric("websocket_bad_frames") == len(frames)
        assert await server.metric("websocket_implausible") == 1
        assert (await device.converse(QUESTION)).stt == "what is the time"


@pytest.mark.parametrize("kind", [str, bytes])
async def test_a_message_that_is_too_large_ends_the_connection(tmp_path: Path, kind: type) -> None:
    async with serving(tmp_path) as server, server.raw(await server.headers()) as connection:
        await hello(connection)
        await connection.send("x" * 65537 if kind is str else b"x" * 65537)
        assert await closed(connection) == 1009
        await server.until("bridge_sessions", 0)
        assert await server.metric("websocket_oversize") == 1


async def test_a_large_tool_answer_is_taken(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, server.raw(await server.headers()) as connection:
        await hello(connection)
        before = await server.metric("websocket_messages_in")
        payload = {"jsonrpc": "2.0", "id": 999, "result": {"content": [{"type": "text", "text": "x" * 60000}]}}
        await connection.send(json.dumps({"type": "mcp", "session_id": "", "payload": payload}))
        await server.until("websocket_messages_in", before + 1)
        assert connection.close_code is None
