"""From the start of the process to the first moment at which a device can connect, and the memory then and with all models.

``xiaozhi-bridge serve`` with default settings, its caches of byte code and of models warm; ready is the first 200 of ``/readyz``.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import cpu_s, resident_mb, threads
from bench.report import Options, Row, median

POLL_S = 0.005
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Start:
    ready_s: float
    cpu_s: float
    rss_mb: float
    threads: int


@contextmanager
def serve(options: Options, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server as people start it, but on free ports and with a registry of devices of its own."""
    with tempfile.TemporaryDirectory(prefix="xiaozhi-bench-") as scratch:
        models = (options.data_dir / "models").resolve()
        models.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / "models").symlink_to(models, target_is_directory=True)
        command = [sys.executable, "-m", "bridge.cli", "serve", "--data-dir", scratch, "--host", "127.0.0.1", "--json-logs"]
        command += ["--http-port", str(port), "--mqtt-port", "0", "--udp-port", "0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("XZ_")}
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def start(options: Options, *, until_warm: bool) -> tuple[Start, float]:
    """One start; with ``until_warm`` also the resident megabytes once all engines are loaded (else 0)."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="xiaozhi-bench-") as scratch:
        log = Path(scratch) / "log"
        begin_s = time.perf_counter()
        with serve(options, port, log) as process:
            while not _is_ready(port):
                if process.poll() is not None or time.perf_counter() - begin_s > PATIENCE_S:
                    raise SystemExit(f"the server does not start:\n{log.read_text(encoding='utf-8')}")
                time.sleep(POLL_S)  # noqa: TID251 - a process that only waits
            ready_s = time.perf_counter() - begin_s
            started = Start(ready_s, cpu_s(process.pid), resident_mb(process.pid), threads(process.pid))
            return started, _warm_mb(process.pid, log) if until_warm else 0.0


def _warm_mb(pid: int, log: Path) -> float:
    begin_s = time.perf_counter()
    while "all engines are warm" not in log.read_text(encoding="utf-8", errors="replace"):
        if time.perf_counter() - begin_s > PATIENCE_S:
            raise SystemExit(f"the engines are not loaded:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.1)  # noqa: TID251 - a process that only waits
    return resident_mb(pid)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    start(options, until_warm=False)  # assembles models and byte code where that was never done
    runs = [start(options, until_warm=False)[0] for _ in range(2 if options.quick else 7)]
    note = f"median of {len(runs)}, {min(run.ready_s for run in runs):.2f} to {max(run.ready_s for run in runs):.2f} s"
    yield Row(part="start", case="process start to ready", value=median([run.ready_s for run in runs]), unit="s", at_most=1.5, note=note)
    yield Row(part="start", case="CPU time until ready", value=median([run.cpu_s for run in runs]), unit="s")
    yield Row(part="start", case="memory at ready, no model loaded", value=median([run.rss_mb for run in runs]), unit="MB", at_most=120)
    yield Row(part="start", case="threads at ready", value=median([run.threads for run in runs]), unit="")
    _, warm_mb = start(options, until_warm=True)
    yield Row(
        part="start",
        case="memory with all default models",
        value=warm_mb,
        unit="MB",
        note="VAD, recogniser, intents, two voices, language model",
    )
