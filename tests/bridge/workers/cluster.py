"""A server of several worker processes, as an operator starts it.

The engines are those of ``tests.scripted``, which the processes find as a third party's providers: by entry point.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.device import Device, DeviceError, Speech

ROOT = Path(__file__).parents[3]
ROLES = {"vad": "EnergyVad", "asr": "ScriptedAsr", "llm": "ScriptedLlm", "tts": "ScriptedTts"}
WORKERS = 2
FEW_FILES = 300
"""The soft limit of open files that the server is started with, as many systems have a low one."""
PATIENCE_S = 40.0
"""For what takes one second on an idle machine."""


@dataclass
class Cluster:
    """One running server."""

    process: subprocess.Popen[bytes]
    log: Path
    data_dir: Path

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Log lines of this event."""
        return [line for line in self.every_line() if line["event"] == event]

    def every_line(self) -> list[dict[str, Any]]:
        texts = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(text) for text in texts if text.startswith("{")]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.lines('ready')[0]['http_port']}"

    @property
    def workers(self) -> dict[int, tuple[int, int]]:
        """Worker -> pid and UDP port, of those that were ready last."""
        return {line["worker"]: (line["pid"], line["udp_port"]) for line in self.lines("worker ready")}

    @property
    def token(self) -> str:
        return str(json.loads((self.data_dir / "admin.json").read_text())["token"])

    async def metric(self, pattern: str) -> float:
        """The sum of all samples that the pattern matches."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            text = (await http.get(f"{self.url}/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line))


@contextmanager
def serving(directory: Path, *more: str) -> Iterator[Cluster]:
    """A server with scripted engines; killed on leaving, should it still be there."""
    plugin = directory / "plugin" / "scripted_engines-1.0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted-engines\nVersion: 1.0\n")
    points = "".join(f"[xiaozhi_bridge.{role}]\nscripted = tests.scripted:{name}\n" for role, name in ROLES.items())
    (plugin / "entry_points.txt").write_text(points)
    arguments = ["serve", "--data-dir", "data", "--host", "127.0.0.1", "--workers", str(WORKERS), "--json-logs"]
    arguments += [f"--{name}-port=0" for name in ("http", "mqtt", "udp")]
    kinds = [f"{role}.kind=scripted" for role in ROLES]
    for one in [*kinds, "intent.kind=none", "advertise.host=127.0.0.1", "session.greeting=", *more]:
        arguments += ["--set", one]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("XZ_")}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'ulimit -Sn {FEW_FILES}; exec "$@"', "sh", sys.executable, "-m", "bridge.cli", *arguments],
            cwd=directory,
            env=inherited | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(plugin.parent)))},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    cluster = Cluster(process, directory / "log", directory / "data")
    try:
        wait_until(lambda: process.poll() is not None or bool(cluster.lines("ready")))
        yield cluster
    finally:
        process.kill()  # the workers notice
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S  # noqa: TID251 - there is no event loop here
    while not condition():
        assert time.monotonic() < deadline, "it does not come"  # noqa: TID251
        time.sleep(0.05)  # noqa: TID251


async def comes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def goes_on(one: Device, question: Speech) -> None:
    """A user who hangs up and asks again when there is no answer: the device cannot know that its session died."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(DeviceError):
                await one.control.connect()
                await one.goodbye()
                await one.converse(question, timeout_s=10)
                return
            await asyncio.sleep(0.2)


async def open_at(one: Device, udp_port: int) -> None:
    """Connect again and again until the kernel has chosen the worker with this UDP port; the channel is open then."""
    for _ in range(60):
        await one.open_channel()
        if one.grant is not None and one.grant.port == udp_port:
            return
        await one.goodbye()
        one.drop_mqtt()
        await one.control.connect()
    pytest.fail("the kernel never chooses this worker")
