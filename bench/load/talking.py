"""Devices that only talk: how many one server can hear, and what a packet costs it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from bench.load.cores import busy_s
from bench.load.pacing import percentile
from bench.load.report import Spread
from bench.load.servers import Answer, Servers
from bench.load.talkers import TalkPlan, TalkResult

SETTLE_S = 4.0
FRAME_S = 0.06
MOST_BEHIND_MS = 240.0
"""Half of the closing silence: who is heard later than this is answered late for it."""
MOST_GROWTH_MS = 60.0
_FULL_LOSS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One run. CPU of the server in microseconds a packet, and in percent of one core; lags in milliseconds."""

    devices: int
    speech_percent: float
    seconds: float
    failed: int
    packets_a_s: float
    packet_us: float
    packet_loop_us: float
    """Of it in the loop's thread."""
    cpu_percent: float
    others_percent: float | None
    """Of the server's cores, taken by other processes; None if it is not pinned."""
    windows_a_packet: float
    windows_a_batch: float
    behind_ms: Spread
    """Ears, of which each is compared with its own best."""
    growth_ms: float
    """Of the median of that, from the first half of the time to the second."""
    lag_ms: tuple[float, float, float]
    """The loop's: 50th and 99th percentile, maximum."""
    collections_ms: tuple[int, float]
    """Full collections of garbage: how many, and the longest."""
    dropped: int
    """Frames of which the ear had 50 waiting."""
    lost: int
    """Packets that the server has not received."""
    late_ms: tuple[float, ...]
    """The generator's: 50th and 99th percentile, maximum."""

    @property
    def carried(self) -> bool:
        """Everything was heard in time, and it could go on like this."""
        heard = not self.failed and not self.dropped and self.lost <= _FULL_LOSS * self.packets_a_s * self.seconds
        return heard and self.behind_ms.p99 <= MOST_BEHIND_MS and self.growth_ms <= MOST_GROWTH_MS

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"carried": self.carried}

    def __str__(self) -> str:
        others = "" if self.others_percent is None else f"; others had {self.others_percent:.0f} % of its cores"
        full = FRAME_S * 1e6 / self.packet_us
        return "\n".join(
            (
                f"{self.devices} devices talk, {self.speech_percent:.0f} % of it speech: {'carried' if self.carried else 'NOT carried'}",
                f"  {self.packets_a_s:.0f} packets/s, {self.lost} lost, {self.dropped} dropped; {self.failed} devices failed",
                f"  server: {self.cpu_percent:.0f} % of a core{others}",
                f"  CPU of a packet: {self.packet_us:.1f} us, of it {self.packet_loop_us:.1f} on the loop; a full core hears {full:.0f}",
                f"  Silero: {self.windows_a_packet:.2f} windows a packet (1.88 without any skipped), {self.windows_a_batch:.1f} a batch",
                f"  ears are behind by   {self.behind_ms} ms, growing by {self.growth_ms:.1f} ms",
                "  loop is late by      p50 {:8.1f}   p99 {:8.1f}   max {:8.1f} ms".format(*self.lag_ms),
                "  {} full collections of garbage, the longest {:.0f} ms".format(*self.collections_ms),
                "  generator is late by p50 {:8.1f}   p99 {:8.1f}   max {:8.1f} ms".format(*self.late_ms),
            )
        )


async def talking(options: argparse.Namespace, servers: Servers, devices: int) -> Talk:
    """One run with so many devices."""
    plan = TalkPlan(
        ota_url=servers.ota_url,
        recordings=[str(path) for path in options.wav],
        devices=devices,
        speech_share=options.speech,
        cores=options.generator_cores,
    )
    before = await _asked(servers)
    async with _generator(plan) as process:
        await asyncio.sleep(SETTLE_S)
        first, busy_before = await _asked(servers), busy_s(options.server_cores)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(options.seconds / 2)
        middle = await _asked(servers)
        await asyncio.sleep(options.seconds / 2)
        last, busy_after = await _asked(servers), busy_s(options.server_cores)
        seconds = asyncio.get_running_loop().time() - began
        result = TalkResult(**json.loads(await _tell(process)))
    received = (await _asked(servers)).received - before.received
    own_s = last.cpu_s - first.cpu_s
    packets = max(1, last.received - first.received)
    windows = last.windows - first.windows
    return Talk(
        devices=devices,
        speech_percent=100 * options.speech,
        seconds=round(seconds, 1),
        failed=len(result.failed),
        packets_a_s=packets / seconds,
        packet_us=own_s / packets * 1e6,
        packet_loop_us=(last.loop_cpu_s - first.loop_cpu_s) / packets * 1e6,
        cpu_percent=100 * own_s / seconds,
        others_percent=max(0.0, 100 * (busy_after - busy_before - own_s) / seconds) if options.server_cores else None,
        windows_a_packet=windows / packets,
        windows_a_batch=windows / max(1, last.batches - first.batches),
        behind_ms=Spread.of(middle.behind_ms + last.behind_ms),
        growth_ms=percentile(last.behind_ms, 0.5) - percentile(middle.behind_ms, 0.5),
        lag_ms=(max(middle.lag_p50_ms, last.lag_p50_ms), max(middle.lag_p99_ms, last.lag_p99_ms), max(middle.lag_max_ms, last.lag_max_ms)),
        collections_ms=(len(middle.gc_ms + last.gc_ms), max(middle.gc_ms + last.gc_ms, default=0.0)),
        dropped=last.queue_dropped - first.queue_dropped,
        lost=result.sent - received,
        late_ms=tuple(result.late_ms),
    )


async def _asked(servers: Servers) -> Answer:
    answer = await servers.ask()
    assert answer is not None
    return answer


@asynccontextmanager
async def _generator(plan: TalkPlan) -> AsyncIterator[asyncio.subprocess.Process]:
    """Devices that talk; when the block is left they have ended."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.load.talkers", stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        if await process.stdout.readline() != b"open\n":
            raise SystemExit("the devices did not start")
        process.stdin.write(b"talk\n")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _tell(process: asyncio.subprocess.Process) -> bytes:
    """End the talk; what the generator has to say about it."""
    output, _ = await process.communicate(b"end\n")
    return output
