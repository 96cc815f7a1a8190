"""The whole path on one machine: a server, a simulated device that asks aloud, and a check of the spoken answer.

The server runs as its own process on free ports with an empty device registry; the models are those of the configured
data directory. The device is ``xiaozhi-bridge device``. Afterwards the audio that the device heard is transcribed with
the configured recogniser and compared with the text of the answer: the demonstration has passed when at least
:data:`LEAST_SIMILARITY` of the answer's letters and digits are heard in it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
import unicodedata
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import typer

from bridge.alone import ASR_RATE_HZ, transcribe
from bridge.errors import OperatorError
from bridge.wav import read_wav
from providers.base import Pcm
from providers.factory import build_asr
from providers.models import ModelStore
from settings.load import Loaded

LEAST_SIMILARITY = 0.6
_START_TIMEOUT_S = 180.0
_TURN_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 15.0


def run(config: Path | None, sets: Sequence[str], loaded: Loaded, *, question: Path, keep: Path | None) -> int:
    """Run the demonstration; the exit code. Raises OperatorError when a part does not start."""
    if not question.is_file():
        raise OperatorError(f"{question}: there is no such file", advice="Run it in the project's directory, or give --question FILE.wav")
    return asyncio.run(_demonstrate(config, sets, loaded, question=question, keep=keep))


async def _demonstrate(config: Path | None, sets: Sequence[str], loaded: Loaded, *, question: Path, keep: Path | None) -> int:
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xiaozhi-demo-")))
        models = loaded.tree.data_dir / "models"
        models.mkdir(parents=True, exist_ok=True)
        (scratch / "models").symlink_to(models.resolve(), target_is_directory=True)
        http_port, mqtt_port = _free_port(socket.SOCK_STREAM), _free_port(socket.SOCK_STREAM)
        command = ["serve", "--host", "127.0.0.1", "--data-dir", str(scratch), "--http-port", str(http_port)]
        command += ["--mqtt-port", str(mqtt_port), "--udp-port", str(_free_port(socket.SOCK_DGRAM)), "--json-logs"]
        command += ["--config", str(config)] if config else []
        # last wins: what a configuration says of addresses must not lead the device elsewhere
        for one in [*sets, "advertise.host=127.0.0.1", f"advertise.mqtt_port={mqtt_port}", "enrolment=open"]:
            command += ["--set", one]
        typer.echo("Starting the server")
        server = await stack.enter_async_context(_server(command, scratch / "server.log"))
        base_url = f"http://127.0.0.1:{http_port}"
        await _ready(base_url, server, scratch / "server.log")
        typer.echo(f"The device asks: {question}")
        reply = scratch / "reply.wav"
        summary = await _ask(f"{base_url}/xiaozhi/ota/", question, reply, scratch / "server.log")
        heard = _keep(reply, keep)
    _show(summary)
    return await _verdict(loaded, " ".join(summary.get("sentences", ())), heard)


def _keep(reply: Path, copy: Path | None) -> Pcm:
    """The samples of the reply, none when nothing came; the file is copied when asked for."""
    if not reply.is_file():
        return np.zeros(0, np.int16)
    if copy is not None:
        copy.write_bytes(reply.read_bytes())
    return read_wav(reply, sample_rate_hz=ASR_RATE_HZ)


@asynccontextmanager
async def _server(arguments: Sequence[str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The server as a child process, its output in ``log``; stopped on leaving, by force when it does not go."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bridge.cli", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(base_url: str, server: asyncio.subprocess.Process, log: Path) -> None:
    """Return once the server is ready. Raises OperatorError when it ends before, or takes too long."""
    try:
        async with asyncio.timeout(_START_TIMEOUT_S), httpx.AsyncClient(timeout=5) as client:
            while server.returncode is None:
                with suppress(httpx.TransportError):
                    if (await client.get(f"{base_url}/readyz")).is_success:
                        return
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise OperatorError(f"The server is not ready within {_START_TIMEOUT_S:.0f} s\n{_tail(log)}") from None
    raise OperatorError(f"The server ended by itself (exit code {server.returncode})\n{_tail(log)}")


async def _ask(ota_url: str, question: Path, reply: Path, log: Path) -> dict[str, Any]:
    """Let the simulated device say ``question``; what it reports. Raises OperatorError."""
    arguments = ("device", "--ota-url", ota_url, "--wav", str(question), "--out", str(reply), "--json")
    device = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.cli", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_TURN_TIMEOUT_S):
            output, _ = await device.communicate()
    except TimeoutError:
        raise OperatorError(f"The turn is not over within {_TURN_TIMEOUT_S:.0f} s\n{_tail(log)}") from None
    finally:
        if device.returncode is None:
            device.kill()
            await device.wait()
    summary = turn_summary(output)
    if summary is None or device.returncode:
        reason = next((line["reason"] for line in _json_lines(output) if line.get("kind") == "failed"), f"exit code {device.returncode}")
        raise OperatorError(f"The device did not get through its turn: {reason}\n{_tail(log)}")
    return summary


def turn_summary(output: bytes) -> dict[str, Any] | None:
    """The last turn that ``xiaozhi-bridge device --json`` printed; None when there is none."""
    turns = [line for line in _json_lines(output) if line.get("kind") == "turn"]
    return turns[-1] if turns else None


def _json_lines(output: bytes) -> Iterator[dict[str, Any]]:
    for text in output.decode(errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line


def _show(summary: dict[str, Any]) -> None:
    typer.echo(f"The server heard:  {summary['stt'] or '(nothing)'}")
    typer.echo(f"It answered:       {' '.join(summary['sentences']) or '(nothing)'}")
    for name, value in (summary.get("latencies") or {}).items():
        if isinstance(value, int | float):
            label = name.removesuffix("_ms").replace("_", " ")
            typer.echo(f"  {label:<12} {value:6.0f} ms after the end of the question")


async def _verdict(loaded: Loaded, answer: str, audio: Pcm) -> int:
    """Listen to what came out of the device's speaker and compare it with the answer: the exit code."""
    store = ModelStore(loaded.tree.data_dir / "models", offline=loaded.tree.models.offline, hub_url=loaded.tree.models.hub_url)
    heard = ""
    if len(audio):
        recogniser = build_asr(loaded.tree.asr, store=store)
        try:
            await recogniser.warm()
            heard = await transcribe(recogniser, audio)
        finally:
            await recogniser.aclose()
    share = similarity(answer, heard)
    typer.echo(f"Heard in the reply: {heard or '(nothing)'}")
    passed = share >= LEAST_SIMILARITY
    typer.echo(f"{'Passed' if passed else 'FAILED'}: {share:.0%} of the answer is in its audio (needed: {LEAST_SIMILARITY:.0%})")
    return 0 if passed else 1


def letters(text: str) -> str:
    """Letters and digits alone, case folded: what recognisers write differently is the same (``8:23 p.m.``, ``8.23pm``)."""
    return "".join(character for character in unicodedata.normalize("NFKC", text).casefold() if character.isalnum())


def similarity(answer: str, heard: str) -> float:
    """The share (0..1) of the answer's letters and digits that were heard, in their order; Latin ones in runs of two or more."""
    wanted = letters(answer)
    if not wanted:
        return 0.0
    blocks = SequenceMatcher(None, wanted, letters(heard), autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size > 1 or not wanted[block.a : block.a + 1].isascii()) / len(wanted)


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return "The end of its log:\n" + "\n".join(text[-lines:])
