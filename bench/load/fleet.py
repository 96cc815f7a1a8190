"""One process of simulated devices: reads a :class:`FleetPlan`, prints a :class:`FleetResult`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from dataclasses import asdict
from pathlib import Path

import uvloop

from bench.load.cores import pin
from bench.load.pacing import pacing
from bench.load.plan import FleetPlan, FleetResult, impairment, mac
from bench.machine import raise_file_limit
from bridge.device import Device, DeviceOptions, Speech
from bridge.device.datagram import Received
from bridge.device.errors import DeviceError
from bridge.device.speech import load_speech
from bridge.device.turn_record import TurnRecord

LAG_PERIOD_S = 0.05
SETTLE_S = 0.5
"""From the end of the ramp to the first turns: booting devices take the receiver's time, and nothing is measured meanwhile."""


class TimedDevice(Device):
    """Keeps when each packet of the current answer came. Nothing is decoded."""

    def __init__(self, options: DeviceOptions) -> None:
        super().__init__(options)
        self.packets: list[tuple[float, int]] = []

    def _packet_arrived(self, packet: Received) -> None:
        self.packets.append((self._loop.time(), packet.sequence))
        super()._packet_arrived(packet)


async def run(plan: FleetPlan) -> FleetResult:
    """All devices from power on to power off."""
    result = FleetResult()
    steady_at = asyncio.get_running_loop().time() + plan.ramp_s + SETTLE_S
    speech = load_speech(Path(plan.recording), frame_ms=plan.frame_ms)
    async with asyncio.TaskGroup() as group:
        lag = group.create_task(_watch_lag(result, steady_at), name="lag")
        async with asyncio.TaskGroup() as devices:
            for index in range(plan.devices):
                devices.create_task(_live(plan, index, speech, result, steady_at), name=f"device {index}")
        lag.cancel()
    return result


async def _live(plan: FleetPlan, index: int, speech: Speech, result: FleetResult, steady_at: float) -> None:
    dice = random.Random(plan.first + index)
    await asyncio.sleep(plan.ramp_s * index / max(1, plan.devices))
    options = DeviceOptions(
        ota_url=plan.ota_url,
        device_id=mac(plan.first + index),
        impairment=impairment(plan.impair, seed=plan.first + index),
        decode=False,
        aead=plan.aead,
    )
    try:
        async with TimedDevice(options) as device:
            await device.boot()
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, steady_at - loop.time()))
            for _ in range(plan.turns):
                await asyncio.sleep(plan.think_s * dice.uniform(0.5, 1.5))
                device.packets.clear()
                _note(result, await device.converse(speech, timeout_s=plan.timeout_s), device)
            await device.goodbye()
    except DeviceError as error:
        _fail(result, type(error).__name__)
    except TimeoutError:
        _fail(result, "TimeoutError")


def _fail(result: FleetResult, kind: str) -> None:
    result.failures[kind] = result.failures.get(kind, 0) + 1


def _note(result: FleetResult, turn: TurnRecord, device: TimedDevice) -> None:
    assert device.grant is not None
    result.turns += 1
    for name, values in (("stt", result.stt_ms), ("first_audio", result.first_audio_ms)):
        after_s = turn.stamps.after_speech(name)
        if after_s is not None:
            values.append(after_s * 1000)
    paced = pacing(device.packets, frame_s=device.grant.audio.frame_ms / 1000)
    result.pacing_ms += [error_s * 1000 for error_s in paced.errors_s]
    result.lead_frames.append(paced.lead_frames)
    result.packets += len(device.packets)
    result.gaps += paced.gaps
    result.lost += paced.lost
    result.underruns += turn.counters.underruns


async def _watch_lag(result: FleetResult, steady_at: float) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, steady_at - loop.time()))
    while True:
        due = loop.time() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        result.lag_ms.append((loop.time() - due) * 1000)


def main() -> None:
    raise_file_limit()
    plan = FleetPlan(**json.load(sys.stdin))
    pin(plan.cores)
    result = uvloop.run(run(plan))
    for name in ("stt_ms", "first_audio_ms", "pacing_ms", "lag_ms"):
        setattr(result, name, [round(value, 1) for value in getattr(result, name)])
    _write_all(json.dumps(asdict(result), separators=(",", ":")).encode())


def _write_all(data: bytes) -> None:
    """To standard output. An unbuffered one (PYTHONUNBUFFERED) writes what a pipe holds, and drops the rest."""
    os.set_blocking(1, True)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]


if __name__ == "__main__":
    main()
