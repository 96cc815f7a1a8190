"""The bridge as a process of a bench: with scripted engines or the real ones, its own loop's lag watched.

Reads its plan as a JSON line, then answers each further line with what has happened since the last one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from bench.engines import scripted
from bench.machine import resident_mb, threads
from bench.report import percentile
from bridge import logs
from bridge.app import bridge
from settings.load import load
from settings.model import Log

PROBE_S = 0.005


class LagProbe:
    """How late the loop runs what is due, sampled every 5 ms."""

    def __init__(self) -> None:
        self._lags_ms: list[float] = []

    async def watch(self) -> None:
        while True:
            due = time.perf_counter() + PROBE_S
            await asyncio.sleep(PROBE_S)
            self._lags_ms.append(max(0.0, time.perf_counter() - due) * 1000)

    def take(self) -> dict[str, float]:
        lags, self._lags_ms = self._lags_ms, []
        return {"lag_p50_ms": percentile(lags, 50), "lag_p99_ms": percentile(lags, 99), "lag_max_ms": max(lags, default=0.0)}


async def serve(plan: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    settings = load(None, environ={}, overrides=plan["settings"])
    engines = partial(scripted, **plan["scripted"]) if plan["scripted"] else None
    probe = LagProbe()
    async with bridge(settings, providers=engines) as facts, asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(probe.watch(), name="lag probe")
        answer(
            {"ota_url": f"http://127.0.0.1:{facts.http_port}/xiaozhi/ota/", "metrics_url": f"http://127.0.0.1:{facts.http_port}/metrics"}
        )
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if json.loads(line).get("collect"):
                gc.collect()
            answer({"rss_mb": resident_mb(), "threads": threads(), "cpu_s": time.process_time(), "warm": warm(plan), **probe.take()})
        watch.cancel()


def warm(plan: dict[str, Any]) -> bool:
    """All engines are loaded."""
    return "all engines are warm" in Path(plan["log"]).read_text(encoding="utf-8")


def answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    with Path(plan["log"]).open("a", buffering=1, encoding="utf-8") as log, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        logs.configure(Log(format="json"), stream=log)
        runner.run(serve(plan))


if __name__ == "__main__":
    main()
