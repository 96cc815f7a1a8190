"""TLS of the front over real sockets, against OpenSSL as a client that sends its records as it is told to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mqtt_control.codec import Connack, Connect, Decoder, Packet, Pingreq, Pingresp, Publish, encode
from mqtt_control.front import Front
from mqtt_control.identity import DeviceIdentity, parse_client_id
from mqtt_control.messages import Inbound, Mcp, Outbound, Stt
from settings.model import Mqtt
from tests.bridge.certificates import write_certificate

ALICE = DeviceIdentity("02:00:00:00:00:0a", "a1")
CONNECT = encode(Connect(ALICE.mqtt_client_id, 240, True, "user", b"password"))
VERSIONS = ("TLSv1_2", "TLSv1_3")


class Recorder:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[Inbound] = []
        self.disconnected = asyncio.Event()

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        assert (identity, peer_ip) == (ALICE, "127.0.0.1")

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        self.messages.append(message)

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None: ...

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        self.disconnected.set()


class Stage:
    """A front that speaks TLS alone, for the length of a test."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.certificate, key = write_certificate(directory / "own", names=["127.0.0.1"])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._escaped: list[dict[str, Any]] = []
        self.listener = Recorder()
        self.front = Front(Mqtt(**options), authenticate=lambda client_id, *_: parse_client_id(client_id), listener=self.listener)
        self.port = 0

    async def __aenter__(self) -> Stage:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._escaped.append(context))
        self.port = await self.front.start(host="127.0.0.1", port=0, ssl=self._context)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.front.aclose()
        assert self.front.stats.connections == 0
        assert self._escaped == []


class Client:
    """One connection; ``piece_bytes``: how large the segments are that it sends."""

    def __init__(self, stage: Stage, *, version: str = "TLSv1_3", piece_bytes: int = 65536, trusting: bool = True) -> None:
        context = ssl.create_default_context(cafile=str(stage.certificate) if trusting else None)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._port, self._piece_bytes = stage.port, piece_bytes
        self._decoder = Decoder(1 << 20)
        self._packets: list[Packet] = []

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def flush(self) -> None:
        data = self._outgoing.read()
        for start in range(0, len(data), self._piece_bytes):
            self.writer.write(data[start : start + self._piece_bytes])
            await self.writer.drain()
            if self._piece_bytes < 100:
                await asyncio.sleep(0)  # a segment of its own, as far as the kernel lets it be

    async def until_done(self, step: Callable[[], Any]) -> Any:
        """Do it as soon as OpenSSL has what it needs. Raises ssl.SSLEOFError when the peer just went away."""
        async with asyncio.timeout(20):
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    await self.flush()
                    data = await self.reader.read(65536)
                    if data:
                        self._incoming.write(data)
                    else:
                        self._incoming.write_eof()
                    continue
                await self.flush()
                return result

    async def shake_hands(self) -> None:
        await self.until_done(self.tls.do_handshake)

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self.flush()

    async def packet(self) -> Packet | None:
        """The next packet; None when the front has said ``close_notify``."""
        while not self._packets:
            data = await self.until_done(lambda: self.tls.read(65536))
            if not data:
                return None
            self._packets += self._decoder.feed(data)
        return self._packets.pop(0)

    async def connect(self) -> None:
        await self.shake_hands()
        await self.send(CONNECT)
        assert await self.packet() == Connack(0)


async def both_ways(directory: Path, version: str) -> None:
    """Single bytes one way and the other, then messages of many records."""
    long_text = "x" * 100_000
    async with Stage(directory, max_packet_bytes=262144) as stage:
        for piece_bytes in (1, 7, 65536):
            async with Client(stage, version=version, piece_bytes=piece_bytes) as client:
                await client.connect()
                assert client.tls.version() == version.replace("_", ".")
                await client.send(encode(Pingreq()) * 2)
                assert [await client.packet(), await client.packet()] == [Pingresp(), Pingresp()]
        async with Client(stage, version=version, piece_bytes=4000) as client:
            await client.connect()
            body = b'{"type":"mcp","session_id":"","payload":{"text":"%s"}}' % long_text.encode()
            await client.send(encode(Publish("device-server", body)) + encode(Pingreq()))
            assert await client.packet() == Pingresp()
            assert [message.payload for message in stage.listener.messages if isinstance(message, Mcp)] == [{"text": long_text}]
            for number in range(200):  # 400 KB of records, while the client reads nothing
                assert stage.front.send(ALICE.device_id, Stt("s", f"{number} {'y' * 2000}"))
            for number in range(200):
                packet = await client.packet()
                assert isinstance(packet, Publish)
                assert f'"{number} yyy'.encode() in packet.payload
        assert stage.front.stats.tls_failures == 0


async def ends(directory: Path, version: str) -> None:
    """Who closes first says so, and the other notices."""
    async with Stage(directory) as stage:
        async with Client(stage, version=version) as client:
            await client.connect()
            stage.front.disconnect(ALICE.device_id)
            assert await client.packet() is None, "close_notify, not just the end of TCP"
        await stage.listener.disconnected.wait()
        stage.listener.disconnected.clear()
        async with Client(stage, version=version) as client:
            await client.connect()
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.unwrap()
            await client.flush()
            await stage.listener.disconnected.wait()
        async with Client(stage, version=version) as client:
            await client.connect()
            stage.listener.disconnected.clear()
            client.writer.transport.abort()
            await stage.listener.disconnected.wait()
        assert stage.front.stats.tls_failures == 0


async def refusals(directory: Path, version: str) -> None:
    """What is no TLS, or not ours, costs its own connection alone."""
    async with Stage(directory) as stage:
        for garbage in (CONNECT, b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(40_000)):
            failures = stage.front.stats.tls_failures
            async with Client(stage) as plain:
                plain.writer.write(garbage)
                await gone(plain)
            assert stage.front.stats.tls_failures == failures + 1
        async with Client(stage, version=version, trusting=False) as stranger:
            with pytest.raises(ssl.SSLCertVerificationError):
                await stranger.shake_hands()
            await stranger.flush()  # its alert says why
            await gone(stranger)
        assert stage.front.stats.tls_failures == 5
        async with Client(stage, version=version) as forger:
            await forger.connect()
            forger.writer.write(b"\x17\x03\x03\x00\x30" + bytes(48))
            await stage.listener.disconnected.wait()
        assert stage.front.stats.tls_failures == 6
        async with Client(stage, version=version) as client:
            await client.connect()


async def gone(client: Client) -> None:
    async with asyncio.timeout(10):
        try:
            while await client.reader.read(4096):  # an alert, perhaps
                pass
        except ConnectionResetError:
            pass


async def patience(directory: Path, version: str) -> None:
    """From TCP accept to a whole CONNECT there is one time for everything."""
    async with Stage(directory, connect_timeout_s=0.3) as stage:
        async with Client(stage) as silent:
            await gone(silent)
        async with Client(stage, version=version) as half:
            with pytest.raises(ssl.SSLWantReadError):
                half.tls.do_handshake()
            half.writer.write(half._outgoing.read(20))
            await gone(half)
        async with Client(stage, version=version) as mute:
            await mute.shake_hands()
            assert await mute.packet() is None
        assert stage.front.stats.connect_timeouts == 3


async def limits(directory: Path, version: str) -> None:
    """Connections count before their handshake, and who does not read is closed."""
    async with Stage(directory, max_connections=1, write_buffer_bytes=16384) as stage:
        async with Client(stage, version=version) as client:
            await client.connect()
            async with Client(stage) as surplus:
                await gone(surplus)
            assert stage.front.stats.connections_refused_full == 1
            for _ in range(5000):  # never read
                if not stage.front.send(ALICE.device_id, Stt("s", "z" * 4000)):
                    break
                await asyncio.sleep(0)
            await stage.listener.disconnected.wait()
        assert stage.front.stats.slow_readers == 1


Scenario = Callable[[Path, str], Coroutine[Any, Any, None]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("scenario", [both_ways, ends, refusals, patience, limits], ids=lambda scenario: str(scenario.__name__))
def test_tls(scenario: Scenario, factory: Callable[[], asyncio.AbstractEventLoop], version: str, tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario(tmp_path, version))
