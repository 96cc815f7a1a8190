"""Many short conversations, one after another and beside each other, and what is left of them.

    python -m bench.soak [--sessions 10000] [--devices 50]

Real registry, sessions, turns, Opus and ciphers; scripted engines, devices without sockets, and a virtual clock, so that
pauses take no time. A tenth of the sessions comes before the first measurement. One JSON line: figures before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from mqtt_control.messages import Abort, Goodbye, TtsStop
from tests.bridge.house import House, Inhabitant, house
from tests.scripted import ScriptedAsr, ScriptedLlm, ScriptedTts, tone
from tests.virtual_time import run

TALK_FRAMES = 6
LEAST_PAUSE_FRAMES = 20
TURN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Holding:
    """What the process holds at one moment."""

    rss_mb: float
    tasks: int
    channels_open: int
    sessions: int
    devices: int
    objects: int


@dataclass(frozen=True)
class Report:
    sessions: int
    turns: int
    wall_s: float
    virtual_s: float
    before: Holding
    after: Holding
    problems: int
    """Lines in the log that are errors."""


async def soak(*, sessions: int, devices: int) -> Report:
    """Hold so many conversations in all, spread over so many devices that talk at the same time."""
    problems: list[str] = []
    structlog.configure(processors=[_keep_errors(problems)])
    loop = asyncio.get_running_loop()
    began_s, wall_s = loop.time(), time.perf_counter()
    async with house(keep=False, settings={"session.idle_timeout_s": 30}) as home:
        people = [Inhabitant(home, number) for number in range(devices)]
        stops = _Stops(home)
        for person in people:
            person.connect()
        warm_up = max(devices, sessions // 10)
        await _round(home, people, stops, warm_up)
        before = _holding(home)
        await _round(home, people, stops, sessions - warm_up)
        after = _holding(home)
        turns = stops.count
    return Report(sessions, turns, round(time.perf_counter() - wall_s, 1), round(loop.time() - began_s), before, after, len(problems))


class _Stops:
    """Who has been answered: `tts stop` is the end of a turn."""

    def __init__(self, home: House) -> None:
        self.count = 0
        self._waiting: dict[str, asyncio.Event] = {}
        home.on_sent = self._note

    def of(self, person: Inhabitant) -> asyncio.Event:
        event = self._waiting[person.identity.device_id] = asyncio.Event()
        return event

    def _note(self, device_id: str, message: object) -> None:
        if isinstance(message, TtsStop):
            self.count += 1
            if device_id in self._waiting:
                self._waiting[device_id].set()


async def _round(home: House, people: list[Inhabitant], stops: _Stops, sessions: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for index, person in enumerate(people):
            share = range(index, sessions, len(people))
            tasks.create_task(_live(home, person, stops, share), name=f"device {index}")
    await asyncio.sleep(120)  # grace, idle time-outs and history are over


async def _live(home: House, person: Inhabitant, stops: _Stops, numbers: range) -> None:
    engines = home.services.engines
    asr, llm, tts = engines.asr, engines.llm, engines.tts
    assert isinstance(asr, ScriptedAsr)
    assert isinstance(llm, ScriptedLlm)
    assert isinstance(tts, ScriptedTts)
    for number in numbers:
        grant = person.hello()
        answered = stops.of(person)
        mode = ("auto", "manual", "realtime")[number % 3]
        person.listen(mode=mode)
        for _ in range(TALK_FRAMES):
            await asyncio.sleep(0.06)
            person.audio(tone(0.06))
        if mode == "manual":
            person.listen("stop", mode=mode)
        async with asyncio.timeout(TURN_TIMEOUT_S):
            while not answered.is_set():
                await asyncio.sleep(0.06)
                if mode != "manual":
                    person.audio()
                if number % 5 == 0 and person.session.state == "speaking":
                    person.tell(Abort(session_id=grant.session_id))
        for kept in (asr.utterances, llm.histories, llm.offered, tts.texts):
            kept.clear()  # scripted engines remember everything
        await _part(home, person, grant.session_id, way=number % 4)


async def _part(home: House, person: Inhabitant, session_id: str, *, way: int) -> None:
    """The ways in which a session ends."""
    match way:
        case 0:
            person.tell(Goodbye(session_id=session_id))
        case 1:
            home.registry.device_disconnected(person.identity)
            await asyncio.sleep(100)
            person.connect()
        case 2:
            await asyncio.sleep(60)  # silence
        case _:
            pass  # the next hello replaces it


def _keep_errors(problems: list[str]) -> structlog.types.Processor:
    def process(_logger: object, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        if method in {"error", "critical", "exception"}:
            problems.append(str(event["event"]))
            print(method, dict(event), file=sys.stderr)
        raise structlog.DropEvent

    return process


def _holding(home: House) -> Holding:
    gc.collect()
    return Holding(
        rss_mb=round(_rss_bytes() / 1e6, 1),
        tasks=len(asyncio.all_tasks()),
        channels_open=home.audio.stats.channels_open,
        sessions=len(home.registry.sessions),
        devices=len(home.registry.devices),
        objects=len(gc.get_objects()),
    )


def _rss_bytes() -> int:
    """Resident memory; the largest so far where the system does not tell the present one."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--devices", type=int, default=50)
    options = parser.parse_args()
    report = run(soak(sessions=options.sessions, devices=options.devices))
    print(json.dumps(asdict(report)))
    before, after = report.before, report.after
    clean = (after.tasks, after.channels_open, after.sessions) == (before.tasks, before.channels_open, before.sessions)
    sys.exit(0 if clean and not report.problems else 1)


if __name__ == "__main__":
    main()
