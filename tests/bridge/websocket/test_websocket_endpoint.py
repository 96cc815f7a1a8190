"""The endpoint in the real HTTP server, with a listener of its own: what only a peer that does not play along brings out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop
from starlette.applications import Starlette
from structlog.testing import capture_logs

from bridge.limits import Gate
from bridge.scope import task_scope
from bridge.transport import Transport
from bridge.websocket.endpoint import PATH, WebSocketEndpoint
from bridge.websocket.framing import MAX_MESSAGE_BYTES
from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Hello, Inbound, McpOut, Stt
from ota import server as ota_server
from ota.server import HttpServer
from settings.model import Limits
from tests.mqtt_control.half_open import needs_socket_filters, reappear, vanish

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
async def endpoint(
    recorder: Recorder, *, limits: Limits | None = None, max_connections: int = 100
) -> AsyncGenerator[tuple[WebSocketEndpoint, int]]:
    served = WebSocketEndpoint(
        authenticate=lambda _identity, token: token == "right",
        listener=recorder,
        gate=Gate(limits or Limits(), now=asyncio.get_running_loop().time),
        max_connections=max_connections,
    )
    async with task_scope() as tasks:
        http = HttpServer(tasks)
        app = Starlette(routes=served.routes())
        port = await http.start(app, "127.0.0.1", 0, max_websocket_message_bytes=MAX_MESSAGE_BYTES, ack_timeout_s=1)
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
    writer.write(upgrade())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return reader, writer


def upgrade(bearer: str = "right") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {bearer}\r\nDevice-Id: {ALICE.device_id}\r\n"
        f"Client-Id: {ALICE.client_id}\r\nProtocol-Version: 3\r\n\r\n".encode()
    )


async def asked(port: int, *, bearer: str = "right", source: str = "127.0.0.1") -> tuple[int, dict[str, str], asyncio.StreamWriter]:
    """Status and headers of the answer to an upgrade that comes from this address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    writer.write(upgrade(bearer))
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, writer


async def statuses(port: int, count: int, **options: str) -> list[int]:
    """Of so many upgrades, each closed again at once."""
    found = []
    for _ in range(count):
        status, headers, writer = await asked(port, **options)
        assert status in {101, 401} or int(headers["retry-after"]) >= 1
        found.append(status)
        writer.close()
    return found


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


# -- limits ----------------------------------------------------------------------------------------------------------------
async def test_wrong_tokens_shut_an_address_out_and_no_other() -> None:
    async with asyncio.timeout(30), endpoint(Recorder(), limits=Limits(failed_logins_per_minute=3, turned_away_s=60)) as (served, port):
        assert await statuses(port, 6, bearer="wrong") == [401] * 4 + [403] * 2
        status, headers, writer = await asked(port)
        assert (status, 50 < int(headers["retry-after"]) <= 60) == (403, True)
        writer.close()
        assert await statuses(port, 1, source="127.0.0.2") == [101]
        assert (served.stats.unauthorised, served.stats.connections_limited) == (4, 3)


async def test_connections_of_one_address_and_of_one_device_are_limited() -> None:
    async with asyncio.timeout(30), endpoint(Recorder(), limits=Limits(connections_per_minute=3)) as (served, port):
        assert await statuses(port, 5) == [101] * 3 + [429] * 2
        assert await statuses(port, 1, source="127.0.0.2") == [101]
        assert served.stats.connections_limited == 2
    async with asyncio.timeout(30), endpoint(Recorder(), limits=Limits(device_connections_per_minute=3)) as (served, port):
        assert await statuses(port, 4) == [101] * 3 + [429]
        assert await statuses(port, 1, source="127.0.0.2") == [429]


async def test_connections_are_bounded_in_all() -> None:
    recorder = Recorder(lambda via: via.send(Stt(session_id="s", text="here")))
    async with asyncio.timeout(30), endpoint(recorder, max_connections=1) as (served, port):
        reader, writer = await open_socket(port)
        writer.write(frame(HELLO))
        await reader.readexactly(4)
        assert await statuses(port, 3, source="127.0.0.2") == [503] * 3
        assert served.stats.connections_refused_full == 3
        writer.close()
        await recorder.closed.wait()
        while served.stats.connections_open:
            await asyncio.sleep(0.01)
        assert await statuses(port, 1) == [101]


async def test_exempt_addresses_have_no_limit() -> None:
    limits = Limits(failed_logins_per_minute=1, connections_per_minute=1, device_connections_per_minute=1, exempt=("127.0.0.2/32",))
    async with asyncio.timeout(30), endpoint(Recorder(), limits=limits) as (_, port):
        assert await statuses(port, 4, bearer="wrong", source="127.0.0.2") == [401] * 4
        assert await statuses(port, 4, source="127.0.0.2") == [101] * 4
        assert await statuses(port, 2) == [101, 429]


async def test_a_device_that_sends_without_end_is_read_slowly() -> None:
    recorder = Recorder()
    async with asyncio.timeout(30), endpoint(recorder, limits=Limits(device_messages_per_minute=1200)) as (served, port):
        _, writer = await open_socket(port)
        writer.write(frame(HELLO) + frame(b'{"type":"abort"}') * 1219)
        while len(recorder.messages) < 1220:
            await asyncio.sleep(0.01)
        assert served.stats.throttled >= 10
        writer.close()
        await recorder.closed.wait()


async def test_who_does_not_get_a_request_out_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand connections that say nothing, or never end their headers; a device beside them, and after them."""
    monkeypatch.setattr(ota_server, "REQUEST_S", 3.0)
    recorder = Recorder(lambda via: via.send(Stt(session_id="s", text="here")))
    async with asyncio.timeout(60), endpoint(recorder) as (served, port):
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
        for _, writer in slow[::2]:
            writer.write(b"GET /xiaozhi/v1/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        reader, writer = await open_socket(port)
        writer.write(frame(HELLO))
        await reader.readexactly(4)
        for slow_reader, slow_writer in slow:
            with contextlib.suppress(ConnectionError):
                assert await slow_reader.read() == b""
            slow_writer.close()
        assert served.stats.connections_open == 1  # the device's own is no request that takes too long
        writer.close()
        await recorder.closed.wait()


@needs_socket_filters
async def test_a_device_whose_network_is_gone_is_found_by_what_it_does_not_acknowledge() -> None:
    vias: list[Transport] = []
    recorder = Recorder(vias.append)
    async with asyncio.timeout(30), endpoint(recorder) as (served, port):
        reader, writer = await open_socket(port)
        writer.write(frame(HELLO))
        while not vias:
            await asyncio.sleep(0.01)
        sock = writer.get_extra_info("socket")
        vanish(sock)
        assert vias[0].send(Stt(session_id="s", text="here"))
        await recorder.closed.wait()
        reappear(sock)
        writer.close()
        del reader
        assert served.stats.hello_timeouts == 0


def test_the_limits_on_uvloop() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_wrong_tokens_shut_an_address_out_and_no_other())
        runner.run(test_connections_are_bounded_in_all())
        runner.run(test_a_device_whose_network_is_gone_is_found_by_what_it_does_not_acknowledge())


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
