"""The endpoint in the real HTTP server, with a listener of its own: what only a peer that does not play along brings out."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop
from starlette.applications import Starlette
from structlog.testing import capture_logs

from bridge.scope import task_scope
from bridge.transport import Transport
from bridge.websocket.endpoint import PATH, WebSocketEndpoint
from bridge.websocket.framing import MAX_MESSAGE_BYTES
from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Hello, Inbound, McpOut, Stt
from ota import server as ota_server
from ota.server import HttpServer

ALICE = DeviceIdentity("02:00:00:00:00:0a", "a1")
HELLO = b'{"type":"hello","version":3,"transport":"websocket"}'


@dataclass
class Recorder:
    """Opens a session at hello, as the registry does, and keeps what it hears."""

    on_hello: Callable[[Transport], object] = lambda _via: None
    messages: list[Inbound] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def transport_message(self, identity: DeviceIdentity, message: Inbound, *, via: Transport) -> None:
        assert identity == ALICE
        self.messages.append(message)
        if isinstance(message, Hello) and not via.refusal(message):
            via.open_audio(message, frame_ms=60)
            self.on_hello(via)

    def transport_closed(self, identity: DeviceIdentity, *, via: Transport) -> None:
        self.closed.set()


@asynccontextmanager
async def endpoint(recorder: Recorder) -> AsyncGenerator[tuple[WebSocketEndpoint, int]]:
    served = WebSocketEndpoint(authenticate=lambda _identity, token: token == "right", listener=recorder)
    async with task_scope() as tasks:
        http = HttpServer(tasks)
        app = Starlette(routes=served.routes())
        port = await http.start(app, "127.0.0.1", 0, max_websocket_message_bytes=MAX_MESSAGE_BYTES)
        try:
            yield served, port
        finally:
            await http.aclose()


def frame(payload: bytes, *, opcode: int = 1) -> bytes:
    """A whole masked frame of less than 126 bytes (RFC 6455 §5.2); the mask is zero, so the payload stays readable."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload


async def test_a_wrong_token_is_refused_with_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with endpoint(Recorder()) as (_, port):
        with capture_logs() as logs:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer wrong\r\n"
                f"Device-Id: {ALICE.device_id}\r\nClient-Id: {ALICE.client_id}\r\n\r\n".encode()
            )
            answer = await reader.read()
            writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.endswith(b'{"error":"the bearer token is missing or wrong"}')
    assert [line["event"] for line in logs] == ["connection refused, the token is missing or wrong"]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")] == []


async def open_socket(port: int, *, receive_buffer_bytes: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket by hand: nothing here reads unless the test does."""
    sock = socket.create_connection(("127.0.0.1", port))
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer right\r\nDevice-Id: {ALICE.device_id}\r\n"
        f"Client-Id: {ALICE.client_id}\r\nProtocol-Version: 3\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def keep_writing(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(frame(b"{}"))
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_a_device_that_does_not_read_is_cut_off() -> None:
    sent: list[bool] = []

    def flood(via: Transport) -> None:
        async def pour() -> None:
            while not recorder.closed.is_set():
                sent.append(via.send(McpOut(session_id="s", payload={"text": "x" * 4000})))
                await asyncio.sleep(0)

        tasks.create_task(pour())

    recorder = Recorder(flood)
    async with asyncio.timeout(30), endpoint(recorder) as (served, port), task_scope() as tasks:
        reader, writer = await open_socket(port, receive_buffer_bytes=4096)
        writer.write(frame(HELLO))
        await recorder.closed.wait()
        assert served.stats.slow_readers == 1
        assert sent.count(True) < 400  # 1.6 MB at most were taken for it
        # The socket itself goes, too, although nobody reads what was queued.
        with pytest.raises(ConnectionError):
            await keep_writing(writer)
        writer.close()
        del reader


def test_the_same_on_uvloop() -> None:
    """As production runs: its transports are other classes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_device_that_does_not_read_is_cut_off())
        runner.run(test_pings_and_fragments_of_a_device())


async def test_a_device_that_vanished_is_noticed_by_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ota_server, "PING_S", 0.2)
    recorder = Recorder()
    async with asyncio.timeout(20), endpoint(recorder) as (served, port):
        _, writer = await open_socket(port)
        writer.write(frame(HELLO))
        await recorder.closed.wait()
        assert served.stats.connections_open == 0
        writer.close()


async def test_pings_and_fragments_of_a_device() -> None:
    recorder = Recorder(lambda via: via.send(Stt(session_id="s", text="here")))
    async with asyncio.timeout(20), endpoint(recorder) as (_, port):
        reader, writer = await open_socket(port)
        writer.write(frame(b"are you there", opcode=9))
        assert await reader.readexactly(15) == b"\x8a\x0darethere"[:2] + b"are you there"
        first, rest = frame(HELLO[:20]), frame(HELLO[20:], opcode=0)
        for byte in bytes((first[0] & 0x7F,)) + first[1:] + rest:  # byte by byte, in two fragments
            writer.write(bytes((byte,)))
            await writer.drain()
        answer = b'{"type":"stt","session_id":"s","text":"here"}'
        assert await reader.readexactly(2 + len(answer)) == bytes((0x81, len(answer))) + answer
        assert isinstance(recorder.messages[0], Hello)
        writer.close()
        await recorder.closed.wait()


async def test_text_that_is_not_unicode_ends_the_connection() -> None:
    recorder = Recorder()
    async with asyncio.timeout(20), endpoint(recorder) as (served, port):
        reader, writer = await open_socket(port)
        writer.write(frame(b"\xff\xfe"))
        assert (await reader.readexactly(4))[2:] == (1007).to_bytes(2, "big")
        await recorder.closed.wait()
        assert served.stats.connections_open == 0
        writer.close()


async def test_what_cannot_be_sent_is_counted() -> None:
    result = asyncio.get_running_loop().create_future()
    recorder = Recorder(lambda via: result.set_result(via.send(McpOut(session_id="s", payload={"text": "x" * 9000}))))
    async with asyncio.timeout(20), endpoint(recorder) as (served, port):
        _, writer = await open_socket(port)
        writer.write(frame(HELLO))
        assert await result is False
        assert served.stats.unsendable_messages == 1
        writer.close()
        await recorder.closed.wait()


async def gone(served: WebSocketEndpoint) -> None:
    async with asyncio.timeout(10):
        while served.stats.connections_open:
            await asyncio.sleep(0.01)


async def test_the_log_says_who_ended_a_connection() -> None:
    with capture_logs() as logs:
        async with endpoint(Recorder()) as (served, port):
            _, writer = await open_socket(port)
            writer.write(frame(HELLO))
            writer.close()
            await gone(served)
            reader, writer = await open_socket(port)
            served.disconnect(ALICE.device_id)
            await reader.read()
            writer.close()
            await gone(served)
    ends = [line["reason"] for line in logs if line["event"] == "device disconnected"]
    assert ends == ["closed by the device, or lost", "closed by the server"]
    assert {line["peer"] for line in logs if line["event"] == "device connected"} == {"127.0.0.1"}
