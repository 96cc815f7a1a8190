"""Checklist G 95 and 98: a wall clock that jumps, and a flood from the network, while somebody talks."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest

from bench.machine import resident_mb
from bridge import app
from tests.e2e.raw_device import Address, RawDevice, raw_device
from tests.e2e.running import Cast, running
from udp_audio.server import AudioServer

MILLION = 1_000_000
BATCH = 200
"""Datagrams that wait in the kernel at most, so that none is lost there and every one can be accounted for."""
SOURCES = 8


def garbage(ssrc: bytes, *, seed: int) -> list[tuple[str, bytes]]:
    """A few thousand datagrams, each with the counter that it must raise: ssrc right or wrong, header right or wrong."""
    dice = random.Random(seed)
    unknown = bytes(byte ^ 0x55 for byte in ssrc)

    def body() -> bytes:
        return dice.randbytes(dice.choice((1, 2, 40, 120, 900)))

    def header(*, ssrc: bytes, length: int, flags: int = 0, kind: int = 1) -> bytes:
        return struct.pack(">BBH4sII", kind, flags, length, ssrc, 0, dice.getrandbits(32))

    made: list[tuple[str, bytes]] = []
    for _ in range(600):
        payload = body()
        made += [
            ("malformed", dice.randbytes(dice.choice((0, 1, 15)))),
            ("malformed", header(ssrc=ssrc, length=len(payload) + dice.choice((-1, 1, 255))) + payload),
            ("malformed", header(ssrc=ssrc, length=len(payload), kind=dice.choice((0, 2, 255))) + payload),
            ("malformed", header(ssrc=ssrc, length=6000) + dice.randbytes(6000)),
            ("wrong_flags", header(ssrc=ssrc, length=len(payload), flags=dice.choice((0x80, 1, 255))) + payload),
            ("unknown_ssrc", header(ssrc=unknown, length=len(payload)) + payload),
            ("channel", header(ssrc=ssrc, length=len(payload)) + payload),
        ]
    dice.shuffle(made)
    return made


class Flood:
    """Many sources throw garbage; none may ever get an answer."""

    def __init__(self, server: AudioServer, beside: RawDevice, sources: list[socket.socket]) -> None:
        self.thrown: Counter[str] = Counter()
        self._server = server
        self._beside = beside
        self._to: Address = beside.session.server
        self._sources = sources

    async def throw(self, items: list[tuple[str, bytes]], count: int) -> None:
        """So many datagrams, at the pace at which the server takes them."""
        done = 0
        while done < count:
            size = min(BATCH, count - done)
            source = self._sources[done // BATCH % len(self._sources)]
            for number in range(done, done + size):
                kind, datagram = items[number % len(items)]
                source.sendto(datagram, self._to)
                self.thrown[kind] += 1
            done += size
            async with asyncio.timeout(30):
                while self._server.stats.received < self.thrown.total() + len(self._beside.sent_datagrams):
                    await asyncio.sleep(0)

    def answers(self) -> int:
        heard = 0
        for source in self._sources:
            try:
                while source.recv(2000):
                    heard += 1
            except BlockingIOError:
                continue
        return heard


@pytest.fixture
def audio_servers(monkeypatch: pytest.MonkeyPatch) -> list[AudioServer]:
    """The audio servers of the bridges that the test starts: their counters are its pace."""
    made: list[AudioServer] = []

    def make() -> AudioServer:
        made.append(AudioServer())
        return made[-1]

    monkeypatch.setattr(app, "AudioServer", make)
    return made


def strangers() -> Iterator[socket.socket]:
    """Sockets on loopback addresses that are not the device's."""
    for number in range(SOURCES):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((f"127.0.0.{2 + number % 4}", 0))
        yield sock


async def _converse(device: RawDevice, flooding: asyncio.Task[None]) -> int:
    """Turn after turn while the flood lasts; how many there were."""
    turns = 0
    while not flooding.done() or turns == 0:
        hz = 400 + 50 * (turns % 8)
        assert await device.answer(device.sing(hz), timeout_s=60) == [f"You sang {hz}."]
        turns += 1
    return turns


@pytest.mark.slow
async def test_check_098_a_million_datagrams_while_a_device_converses(tmp_path: Path, audio_servers: list[AudioServer]) -> None:
    """Each is accounted for; nobody is answered; every turn of the device comes out right; nothing is kept."""
    escaped: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
    with ExitStack() as sockets:
        sources = [sockets.enter_context(source) for source in strangers()]
        async with running(tmp_path, Cast(), settings={"udp.receive_buffer_bytes": 4 << 20}) as server, raw_device(server) as device:
            grant = await device.hello()
            assert await device.answer(device.sing(500)) == ["You sang 500."]
            (audio,) = audio_servers
            flood = Flood(audio, device, sources)
            items = garbage(grant.nonce[4:8], seed=98)
            await flood.throw(items, MILLION // 10)
            gc.collect()
            before_mb, tasks = resident_mb(), len(asyncio.all_tasks())
            async with asyncio.TaskGroup() as group:
                flooding = group.create_task(flood.throw(items, MILLION - MILLION // 10))
                turns = await _converse(device, flooding)
            gc.collect()
            assert turns >= 3
            assert flood.thrown.total() == MILLION
            for kind in ("malformed", "wrong_flags", "unknown_ssrc"):
                assert getattr(audio.stats, kind) == flood.thrown[kind]
            metrics = await server.metrics()
            assert metrics["xiaozhi_udp_received"] == audio.stats.received == MILLION + len(device.sent_datagrams)
            assert metrics["xiaozhi_udp_channels_open"] == metrics["xiaozhi_bridge_sessions"] == 1
            assert flood.answers() == 0
            assert audio.stats.sent == len(device.packets)
            assert len(asyncio.all_tasks()) <= tasks + 1
            assert resident_mb() - before_mb < 20
    assert escaped == []


# -- the clock -------------------------------------------------------------------------------------------------------------
@dataclass
class Wall:
    """The clock on the wall, which somebody sets."""

    offset_s: float = 0.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Everybody's wall clock but the system's own: that of our modules, and that of the libraries."""
    clock, real, real_ns = Wall(), time.time, time.time_ns  # noqa: TID251 - what nobody else here may use

    class Set(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=clock.offset_s)

    monkeypatch.setattr(time, "time", lambda: real() + clock.offset_s)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(clock.offset_s * 1e9))
    for module in ("bridge.session", "bridge.prompt", "ota.api", "ota.devices"):
        monkeypatch.setattr(f"{module}.datetime", Set)
    return clock


async def test_check_095_a_wall_clock_that_jumps_does_no_harm(tmp_path: Path, wall: Wall) -> None:
    """Within an answer, between turns, and before a device connects anew: sessions, pace and credentials are as before."""
    async with running(tmp_path, settings={"session.idle_timeout_s": 20}) as server, raw_device(server) as device:
        await device.hello()
        for number, jump in enumerate((timedelta(days=400), timedelta(days=-900), timedelta(hours=-1), timedelta(days=30))):
            hz, heard = 400 + 50 * number, len(device.packets)
            before = device.sing(hz)
            await device.packets_until(heard + 1)
            wall.offset_s += jump.total_seconds()
            assert await device.answer(before) == [f"You sang {hz}."]
            arrivals = [packet.at_s for packet in device.packets[heard:]]
            assert arrivals[-1] - arrivals[0] < 10
            numbers = [packet.sequence for packet in device.packets]
            assert numbers == list(range(1, len(numbers) + 1))
            async with raw_device(server, 2 + number) as newcomer:  # asks OTA at this time of the wall
                await newcomer.hello()
                assert await newcomer.answer(newcomer.sing(hz)) == [f"You sang {hz}."]
        async with raw_device(server) as again:
            again.grant, again.sequence, again.socket = device.grant, device.sequence, device.socket
            assert await again.answer(again.sing(700)) == ["You sang 700."]
            assert again.all("goodbye") == []
        assert device.all("goodbye") == []
