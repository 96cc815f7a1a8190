"""What it costs to listen: CPU time of one packet of 60 ms from the channel to the endpointing (Opus decoding, Silero, the ear).

``on the loop`` is the part that other devices wait for: nearly all of it. Speech all the time, so the detector cannot skip windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import uvloop

from bench.report import Options, Row
from bench.signals import voice
from bridge.dialogue import Mode
from bridge.ear import Ear, Utterance
from providers.models import ModelStore
from providers.vad.silero import Silero
from settings.providers import SileroVad
from udp_audio.channel import UplinkFrame
from udp_audio.errors import ChannelClosed
from udp_audio.opus import OpusEncoder
from udp_audio.server import AudioChannel


class Uplink:
    """Stands in for a channel: one frame whenever it is read, until there are no more."""

    def __init__(self, packets: list[bytes], count: int) -> None:
        self._packets = packets
        self._count = count
        self._next = 0

    async def receive(self) -> list[UplinkFrame]:
        if self._next == self._count:
            raise ChannelClosed(0)
        await asyncio.sleep(0)
        self._next += 1
        opus = self._packets[self._next % len(self._packets)]
        return [UplinkFrame(opus=opus, sequence=self._next, timestamp_ms=0, lost=False, received_at=0.0)]


class Nobody:
    """A listener that does nothing."""

    def speech_started(self) -> None: ...

    def speech_paused(self, so_far: Utterance) -> None: ...

    def speech_resumed(self) -> None: ...

    def may_end(self) -> bool:
        return True

    def utterance_finished(self, utterance: Utterance) -> None: ...

    def barged_in(self) -> None: ...


async def _hear(vad: Silero, packets: list[bytes], count: int) -> None:
    channel = cast("AudioChannel", Uplink(packets, count))
    ear = Ear(channel, vad.open(), options=SileroVad(), frame_ms=60, max_utterance_s=30, listener=Nobody())
    ear.open(Mode.REALTIME)
    with contextlib.suppress(ChannelClosed):
        await ear.run()


async def cpu_us(ears: int, packets_each: int) -> tuple[float, float]:
    """Microseconds of CPU time a packet: in all threads, and on the loop."""
    encoder = OpusEncoder(sample_rate_hz=16000, frame_ms=60, bitrate_bps=24000, complexity=0)
    packets = [encoder.encode(frame) for frame in voice(rate_hz=16000, duration_s=6).reshape(-1, 960)]
    with TemporaryDirectory() as root:
        vad = Silero(SileroVad(), store=ModelStore(Path(root), offline=True))
        await vad.warm()
        begin_s, begin_loop_s = time.process_time(), time.thread_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(ears):
                group.create_task(_hear(vad, packets, packets_each))
        all_s, loop_s = time.process_time() - begin_s, time.thread_time() - begin_loop_s
        await vad.aclose()
    return all_s / (ears * packets_each) * 1e6, loop_s / (ears * packets_each) * 1e6


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    for ears in (1, 50):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            all_us, loop_us = runner.run(cpu_us(ears, (500 if options.quick else 2000) // ears))
        note = f"of it {loop_us:.0f} us on the loop; {60_000 / all_us:.0f} listeners a core"
        yield Row(part="ear", case=f"CPU of a packet heard, {ears} listening", value=all_us, unit="us", note=note)
