"""One process of devices that only talk: reads a :class:`TalkPlan`, says ``open``, and talks from the next line it reads on.

The devices connect, say hello and listen as any other (``bridge.device``), in full duplex; only their microphones are replaced: one
clock for all of them sends the packets, encoded beforehand, each device in a phase of its own. So this process costs little,
and a device sends on time as long as the clock does. Ends, and tells a :class:`TalkResult`, with the next line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from bench.load.cores import pin
from bench.load.pacing import percentile
from bench.load.plan import mac
from bench.machine import raise_file_limit
from bridge.device import Device, DeviceError, DeviceOptions, Speech, encode_speech
from bridge.device.codec import Pcm
from bridge.device.speech import read_wav

NOISE_RMS = 20.0
"""Of a quiet room, of 32768: no digital silence anywhere, so what is skipped is what the firmware's encoder leaves out (DTX)."""
OPENING_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TalkPlan:
    ota_url: str
    recordings: Sequence[str]
    devices: int
    speech_share: float
    cores: Sequence[int] = ()
    frame_ms: int = 60
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class TalkResult:
    """``late_ms``: how late packets left, 50th and 99th percentile and the latest."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)


class Talker(Device):
    """A device whose microphone stays off; :meth:`talk` is what it sends instead."""

    def _start_listening(self) -> None:
        self._publish({"session_id": self.session_id, "type": "listen", "state": "start", "mode": self.mode})

    def talk(self, frame: bytes) -> None:
        self._transmit(frame)


def monologue(recordings: Sequence[Path], *, speech_share: float, frame_ms: int) -> Speech:
    """The recordings, cut to where the voice is, with so much of a quiet room after each that speech has this share (0..1]."""
    pieces: list[Pcm] = []
    for recording in recordings:
        samples = read_wav(recording)
        speech = encode_speech(samples, frame_ms=frame_ms)
        voiced = samples[int(speech.voiced_from_s * 16000) : int(speech.voiced_until_s * 16000)]
        pieces += [voiced, np.zeros(round(len(voiced) * (1 - speech_share) / speech_share), np.int16)]
    said = np.concatenate(pieces)
    room = np.random.default_rng(0).normal(0, NOISE_RMS, len(said))
    noisy: Pcm = np.clip(said + room, -32768, 32767).astype(np.int16)
    return encode_speech(noisy, frame_ms=frame_ms)


async def run(plan: TalkPlan) -> TalkResult:
    loop = asyncio.get_running_loop()
    speech = monologue([Path(name) for name in plan.recordings], speech_share=plan.speech_share, frame_ms=plan.frame_ms)
    result = TalkResult()
    async with AsyncExitStack() as stack:
        options = [DeviceOptions(ota_url=plan.ota_url, device_id=mac(1 + number), mode="realtime") for number in range(plan.devices)]
        talkers = [await stack.enter_async_context(Talker(each)) for each in options]
        gate = asyncio.Semaphore(OPENING_AT_ONCE)
        async with asyncio.TaskGroup() as opening:
            for talker in talkers:
                opening.create_task(_open(talker, gate, result))
        print("open", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        over = loop.run_in_executor(None, sys.stdin.readline)
        await talk(talkers, speech, over, result, dice=random.Random(plan.seed))
        for talker in talkers:
            await talker.goodbye()
    return result


async def talk(talkers: Sequence[Talker], speech: Speech, over: asyncio.Future[str], result: TalkResult, *, dice: random.Random) -> None:
    """All at once, until ``over``; each begins at a place of its own in the monologue and in the frame."""
    loop = asyncio.get_running_loop()
    frame_s, frames = speech.frame_ms / 1000, speech.frames
    cast = sorted((dice.random() * frame_s, dice.randrange(len(frames)), number) for number in range(len(talkers)))
    begin = loop.time()
    lates: list[float] = []
    for turn in range(sys.maxsize):
        for phase_s, place, number in cast:
            due = begin + turn * frame_s + phase_s
            wait_s = due - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                if over.done():
                    result.late_ms = [round(percentile(lates, share) * 1000, 2) for share in (0.5, 0.99, 1.0)]
                    return
            talkers[number].talk(frames[(place + turn) % len(frames)])
            lates.append(max(0.0, loop.time() - due))
            result.sent += 1


async def _open(talker: Talker, gate: asyncio.Semaphore, result: TalkResult) -> None:
    async with gate:
        try:
            await talker.boot()
            await talker.start_listening()
        except (DeviceError, TimeoutError) as error:
            result.failed.append(str(error) or type(error).__name__)


def main() -> None:
    plan = TalkPlan(**json.loads(sys.stdin.readline()))
    pin(plan.cores)
    raise_file_limit()
    print(json.dumps(asdict(uvloop.run(run(plan)))), flush=True)


if __name__ == "__main__":
    main()
