"""Datagrams at a live channel: the honest stream goes on, to where it was."""

from __future__ import annotations

import asyncio
import random
import struct
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from bridge.device.codec import Encoder
from bridge.device.datagram import Uplink
from tests.bridge.house import _start
from tests.fuzz.effort import EXAMPLES, effort
from tests.scripted import tone
from tests.virtual_time import run
from udp_audio.server import AudioChannel, AudioServer

HONEST = ("127.0.0.1", 40001)
FOREIGN = ("127.0.0.1", 40666)
OPUS = Encoder(60).encode(tone(0.06))
HEADER = struct.Struct(">BBHIII")


@dataclass(frozen=True)
class Forgery:
    """A well-formed header with the right or a wrong ssrc, and noise for a payload."""

    known: bool
    flags: int
    timestamp: int
    sequence: int
    payload: bytes

    def datagram(self, ssrc: int) -> bytes:
        return HEADER.pack(1, self.flags, len(self.payload), ssrc if self.known else ssrc ^ 1, self.timestamp, self.sequence) + self.payload


forgeries_or_noise = st.binary(max_size=120) | st.builds(
    Forgery,
    known=st.booleans(),
    flags=st.sampled_from((0, 0, 0, 0x80, 1)),
    timestamp=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**32 - 1) | st.integers(1, 400) | st.just(0xFFFFFFF0),
    payload=st.binary(max_size=100),
)


async def _channel(server: AudioServer) -> tuple[AudioChannel, Uplink]:
    await _start(server)
    channel = server.open(frame_ms=60, peer_ip="127.0.0.1")
    return channel, Uplink(channel.key, channel.nonce)


@effort()
@given(st.lists(st.tuples(forgeries_or_noise, st.booleans()), max_size=60))
def test_forgeries_beside_a_stream(forgeries: list[tuple[bytes | Forgery, bool]]) -> None:
    async def scenario() -> None:
        server = AudioServer()
        channel, uplink = await _channel(server)
        for _ in range(5):
            server.datagram_received(uplink.seal(OPUS), HONEST)
        assert channel.peer == HONEST
        for item, from_honest_address in forgeries:
            data = item if isinstance(item, bytes) else item.datagram(channel.ssrc)
            server.datagram_received(data, HONEST if from_honest_address else FOREIGN)
            server.datagram_received(uplink.seal(OPUS), HONEST)
            await asyncio.sleep(0.06)
        assert channel.peer == HONEST
        frames = await channel.receive()
        assert sum(not frame.lost for frame in frames) >= min(50, 5 + len(forgeries)) - 1 - channel.stats.duplicates
        await server.aclose()

    run(scenario())


@effort()
@given(st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255), st.integers(0, 3)), max_size=40))
def test_a_stream_that_is_damaged_repeated_and_shuffled(damages: list[tuple[int, int, int]]) -> None:
    async def scenario() -> None:
        server = AudioServer()
        channel, uplink = await _channel(server)
        late: list[bytes] = []
        for place, value, times in damages:
            genuine = uplink.seal(OPUS)
            damaged = bytearray(genuine)
            damaged[place % len(damaged)] = value
            late.append(genuine)
            for _ in range(times):
                server.datagram_received(bytes(damaged), HONEST)
        for genuine in reversed(late):
            server.datagram_received(genuine, HONEST)
        await asyncio.sleep(1)
        for _ in range(8):
            server.datagram_received(uplink.seal(OPUS), HONEST)
        await asyncio.sleep(1)
        frames = await channel.receive()
        assert any(not frame.lost and frame.opus == OPUS for frame in frames)
        await server.aclose()

    run(scenario())


def test_a_hundred_thousand_random_datagrams() -> None:
    """Conformance 98, with a fixed seed; shorter by default."""
    noise = random.Random(98)

    async def scenario() -> None:
        server = AudioServer()
        channel, _ = await _channel(server)
        for _ in range(EXAMPLES * 100):
            data = bytearray(noise.randbytes(noise.randrange(0, 64)))
            if len(data) >= 8 and noise.random() < 0.5:
                data[:8] = HEADER.pack(1, 0, max(0, len(data) - 16), channel.ssrc, 0, 0)[:8]
            server.datagram_received(bytes(data), FOREIGN)
        assert server.stats.received == EXAMPLES * 100
        assert server.stats.sent == 0
        await server.aclose()

    run(scenario())
