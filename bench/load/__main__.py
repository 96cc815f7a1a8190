"""The command: starts the processes, adds up what they measured, looks for the limit."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import bench.load
from bench.load.plan import FleetPlan, FleetResult, parse_impairment
from bench.load.report import Report, merge, report
from bench.load.search import largest
from bench.load.servers import Answer, Servers, own_server
from bench.load.talking import Talk, talking
from bench.load.usage import Usage

RECORDINGS = [Path("examples/question_en.wav"), Path("examples/question_zh.wav")]


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
    """The server's own figures while all devices converse: from the end of the ramp to the end of the first fleet."""

    def __init__(self, servers: Servers, *, after_s: float) -> None:
        self._servers = servers
        self._after_s = after_s
        self._spans: list[tuple[float, Usage]] = []
        self.answer: Answer | None = None

    async def mark(self) -> None:
        self.answer = await self._servers.ask()
        if (found := self._servers.usage()) is not None:
            self._spans.append((asyncio.get_running_loop().time(), found))

    async def begin(self) -> None:
        await asyncio.sleep(self._after_s)
        await self.mark()

    def percent(self) -> float | None:
        if len(self._spans) < 2:
            return None
        (begin, before), (end, after) = self._spans[0], self._spans[1]
        return 100 * (after.cpu_s - before.cpu_s) / (end - begin) if end - begin > 0.5 else None

    def rss_bytes(self) -> int | None:
        return max((found.rss_bytes for _, found in self._spans), default=None)


def plans(options: argparse.Namespace, ota_url: str, devices: int) -> list[FleetPlan]:
    """The devices, shared out evenly."""
    processes = min(options.processes, devices)
    shares = [devices // processes + (number < devices % processes) for number in range(processes)]
    return [
        FleetPlan(
            ota_url=ota_url,
            first=1 + sum(shares[:number]),
            devices=share,
            turns=options.turns,
            ramp_s=options.ramp,
            think_s=options.think,
            recording=str(options.wav[0]),
            impair=options.impair,
            aead=options.aead,
            cores=options.generator_cores,
        )
        for number, share in enumerate(shares)
    ]


async def measure(options: argparse.Namespace, servers: Servers, devices: int, *, idle: Usage | None) -> Report:
    """One run with so many devices."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    meter = Meter(servers, after_s=options.ramp + 1.0)
    async with asyncio.TaskGroup() as group:
        steady = group.create_task(meter.begin(), name="meter")
        fleets = [group.create_task(fleet(plan), name=f"fleet {plan.first}") for plan in plans(options, servers.ota_url, devices)]
        await asyncio.wait(fleets, return_when=asyncio.FIRST_COMPLETED)
        if steady.done():
            await meter.mark()
        steady.cancel()
    percent, rss_bytes = meter.percent(), meter.rss_bytes()
    return report(
        merge([task.result() for task in fleets]),
        devices=devices,
        turns_wanted=devices * options.turns,
        wall_s=loop.time() - started,
        server=meter.answer,
        cpu_percent=None if percent is None else round(percent, 1),
        cpu_percent_per_device=None if percent is None else round(percent / devices, 3),
        rss_mib=None if rss_bytes is None else round(rss_bytes / 2**20, 1),
        rss_kib_per_device=None if rss_bytes is None or idle is None else round((rss_bytes - idle.rss_bytes) / 1024 / devices, 1),
    )


async def run(options: argparse.Namespace) -> int:
    if options.ota_url:
        return await _converse(options, Servers(options.ota_url, [] if options.server_pid is None else [options.server_pid]))
    arguments = ["--vad", options.vad, "--answer-s", str(options.answer_s)]
    arguments += ["--deaf"] if options.mode == "talkers" else []
    arguments += ["--cores", *map(str, options.server_cores)]
    async with own_server(*arguments, workers=options.workers) as servers:
        return await (_talk if options.mode == "talkers" else _converse)(options, servers)


async def _converse(options: argparse.Namespace, servers: Servers) -> int:
    warm_up = argparse.Namespace(**{**vars(options), "turns": 1, "ramp": 0.0, "processes": 1})
    first = await measure(warm_up, servers, 1, idle=None)  # imports, first-time allocations
    if first.failures:
        print(f"One device alone cannot hold a conversation with {servers.ota_url}: {first.failures}", file=sys.stderr)
        return 1
    idle = servers.usage()

    async def one(devices: int) -> Report:
        return await measure(options, servers, devices, idle=idle)

    reports = await _runs(options, one, lambda found: found.within_limit)
    if options.find:
        for note in reports[-1].notes:
            print(f"  but {note}; try more --processes, or another machine for them", file=sys.stderr)
        return 0
    return 1 if reports[-1].failures else 0


async def _talk(options: argparse.Namespace, servers: Servers) -> int:
    async def one(devices: int) -> Talk:
        return await talking(options, servers, devices)

    runs = await _runs(options, one, lambda found: found.carried)
    return 1 if runs[-1].failed else 0


_Run = TypeVar("_Run", Report, Talk)


async def _runs(options: argparse.Namespace, one: Callable[[int], Awaitable[_Run]], good: Callable[[_Run], bool]) -> list[_Run]:
    """The one run, or with ``--find`` as many as it takes; they are printed."""
    runs: list[_Run] = []

    async def carried(devices: int) -> bool:
        runs.append(await one(devices))
        print(runs[-1], file=sys.stderr if options.json else sys.stdout, flush=True)
        return good(runs[-1])

    if not options.find:
        runs.append(await one(options.devices))
        print(json.dumps(runs[0].as_json(), indent=2) if options.json else runs[0])
        return runs
    most, least_bad = await largest(carried, first=options.devices, most=options.max_devices)
    if options.json:
        print(json.dumps({"limit_devices": most, "beyond": least_bad, "runs": [run.as_json() for run in runs]}, indent=2))
    else:
        print(f"Limit: {most} devices" + (f"; {least_bad} were too many" if least_bad is not None else " or more"))
    return runs


def _cores(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.load", description=bench.load.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", nargs="?", choices=("turns", "talkers"), default="turns", help="conversations, or only the way in")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--find", "--find-limit", action="store_true", help="look for the largest number: --devices is the first try")
    parser.add_argument("--max-devices", type=int, default=5000, help="where --find gives up")
    parser.add_argument("--wav", type=Path, nargs="+", default=RECORDINGS, help="what the devices say; in turns only the first")
    parser.add_argument("--json", action="store_true")
    server = parser.add_argument_group("the own server")
    server.add_argument("--vad", choices=("energy", "silero"), help="default: silero for talkers, else energy")
    server.add_argument("--answer-s", type=float, default=3.0, help="seconds of speech in each answer")
    server.add_argument("--workers", type=int, default=1, help="processes of the server")
    server.add_argument("--server-cores", type=_cores, metavar="0,1", help="default: the first for talkers, else any")
    server.add_argument("--generator-cores", type=_cores, metavar="0,1", help="default: all but the first for talkers, else any")
    turns = parser.add_argument_group("turns")
    turns.add_argument("--processes", type=int, default=1, help="processes that the devices are shared out to")
    turns.add_argument("--ramp", type=float, default=3.0, help="seconds over which the devices boot, before their turns")
    turns.add_argument("--think", type=float, default=1.0, help="mean seconds between turns")
    turns.add_argument("--turns", type=int, default=3, help="turns of each device")
    turns.add_argument("--impair", type=parse_impairment, default={}, metavar="loss=0.02,jitter=20", help="both directions of every device")
    turns.add_argument("--aead", action="store_true", help="authenticated audio")
    turns.add_argument("--ota-url", help="a running server instead of an own one")
    turns.add_argument("--server-pid", type=int, help="its process, for CPU and memory")
    talkers = parser.add_argument_group("talkers")
    talkers.add_argument("--speech", type=float, default=0.6, help="share of speech in what they say; 1: no pause at all")
    talkers.add_argument("--seconds", type=float, default=12.0, help="how long is measured")
    options = parser.parse_args()
    if min(options.devices, options.processes, options.turns, options.workers) < 1:
        parser.error("--devices, --processes, --turns and --workers are at least 1")
    if not 0 < options.speech <= 1:
        parser.error("--speech is a share above 0 and up to 1")
    if missing := [path for path in options.wav if not path.is_file()]:
        parser.error(f"{missing[0]}: there is no such file (run it in the project's directory, or give --wav)")
    _complete(options)
    raise SystemExit(asyncio.run(run(options)))


def _complete(options: argparse.Namespace) -> None:
    """What depends on the mode: a server that is measured alone has its cores to itself."""
    apart = options.mode == "talkers"
    cores = sorted(os.sched_getaffinity(0))
    options.vad = options.vad or ("silero" if apart else "energy")
    if options.server_cores is None:
        options.server_cores = cores[: options.workers] if apart else []
    if options.generator_cores is None:
        options.generator_cores = [core for core in cores if core not in options.server_cores] if apart else []


if __name__ == "__main__":
    main()
