"""Control messages in any order and shape at a registry with live sessions, on a virtual clock with scripted engines."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mqtt_control.messages import HelloReply, MessageError, parse
from tests.bridge.house import House, Inhabitant, house
from tests.fuzz.effort import effort
from tests.scripted import tone
from tests.virtual_time import run

junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
session_ids = st.sampled_from(["CURRENT", "CURRENT", "CURRENT", "", "stale", 7, None])


def message(kind: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind)}, optional={"session_id": session_ids, **members})


rpc = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": st.integers(0, 6) | junk,
        "result": junk
        | st.fixed_dictionaries({"tools": st.lists(st.fixed_dictionaries({"name": st.text(max_size=8), "inputSchema": junk}), max_size=3)})
        | st.just({"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}),
        "error": junk,
        "method": st.text(max_size=10),
    },
)
messages = st.one_of(
    message(
        "hello",
        version=st.sampled_from([3, 3, 3, 2, "3"]),
        transport=st.sampled_from(["udp", "udp", "udp", "websocket"]),
        features=st.fixed_dictionaries({}, optional={"mcp": st.booleans() | junk, "aec": st.booleans()}),
        audio_params=st.fixed_dictionaries({}, optional={"frame_duration": st.sampled_from([20, 60, 60, 7, -1, "x"])}) | junk,
    ),
    message(
        "listen",
        state=st.sampled_from(["start", "stop", "detect", "nap"]),
        mode=st.sampled_from(["auto", "manual", "realtime", "x"]),
        text=st.text(max_size=20),
    ),
    message("abort", reason=st.sampled_from(["wake_word_detected", "x"])),
    message("goodbye"),
    message("mcp", payload=rpc | junk),
    message("iot", update=st.booleans(), descriptors=st.lists(junk, max_size=2) | junk, states=st.lists(junk, max_size=2) | junk),
    st.dictionaries(st.text(max_size=8), junk, max_size=3),
    junk,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), messages),
        st.tuples(st.just("say"), message("mcp", payload=rpc)),
        st.tuples(st.just("raw"), st.binary(max_size=60)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.3, 3.5, 20.0, 100.0])),
        st.tuples(st.just("listen"), st.sampled_from(["auto", "manual", "realtime"])),
        st.tuples(st.just("talk"), st.integers(1, 12)),
        st.tuples(st.just("converse"), st.integers(4, 12)),
        st.tuples(st.just("drop"), st.none()),
        st.tuples(st.just("connect"), st.none()),
    ),
    min_size=4,
    max_size=25,
)
MCP_HELLO = b'{"type":"hello","version":3,"transport":"udp","features":{"mcp":true}}'


def feed(home: House, device: Inhabitant, payload: bytes) -> None:
    """As the front does: what cannot be read is ignored."""
    with suppress(MessageError):
        home.registry.device_message(device.identity, parse(payload))


async def act(home: House, device: Inhabitant, verb: str, value: Any) -> None:
    match verb:
        case "say":
            session = next((one.session for one in home.registry.devices if one.session is not None), None)
            if isinstance(value, dict) and value.get("session_id") == "CURRENT":
                value = value | {"session_id": session.session_id if session else "none"}
            feed(home, device, json.dumps(value).encode(errors="replace"))
        case "raw":
            feed(home, device, value)
        case "wait":
            await asyncio.sleep(value)
        case "listen":
            device.listen(mode=value)
        case "talk":
            await talk(device, value)
        case "converse":
            device.listen(mode="auto")
            await talk(device, value)
            for _ in range(20):
                device.audio()
                await asyncio.sleep(0.06)
        case "drop":
            home.registry.device_disconnected(device.identity)
        case "connect":
            device.connect()


async def talk(device: Inhabitant, frames: int) -> None:
    for _ in range(frames):
        device.audio(tone(0.06))
        await asyncio.sleep(0.06)


@effort()
@given(steps, st.booleans())
def test_any_conversation(conversation: list[tuple[str, Any]], with_tools: bool) -> None:
    async def scenario() -> None:
        async with house() as home:
            device = Inhabitant(home)
            home.on_sent = lambda _device_id, sent: device.take(sent) if isinstance(sent, HelloReply) else None
            device.connect()
            if with_tools:
                feed(home, device, MCP_HELLO)
            else:
                device.hello()
            for verb, value in conversation:
                await act(home, device, verb, value)
            device.connect()
            device.hello()
            device.listen()
            await asyncio.sleep(0.1)
            assert len(home.registry.sessions) == 1
            assert home.audio.stats.channels_open == 1
            device.session.end("over", goodbye=True)
            await asyncio.sleep(40)  # tools that were asked may take their time
            assert home.registry.sessions == []
            assert home.audio.stats.channels_open == 0

    with capture_logs() as logs:
        run(scenario())
    assert [entry for entry in logs if entry["log_level"] in {"error", "critical"}] == []
