"""The command: starts the processes, adds up what they measured, looks for the limit."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import bench.load
from bench.load.plan import FleetPlan, FleetResult, parse_impairment
from bench.load.report import Report, merge, report
from bench.load.usage import Usage, usage

RECORDING = Path("examples/question_en.wav")
GROWTH = 1.5
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """The server; ``pid`` where its CPU and memory can be read."""

    ota_url: str
    pid: int | None


@asynccontextmanager
async def own_server(options: argparse.Namespace) -> AsyncIterator[Target]:
    """A server in a process of its own."""
    arguments = ("-m", "bench.load.server", "--vad", options.vad, "--answer-s", str(options.answer_s))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        facts = json.loads(line)
        yield Target(facts["ota_url"], facts["pid"])
    finally:
        process.stdin.close()
        await process.communicate()


async def fleet(plan: FleetPlan) -> FleetResult:
    """One process of devices, from start to end; cancelled, it is killed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.load.fleet", stdin=pipe, stdout=pipe)
    try:
        output, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return FleetResult(failures={"process died": plan.devices})
    return FleetResult(**json.loads(output))


class Meter:
    """CPU of the server while all devices converse: from the end of the ramp to the end of the first fleet."""

    def __init__(self, pid: int | None, *, after_s: float) -> None:
        self._pid = pid
        self._after_s = after_s
        self._spans: list[tuple[float, Usage]] = []

    def mark(self) -> None:
        found = usage(self._pid) if self._pid is not None else None
        if found is not None:
            self._spans.append((asyncio.get_running_loop().time(), found))

    async def begin(self) -> None:
        await asyncio.sleep(self._after_s)
        self.mark()

    def percent(self) -> float | None:
        if len(self._spans) < 2:
            return None
        (begin, before), (end, after) = self._spans[0], self._spans[1]
        return 100 * (after.cpu_s - before.cpu_s) / (end - begin) if end - begin > 0.5 else None

    def rss_bytes(self) -> int | None:
        return max((found.rss_bytes for _, found in self._spans), default=None)


def plans(options: argparse.Namespace, target: Target, devices: int) -> list[FleetPlan]:
    """The devices, shared out evenly."""
    processes = min(options.processes, devices)
    shares = [devices // processes + (number < devices % processes) for number in range(processes)]
    return [
        FleetPlan(
            ota_url=target.ota_url,
            first=1 + sum(shares[:number]),
            devices=share,
            turns=options.turns,
            ramp_s=options.ramp,
            think_s=options.think,
            recording=str(options.wav),
            impair=options.impair,
            aead=options.aead,
        )
        for number, share in enumerate(shares)
    ]


async def measure(options: argparse.Namespace, target: Target, devices: int, *, idle: Usage | None) -> Report:
    """One run with so many devices."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    meter = Meter(target.pid, after_s=options.ramp + 1.0)
    async with asyncio.TaskGroup() as group:
        steady = group.create_task(meter.begin(), name="meter")
        fleets = [group.create_task(fleet(plan), name=f"fleet {plan.first}") for plan in plans(options, target, devices)]
        await asyncio.wait(fleets, return_when=asyncio.FIRST_COMPLETED)
        if steady.done():
            meter.mark()
        steady.cancel()
    percent, rss_bytes = meter.percent(), meter.rss_bytes()
    return report(
        merge([task.result() for task in fleets]),
        devices=devices,
        turns_wanted=devices * options.turns,
        wall_s=loop.time() - started,
        cpu_percent=None if percent is None else round(percent, 1),
        cpu_percent_per_device=None if percent is None else round(percent / devices, 3),
        rss_mib=None if rss_bytes is None else round(rss_bytes / 2**20, 1),
        rss_kib_per_device=None if rss_bytes is None or idle is None else round((rss_bytes - idle.rss_bytes) / 1024 / devices, 1),
    )


async def find_limit(options: argparse.Namespace, target: Target, *, idle: Usage | None) -> list[Report]:
    """Half as many devices again each time, until one run is not within the limit any more."""
    reports: list[Report] = []
    devices = options.devices
    while not reports or (reports[-1].within_limit and devices <= options.max_devices):
        reports.append(await measure(options, target, devices, idle=idle))
        print(reports[-1], file=sys.stderr if options.json else sys.stdout, flush=True)
        devices = math.ceil(devices * GROWTH)
    return reports


async def run(options: argparse.Namespace) -> int:
    if options.ota_url:
        return await _run_against(options, Target(options.ota_url, options.server_pid))
    async with own_server(options) as target:
        return await _run_against(options, target)


async def _run_against(options: argparse.Namespace, target: Target) -> int:
    warm_up = argparse.Namespace(**{**vars(options), "turns": 1, "ramp": 0.0, "processes": 1})
    first = await measure(warm_up, target, 1, idle=None)  # imports, first-time allocations
    if first.failures:
        print(f"One device alone cannot hold a conversation with {target.ota_url}: {first.failures}", file=sys.stderr)
        return 1
    idle = usage(target.pid) if target.pid is not None else None
    if options.find_limit:
        reports = await find_limit(options, target, idle=idle)
        good = [one.devices for one in reports if one.within_limit]
        limit = max(good, default=0)
        if options.json:
            print(json.dumps({"limit_devices": limit, "runs": [one.as_json() for one in reports]}, indent=2))
        else:
            print(f"Limit: {limit} devices{'' if not reports[-1].within_limit else ' or more'}")
            for note in reports[-1].notes:
                print(f"  but {note}; try more --processes, or another machine for them")
        return 0
    found = await measure(options, target, options.devices, idle=idle)
    print(json.dumps(found.as_json(), indent=2) if options.json else found)
    return 1 if found.failures else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.load", description=bench.load.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1, help="processes that the devices are shared out to")
    parser.add_argument("--ramp", type=float, default=3.0, help="seconds over which the devices boot, before their turns")
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds between turns")
    parser.add_argument("--turns", type=int, default=3, help="turns of each device")
    parser.add_argument(
        "--impair", type=parse_impairment, default={}, metavar="loss=0.02,jitter=20", help="both directions of every device"
    )
    parser.add_argument("--aead", action="store_true", help="authenticated audio")
    parser.add_argument("--wav", type=Path, default=RECORDING, help="what the devices say")
    parser.add_argument("--ota-url", help="a running server instead of an own one")
    parser.add_argument("--server-pid", type=int, help="its process, for CPU and memory")
    parser.add_argument("--vad", choices=("energy", "silero"), default="energy", help="of the own server")
    parser.add_argument("--answer-s", type=float, default=3.0, help="seconds of speech in each answer of the own server")
    parser.add_argument("--find-limit", action="store_true", help="more and more devices, until the p99 pacing error passes 20 ms")
    parser.add_argument("--max-devices", type=int, default=5000, help="where --find-limit gives up")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.devices < 1 or options.processes < 1 or options.turns < 1:
        parser.error("--devices, --processes and --turns are at least 1")
    if not options.wav.is_file():
        parser.error(f"{options.wav}: there is no such file (run it in the project's directory, or give --wav)")
    raise SystemExit(asyncio.run(run(options)))


if __name__ == "__main__":
    main()
