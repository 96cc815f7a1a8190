"""The server under test as the bench holds it: started, asked what it has measured, ended."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load.usage import Usage, usage

START_TIMEOUT_S = 60.0
_ANSWER_BYTES = 64 * 2**20


@dataclass(slots=True)
class Servers:
    """The processes that serve devices; none of them answers questions when the server is somebody else's."""

    ota_url: str = ""
    pids: list[int] = field(default_factory=list)
    _lines: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self) -> Answer | None:
        """What has happened since the last time (bench/load/probe.py), of all processes together."""
        for _, writer in self._lines:
            writer.write(b"\n")
        return Answer.together([json.loads(await reader.readline()) for reader, _ in self._lines]) if self._lines else None

    def usage(self) -> Usage | None:
        """CPU and memory of all processes; None where they cannot be read."""
        found = [usage(pid) for pid in self.pids]
        known = [one for one in found if one is not None]
        if not known or len(known) < len(found):
            return None
        return Usage(sum(one.cpu_s for one in known), sum(one.rss_bytes for one in known))

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A process of the server has connected: devices can, too."""
        facts = json.loads(await reader.readline())
        self.ota_url = facts["ota_url"]
        self.pids.append(facts["pid"])
        self._lines.append((reader, writer))

    def hang_up(self) -> None:
        for _, writer in self._lines:
            writer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Totals since the start, lists since the last question."""

    cpu_s: float
    loop_cpu_s: float
    received: int
    queue_dropped: int
    windows: int
    batches: int
    silent_windows: int
    behind_ms: list[float]
    gc_ms: list[float]
    send_ms: list[float]
    send_gaps: int
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float

    @classmethod
    def together(cls, each: Sequence[dict[str, Any]]) -> Answer:
        """Of several processes: sums, all values, the worst lag."""
        names = each[0].keys()
        return cls(
            **{
                name: max(one[name] for one in each)
                if name.startswith("lag_")
                else sum((one[name] for one in each), [] if isinstance(each[0][name], list) else 0)
                for name in names
            }
        )


@asynccontextmanager
async def own_server(*arguments: str, workers: int = 1) -> AsyncIterator[Servers]:
    """A server of so many processes; ``arguments`` for bench/load/server.py."""
    servers = Servers()
    # unbounded, but only the server's own processes know the address
    arrivals: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    with tempfile.TemporaryDirectory(prefix="xiaozhi-load-") as directory:
        path = str(Path(directory) / "ask")
        own = ("--ask", path, "--data-dir", str(Path(directory) / "data"), "--workers", str(workers))
        listener = await asyncio.start_unix_server(lambda *ends: arrivals.put_nowait(ends), path, limit=_ANSWER_BYTES)
        async with listener, _process("bench.load.server", *own, *arguments):
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    for _ in range(workers):
                        await servers.admit(*await arrivals.get())
            except TimeoutError:
                raise SystemExit(f"the server has not started within {START_TIMEOUT_S:.0f} s") from None
            yield servers
            servers.hang_up()


@asynccontextmanager
async def _process(module: str, *arguments: str) -> AsyncIterator[None]:
    """Runs while the block does."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
