"""A scripted server for the simulated device, written from the wire with the standard library (and AES blocks).

It shares nothing with the real server nor with the device: MQTT bytes by hand (MQTT 3.1.1), CTR built from single AES blocks.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
SSRC = 0xA1B2C3D4
NONCE = bytes.fromhex("01000000a1b2c3d40000000000000000")


def ctr(key: bytes, counter_block: bytes, data: bytes) -> bytes:
    """AES-CTR from single blocks, NIST SP 800-38A §6.5."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - the building block of CTR
    start = int.from_bytes(counter_block, "big")
    out = bytearray()
    for number in range(0, len(data), 16):
        stream = block.update(((start + number // 16) % 2**128).to_bytes(16, "big"))
        out += bytes(left ^ right for left, right in zip(data[number : number + 16], stream, strict=False))
    return bytes(out)


def mqtt_publish(topic: str, payload: bytes) -> bytes:
    """PUBLISH, QoS 0 (MQTT 3.1.1 §3.3)."""
    body = struct.pack(">H", len(topic)) + topic.encode() + payload
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = divmod(rest, 128)[0], rest % 128
        length.append(digit | (0x80 if rest else 0))
        if not rest:
            return b"\x30" + bytes(length) + body


class Gateway(asyncio.DatagramProtocol):
    """OTA, MQTT and UDP on loopback. ``on_message`` is called with each JSON message; helpers answer."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.packet_types: list[int] = []
        self.connects: list[bytes] = []
        self.uplink: list[tuple[bytes, bytes]] = []
        """(header, plaintext) of each datagram."""
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, bytes]] = []
        """HTTP answers to give instead of the standard one, first to last."""
        self.activation_answers: list[int] = []
        self.connack = 0
        self.answers_hello = True
        self.hello_udp: dict[str, Any] = {}
        self.on_message: Callable[[dict[str, Any]], None] = lambda _message: None
        self.on_audio: Callable[[int], None] = lambda _count: None
        self.sequence = 0
        self.sessions = 0
        self._writer: asyncio.StreamWriter | None = None
        self._address: tuple[str, int] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._mqtt = await asyncio.start_server(self._serve_mqtt, "127.0.0.1", 0)
        self._http = await asyncio.start_server(self._serve_http, "127.0.0.1", 0)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.mqtt_port = self._mqtt.sockets[0].getsockname()[1]
        self.udp_port = self._udp.get_extra_info("sockname")[1]
        self.ota_url = f"http://127.0.0.1:{self._http.sockets[0].getsockname()[1]}/xiaozhi/ota/"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._udp.close()
        for server in (self._mqtt, self._http):
            server.close()
        self.kick()
        await asyncio.sleep(0.01)

    @property
    def session_id(self) -> str:
        return f"session-{self.sessions}"

    def kick(self) -> None:
        """Cut the MQTT connection."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    def send(self, message: dict[str, Any] | str) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        assert self._writer is not None
        self._writer.write(mqtt_publish("devices/p2p/02_00_00_00_00_01", text.encode()))

    def tts(self, state: str, **members: str) -> None:
        self.send({"type": "tts", "state": state, "session_id": self.session_id} | members)

    def audio(self, opus: bytes, *, kind: int = 1, sequence: int | None = None, length: int | None = None, timestamp: int = 7) -> None:
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        header = struct.pack(">BBHIII", kind, 0x80, len(opus) if length is None else length, sequence, timestamp, sequence)
        self.datagram(header + ctr(KEY, header, opus))

    def datagram(self, data: bytes) -> None:
        self._udp.sendto(data, self._address)

    def sent_by_device(self, kind: str, **members: object) -> list[dict[str, Any]]:
        return [
            message
            for message in self.messages
            if message["type"] == kind and all(message.get(name) == value for name, value in members.items())
        ]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)

    def ota_answer(self) -> dict[str, Any]:
        return {
            "server_time": {"timestamp": 1760000000000, "timezone_offset": 0},
            "firmware": {"version": "2.4.2", "url": ""},
            "mqtt": {
                "endpoint": f"127.0.0.1:{self.mqtt_port}",
                "client_id": "GID_default@@@02_00_00_00_00_01@@@abc",
                "username": "dXNlcg==",
                "password": "cGFzcw==",
                "publish_topic": "device-server",
                "subscribe_topic": "null",
                "keepalive": 240,
            },
        }

    async def _serve_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((head[0], headers, body))
        status, answer = 200, json.dumps(self.ota_answer()).encode()
        if "/activate " in head[0]:
            status, answer = self.activation_answers.pop(0), b"{}"
        elif self.answers:
            status, answer = self.answers.pop(0)
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n".encode() + answer)
        await writer.drain()
        writer.close()

    async def _serve_mqtt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first = (await reader.readexactly(1))[0]
                length, shift = 0, 0
                while True:
                    digit = (await reader.readexactly(1))[0]
                    length |= (digit & 0x7F) << shift
                    shift += 7
                    if digit < 0x80:
                        break
                self._mqtt_packet(first, await reader.readexactly(length), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _mqtt_packet(self, first: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        kind = first >> 4
        self.packet_types.append(kind)
        match kind:
            case 1:
                self.connects.append(body)
                self._writer = writer
                writer.write(bytes([0x20, 2, 0, self.connack]))
            case 3:
                topic = struct.unpack_from(">H", body)[0]
                self.raw.append(body[2 + topic :])
                self._message(self.raw[-1])
            case 8:
                writer.write(bytes([0x90, 3]) + body[:2] + b"\x01")
            case 12:
                writer.write(b"\xd0\x00")

    def _message(self, payload: bytes) -> None:
        try:
            message = json.loads(payload)
        except ValueError:
            return
        self.messages.append(message)
        if message["type"] == "hello" and self.answers_hello:
            self.grant()
        self.on_message(message)

    def grant(self, **members: Any) -> None:
        """Send a hello reply."""
        self.sessions += 1
        self.sequence = 0
        udp = {"server": "127.0.0.1", "port": self.udp_port, "encryption": "aes-128-ctr", "key": KEY.hex(), "nonce": NONCE.hex()}
        reply: dict[str, Any] = {
            "type": "hello",
            "version": 3,
            "transport": "udp",
            "session_id": self.session_id,
            "audio_params": {"format": "opus", "sample_rate": 24000, "channels": 1, "frame_duration": 60},
            "udp": udp | self.hello_udp,
        }
        self.send(reply | members)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._address = addr
        header = data[:16]
        self.uplink.append((header, ctr(KEY, header, data[16:])))
        self.on_audio(len(self.uplink))
