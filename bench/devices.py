"""Simulated devices as a process of a bench: real OTA, MQTT, encrypted UDP and Opus; what they hear is timed, not decoded.

Reads one plan (:class:`Plan`) as a JSON line, answers ``open`` once all have a session, then, when told to, lets them
talk and answers with every turn's times.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import percentile
from bridge.device import Device, DeviceError, DeviceOptions, Speech, encode_speech
from bridge.device.codec import Pcm
from bridge.device.datagram import Received
from bridge.device.speech import read_wav
from bridge.device.turn_record import TurnRecord

TRAILING_SILENCE_S = 1.5
"""After the words, from the same encoder: the packets in which the server finds the end of the utterance."""
OPENING_AT_ONCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    ota_url: str
    recording: str
    devices: int
    first_device: int = 0
    """Number of the first one: part of its address."""
    turns: int = 1
    pause_s: float = 0.0
    """Before each turn a device waits up to so long, at random."""
    seconds: float = 120.0
    """After so long the turns that are under way are dropped."""
    end_packets: tuple[int, ...] = ()
    """For each phase of the VAD's windows: the packet of the recording with which the closing silence is complete."""
    seed: int = 1


@dataclass(slots=True)
class TurnTimes:
    """One turn as a device saw it, in milliseconds. ``answer_ms``: from the packet that completed the closing silence to the first
    packet of the answer. ``pace_ms``: how late each packet after the lead came, by the pace of the first one."""

    device: int
    number: int
    answer_ms: float
    after_speech_ms: dict[str, float]
    gaps_ms: list[float] = field(default_factory=list)
    pace_ms: list[float] = field(default_factory=list)
    underruns: int = 0


class TimedDevice(Device):
    """A device that notes when each packet left and came."""

    def __init__(self, options: DeviceOptions) -> None:
        super().__init__(options)
        self.sent_at: list[float] = []
        """Packets since the last ``listen start``."""
        self.arrived_at: list[float] = []

    def _start_listening(self) -> None:
        self.sent_at = []
        super()._start_listening()

    def _transmit(self, frame: bytes) -> None:
        self.sent_at.append(self._loop.time())
        super()._transmit(frame)

    def _packet_arrived(self, packet: Received) -> None:
        self.arrived_at.append(self._loop.time())
        super()._packet_arrived(packet)


async def talk(device: TimedDevice, number: int, plan: Plan, speech: Speech, turns: list[TurnTimes]) -> None:
    """All turns of one device."""
    chance = random.Random(plan.seed * 1000 + number)
    for turn in range(plan.turns):
        await asyncio.sleep(chance.uniform(0, plan.pause_s))
        before = device.snapshot()
        if not device.microphone.on:
            await device.start_listening()
        sent = device.sent_at
        device.arrived_at = []
        said = await device.microphone.say(speech)
        record = await device.await_reply(before, said=said)
        turns.append(_times(device, record, (number, turn), (sent, said.started_s), plan.end_packets))


def _times(
    device: TimedDevice, record: TurnRecord, name: tuple[int, int], sent: tuple[list[float], float], end_packets: tuple[int, ...]
) -> TurnTimes:
    packets, started_s = sent
    first = sum(at < started_s for at in packets)
    arrivals = device.arrived_at
    answer_ms = -1.0
    if end_packets and arrivals:
        end = first + end_packets[first % len(end_packets)]
        answer_ms = (arrivals[0] - packets[min(end, len(packets) - 1)]) * 1000
    stages = ("stt", "tts_start", "first_audio")
    after = {stage: seconds * 1000 for stage in stages if (seconds := record.stamps.after_speech(stage)) is not None}
    times = TurnTimes(*name, answer_ms, after, underruns=record.counters.underruns)
    lead, frame_s = 4, 0.06
    for index in range(lead, len(arrivals)):
        times.gaps_ms.append((arrivals[index] - arrivals[index - 1]) * 1000)
        times.pace_ms.append((arrivals[index] - arrivals[0] - (index - lead + 1) * frame_s) * 1000)
    return times


async def run(plan: Plan) -> None:
    loop = asyncio.get_running_loop()
    speech = with_silence(Path(plan.recording))
    turns: list[TurnTimes] = []
    failed: list[str] = []
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(TimedDevice(_options(plan, number))) for number in range(plan.devices)]
        gate = asyncio.Semaphore(OPENING_AT_ONCE)
        async with asyncio.TaskGroup() as opening:
            for device in devices:
                opening.create_task(_open(device, gate))
        answer({"state": "open"})
        await loop.run_in_executor(None, sys.stdin.readline)
        lags: list[float] = []
        watch = asyncio.TaskGroup()
        async with watch:
            probe = watch.create_task(_watch_lag(lags))
            await _let_talk(devices, plan, speech, turns, failed)
            probe.cancel()
        late = sum(device.microphone.stats.late_frames for device in devices)
        answer({"turns": [asdict(turn) for turn in turns], "failed": failed, "late_frames": late, "lag_p99_ms": percentile(lags, 99)})
        for device in devices:
            await device.goodbye()
        await loop.run_in_executor(None, sys.stdin.readline)


async def _let_talk(devices: list[TimedDevice], plan: Plan, speech: Speech, turns: list[TurnTimes], failed: list[str]) -> None:
    async def one(number: int, device: TimedDevice) -> None:
        try:
            await talk(device, number, plan, speech, turns)
        except (DeviceError, TimeoutError) as error:
            failed.append(str(error) or type(error).__name__)

    try:
        async with asyncio.timeout(plan.seconds), asyncio.TaskGroup() as group:
            for number, device in enumerate(devices):
                group.create_task(one(number, device))
    except TimeoutError:
        pass


async def _watch_lag(lags: list[float]) -> None:
    while True:
        due = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        lags.append(max(0.0, time.perf_counter() - due) * 1000)


async def _open(device: TimedDevice, gate: asyncio.Semaphore) -> None:
    async with gate:
        await device.boot()
        await device.start_listening()


def _options(plan: Plan, number: int) -> DeviceOptions:
    return DeviceOptions(
        ota_url=plan.ota_url, device_id=(0x020000000000 + plan.first_device + number).to_bytes(6, "big").hex(":"), decode=False
    )


def with_silence(recording: Path) -> Speech:
    """The packets of a WAV file and of the silence after it."""
    return silence_after(read_wav(recording))


def silence_after(samples: Pcm) -> Speech:
    """The packets of these samples (16 kHz) and of the silence after them, as one microphone sends them."""
    return encode_speech(np.concatenate((samples, np.zeros(round(16000 * TRAILING_SILENCE_S), np.int16))))


def answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    plan["end_packets"] = tuple(plan.get("end_packets", ()))
    asyncio.run(run(Plan(**plan)))  # not uvloop: its clock has whole milliseconds


if __name__ == "__main__":
    main()
