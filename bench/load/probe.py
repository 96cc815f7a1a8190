"""What a server under load tells about itself: the part of a bench that runs inside the server's process.

It sees when each datagram left (so the server's share of the pacing error can be told from the receivers'), how far each ear is
behind its microphone, how late the loop is, and how long garbage collections take. All of it costs some microseconds a packet.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.load.pacing import pacing
from bench.server import LagProbe
from providers.base import Pcm, Vad, VadStream
from udp_audio.address import Address
from udp_audio.server import AudioServer

ANSWER_PAUSE_S = 0.9
"""Between two answers to one device at least: closing silence, thinking."""
HEARD_SHARE = 16
"""Of so many packets heard one is looked at."""
SAMPLE_RATE_HZ = 16000

Sent = tuple[float, int]
"""When, and which sequence number."""


class WatchedAudioServer(AudioServer):
    """Notes when each datagram left."""

    def __init__(self) -> None:
        super().__init__()
        self.log: defaultdict[Address, list[Sent]] = defaultdict(list)

    def transmit(self, datagram: bytes, address: Address) -> None:
        super().transmit(datagram, address)
        self.log[address].append((time.perf_counter(), int.from_bytes(datagram[12:16])))

    @property
    def queue_dropped(self) -> int:
        """Frames that came faster than the ears took them, of all open channels."""
        return sum(channel.stats.queue_dropped for channel in self._channels.values())


@dataclass(slots=True)
class Hearing:
    """How far ears are behind their microphones, in seconds, each compared with its own best."""

    behind_s: list[float] = field(default_factory=list)


class WatchedStream:
    """One ear's stream. A microphone never stops, so the samples heard so far are its clock."""

    def __init__(self, stream: VadStream, hearing: Hearing) -> None:
        self.window_samples = stream.window_samples
        self._stream = stream
        self._hearing = hearing
        self._samples = 0
        self._packets = 0
        self._least_s = float("inf")

    async def feed(self, samples: Pcm) -> list[float]:
        found = await self._stream.feed(samples)
        self._samples += len(samples)
        self._packets += 1
        if self._packets % HEARD_SHARE == 0:
            behind_s = time.perf_counter() - self._samples / SAMPLE_RATE_HZ
            self._least_s = min(self._least_s, behind_s)
            self._hearing.behind_s.append(behind_s - self._least_s)
        return found

    def reset(self) -> None:
        self._stream.reset()


class WatchedVad:
    """A detector whose streams are watched."""

    def __init__(self, vad: Vad) -> None:
        self.inner = vad
        self.hearing = Hearing()

    async def warm(self) -> None:
        await self.inner.warm()

    def open(self) -> WatchedStream:
        return WatchedStream(self.inner.open(), self.hearing)

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass(slots=True)
class Collections:
    """Garbage collections: how long each took, in milliseconds. The loop stands still meanwhile."""

    pauses_ms: list[float] = field(default_factory=list)
    _began: float = 0.0

    def note(self, phase: str, info: dict[str, int]) -> None:
        """For ``gc.callbacks``."""
        if phase == "start":
            self._began = time.perf_counter()
        elif info["generation"] == 2:
            self.pauses_ms.append((time.perf_counter() - self._began) * 1000)


class Probe:
    """All of it together; :meth:`answer` says what has happened since it was last asked."""

    def __init__(self, audio: Callable[[], WatchedAudioServer | None], vad: WatchedVad) -> None:
        self._audio = audio
        self._vad = vad
        self._lag = LagProbe()
        self._collections = Collections()

    async def serve(self, path: str, facts: dict[str, Any]) -> None:
        """Tell ``facts`` to the bench that listens at ``path``, then answer each of its lines. Returns when it hangs up."""
        gc.callbacks.append(self._collections.note)
        reader, writer = await asyncio.open_unix_connection(path)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._lag.watch(), name="lag probe")
            writer.write(json.dumps(facts).encode() + b"\n")
            while await reader.readline():
                writer.write(json.dumps(self.answer()).encode() + b"\n")
            watch.cancel()
        writer.close()
        gc.callbacks.remove(self._collections.note)

    def answer(self) -> dict[str, Any]:
        """To be called on the loop: it is its thread's CPU time that is told. Totals are since the start, lists since the last time."""
        audio, stats = self._audio(), getattr(self._vad.inner, "stats", None)
        send_ms, send_gaps = ([], 0) if audio is None else paced(audio.log)
        if audio is not None:
            audio.log.clear()
        behind_s, self._vad.hearing.behind_s = self._vad.hearing.behind_s, []
        pauses_ms, self._collections.pauses_ms = self._collections.pauses_ms, []
        return {
            "cpu_s": time.process_time(),
            "loop_cpu_s": time.thread_time(),
            "received": 0 if audio is None else audio.stats.received,
            "queue_dropped": 0 if audio is None else audio.queue_dropped,
            "windows": 0 if stats is None else stats.windows,
            "batches": 0 if stats is None else stats.batches,
            "silent_windows": 0 if stats is None else stats.silent_windows,
            "behind_ms": [round(behind * 1000, 1) for behind in behind_s],
            "gc_ms": [round(pause, 2) for pause in pauses_ms],
            "send_ms": send_ms,
            "send_gaps": send_gaps,
            **self._lag.take(),
        }


def paced(log: dict[Address, list[Sent]], *, frame_s: float = 0.06) -> tuple[list[float], int]:
    """Milliseconds that packets left after their time, and gaps over 100 ms, of all answers in a log."""
    errors_ms: list[float] = []
    gaps = 0
    for sends in log.values():
        for answer in answers(sends):
            found = pacing(answer, frame_s=frame_s)
            errors_ms += [round(error_s * 1000, 1) for error_s in found.errors_s]
            gaps += found.gaps
    return errors_ms, gaps


def answers(sends: list[Sent]) -> list[list[Sent]]:
    """The packets of one device, cut where an answer ends."""
    cuts = [number for number, (before, after) in enumerate(itertools.pairwise(sends), 1) if after[0] - before[0] > ANSWER_PAUSE_S]
    return [sends[start:end] for start, end in itertools.pairwise([0, *cuts, len(sends)]) if end > start]
