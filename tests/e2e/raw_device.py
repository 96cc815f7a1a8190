"""A device without manners: MQTT bytes, datagrams and AES by hand, so that a test can send what no firmware would.

It says nothing by itself. It keeps all that comes, control and audio, with the time of its arrival.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bridge.device import Speech, is_message
from bridge.device.events import Event, EventLog
from bridge.scope import task_scope
from tests.e2e.running import STEADY_S, Server, mac, sung, until

Address = tuple[str, int]


def keystream(key: bytes, header: bytes, length: int) -> bytes:
    """NIST SP 800-38A §6.5 by hand: the cipher of counter blocks that begin at the header, as one big-endian number."""
    start = int.from_bytes(header, "big")
    blocks = b"".join(((start + i) % 2**128).to_bytes(16, "big") for i in range(-(-length // 16)))
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)[:length]  # noqa: S305 - the block cipher alone is meant


def counter_blocks(datagram: bytes) -> list[int]:
    """The counter blocks that a datagram uses."""
    start = int.from_bytes(datagram[:16], "big")
    return [(start + i) % 2**128 for i in range(-(-(len(datagram) - 16) // 16))]


def seal(key: bytes, header: bytes, payload: bytes) -> bytes:
    return header + bytes(a ^ b for a, b in zip(payload, keystream(key, header, len(payload)), strict=True))


@dataclass(frozen=True)
class Packet:
    """A datagram from the server."""

    at_s: float
    source: Address
    datagram: bytes
    opus: bytes

    @property
    def kind(self) -> int:
        return self.datagram[0]

    @property
    def flags(self) -> int:
        return self.datagram[1]

    @property
    def length(self) -> int:
        return int.from_bytes(self.datagram[2:4], "big")

    @property
    def timestamp(self) -> int:
        return int.from_bytes(self.datagram[8:12], "big")

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.datagram[12:16], "big")


@dataclass
class Grant:
    """What a hello reply grants."""

    session_id: str
    server: Address
    key: bytes
    nonce: bytes
    message: dict[str, Any]


class Socket(asyncio.DatagramProtocol):
    """One UDP socket that belongs to nobody in particular."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[float, Address, bytes]] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.append((asyncio.get_running_loop().time(), (addr[0], addr[1]), data))

    def send(self, datagram: bytes, to: Address) -> None:
        self.transport.sendto(datagram, to)


@asynccontextmanager
async def udp_socket(ip: str = "127.0.0.1") -> AsyncIterator[Socket]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Socket, local_addr=(ip, 0))
    try:
        yield protocol
    finally:
        transport.close()


@dataclass
class RawDevice:
    """Made by :func:`raw_device`."""

    device_id: str
    mqtt: dict[str, Any]
    socket: Socket
    events: EventLog = field(default_factory=EventLog)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    grant: Grant | None = None
    sequence: int = 0
    sent_datagrams: list[bytes] = field(default_factory=list)
    writer: asyncio.StreamWriter | None = None

    # -- control -----------------------------------------------------------------------------------------------------------
    async def connect(self) -> asyncio.StreamReader:
        """CONNECT as the firmware sends it (MQTT 3.1.1 §3.1): clean session, user name and password, keep-alive 240 s."""
        host, _, port = str(self.mqtt["endpoint"]).partition(":")
        reader, self.writer = await asyncio.open_connection(host, int(port))
        credentials = b"".join(_text(str(self.mqtt[name])) for name in ("client_id", "username", "password"))
        self.writer.write(_packet(0x10, b"\x00\x04MQTT\x04\xc2\x00\xf0" + credentials))
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        self.closed.clear()
        return reader

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Take PUBLISH packets in until the connection ends."""
        loop = asyncio.get_running_loop()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, body = await _read_packet(reader)
                if kind >> 4 == 3:
                    assert kind == 0x30, "PUBLISH must be QoS 0, not retained"
                    topic_bytes = int.from_bytes(body[:2], "big")
                    self.events.append(json.loads(body[2 + topic_bytes :]), loop.time())
        self.drop()
        self.closed.set()

    def publish(self, **message: Any) -> None:
        """One JSON message, QoS 0."""
        self.publish_bytes(json.dumps(message).encode())

    def publish_bytes(self, payload: bytes) -> None:
        assert self.writer is not None
        self.writer.write(_packet(0x30, _text(str(self.mqtt["publish_topic"])) + payload))

    def drop(self) -> None:
        """The connection is gone, without DISCONNECT."""
        assert self.writer is not None
        self.writer.transport.abort()

    async def hello(self, **members: Any) -> Grant:
        """Say hello and take the grant over; audio numbers start again."""
        before = self.events.mark()
        standard = {
            "version": 3,
            "transport": "udp",
            "audio_params": {"format": "opus", "sample_rate": 16000, "channels": 1, "frame_duration": 60},
        }
        self.publish(type="hello", **(standard | members))
        reply = (await self.events.wait_for(is_message("hello"), timeout_s=10.0, since=before)).message
        udp = reply["udp"]
        self.grant = Grant(reply["session_id"], (udp["server"], udp["port"]), bytes.fromhex(udp["key"]), bytes.fromhex(udp["nonce"]), reply)
        self.sequence = 0
        return self.grant

    @property
    def session(self) -> Grant:
        assert self.grant is not None
        return self.grant

    def listen(self, state: str = "start", **members: Any) -> None:
        self.publish(session_id=self.session.session_id, type="listen", state=state, **({"mode": "auto"} | members))

    def abort(self, **members: Any) -> None:
        self.publish(session_id=self.session.session_id, type="abort", **members)

    async def wait(self, kind: str, *, since: int = 0, timeout_s: float = STEADY_S, **members: object) -> Event:
        return await self.events.wait_for(is_message(kind, **members), timeout_s=timeout_s, since=since)

    def all(self, kind: str, *, since: int = 0, **members: object) -> list[Event]:
        return [event for event in self.events.since(since) if is_message(kind, **members)(event.message)]

    # -- audio -------------------------------------------------------------------------------------------------------------
    def sealed(self, opus: bytes, *, sequence: int, timestamp: int = 0) -> bytes:
        """The datagram a device would send."""
        grant = self.session
        header = grant.nonce[:2] + struct.pack(">H", len(opus)) + grant.nonce[4:8] + struct.pack(">II", timestamp, sequence)
        return seal(grant.key, header, opus)

    def transmit(self, frames: Iterable[bytes], *, timestamp: int = 0) -> None:
        """The next packets, at once."""
        for frame in frames:
            self.sequence += 1
            datagram = self.sealed(frame, sequence=self.sequence, timestamp=timestamp)
            self.sent_datagrams.append(datagram)
            self.socket.send(datagram, self.session.server)

    @property
    def packets(self) -> list[Packet]:
        """What has come from the server's address, deciphered."""
        return self.packets_at(self.socket)

    def packets_at(self, socket: Socket) -> list[Packet]:
        grant = self.session
        return [
            Packet(
                at_s, source, data, bytes(a ^ b for a, b in zip(data[16:], keystream(grant.key, data[:16], len(data) - 16), strict=True))
            )
            for at_s, source, data in socket.datagrams
        ]

    async def packets_until(self, count: int, *, timeout_s: float = STEADY_S) -> None:
        """Wait until so many datagrams have come. Raises TimeoutError."""
        await until(lambda: len(self.socket.datagrams) >= count, timeout_s=timeout_s)

    # -- both --------------------------------------------------------------------------------------------------------------
    def sing(self, hz: int = 440, *, seconds: float = 0.6, mode: str = "auto", speech: Speech | None = None) -> int:
        """`listen start`, a tone and the silence behind it, all at once; the mark from which the answer comes."""
        before = self.events.mark()
        self.listen(mode=mode)
        self.transmit((speech or sung(hz, seconds, rest_s=0.6)).frames)
        return before

    async def answer(self, since: int, *, timeout_s: float = STEADY_S) -> list[str]:
        """The sentences of the answer that begins after the mark, once it has ended."""
        start = await self.wait("tts", since=since, state="start")
        stop = await self.wait("tts", since=start.index, state="stop", timeout_s=timeout_s)
        return [
            str(event.message["text"]) for event in self.all("tts", since=start.index, state="sentence_start") if event.index < stop.index
        ]


@asynccontextmanager
async def raw_device(server: Server, number: int = 1, *, connect: bool = True) -> AsyncIterator[RawDevice]:
    """A device that is enrolled and connected."""
    device_id = mac(number)
    headers = {"Device-Id": device_id, "Client-Id": f"00000000-0000-4000-8000-{number:012d}"}
    async with httpx.AsyncClient() as client:
        mqtt = (await client.post(server.facts.ota_url, headers=headers, json={})).json()["mqtt"]
    async with udp_socket() as socket, task_scope() as tasks:
        device = RawDevice(device_id, mqtt, socket)
        if connect:
            tasks.create_task(device.read(await device.connect()))
        try:
            yield device
        finally:
            if device.writer is not None:
                device.writer.transport.abort()


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _packet(kind: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while True:
        rest, digit = divmod(rest, 128)[0], rest % 128
        length += bytes([digit | (0x80 if rest else 0)])
        if not rest:
            return bytes([kind]) + length + body


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return kind, await reader.readexactly(length)
