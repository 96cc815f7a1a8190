"""A server to be loaded: the real bridge, but recogniser, model and voice answer at once and remember nothing.

What a device costs is real: MQTT, deciphering, jitter buffer, Opus decoding, (with ``--vad silero``) voice activity, the turn,
Opus encoding, pacing. Each of its processes tells the bench at ``--ask`` when devices can connect, and what it has measured when
it is asked (bench/load/probe.py). Ends with the process that has started it, or by SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import bridge.app
from bench.load.cores import end_with_parent, pin
from bench.load.probe import Probe, WatchedAudioServer, WatchedVad
from bench.machine import raise_file_limit
from bridge import logs
from bridge.app import run_loop, serve
from bridge.banner import Facts
from bridge.engines import Providers
from bridge.workers import supervisor, worker
from providers.base import ChatEvent, Message, Pcm, PcmFrame, TextDelta, ToolSpec, Transcript
from providers.factory import build_vad
from providers.models import ModelStore
from settings.load import Loaded, load
from settings.model import SettingsTree
from tests.scripted import EnergyVad, ScriptedIntents, tone

if TYPE_CHECKING:
    from bridge.workers.seat import Seat

RATE_HZ = 24000


class OneSentenceAsr:
    """Hears the same in everything; nothing, when it is deaf: then there is no answer."""

    early = False

    def __init__(self, text: str) -> None:
        self._text = text

    async def warm(self) -> None: ...

    async def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        async for _ in audio:
            pass
        yield Transcript(self._text, "en")

    async def aclose(self) -> None: ...


class OneAnswerLlm:
    tools = True
    languages: frozenset[str] | None = None

    async def warm(self, prefix: Sequence[Message] = ()) -> None: ...

    async def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        yield TextDelta("This is what a server has to say that nobody has to wait for. ")

    async def aclose(self) -> None: ...


class ToneTts:
    def __init__(self, seconds: float) -> None:
        self._samples: Pcm = tone(seconds, rate_hz=RATE_HZ)

    async def warm(self) -> None: ...

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        yield PcmFrame(self._samples, RATE_HZ)

    async def aclose(self) -> None: ...


class Bench:
    """One process of the server, with its probe."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._audio: WatchedAudioServer | None = None
        self._vad = WatchedVad(EnergyVad())

    async def serve(
        self,
        loaded: Loaded,
        *,
        ready: Callable[[Facts], None] | None = None,
        stop: asyncio.Event | None = None,
        seat: Seat | None = None,
    ) -> None:
        """As :func:`bridge.app.serve`; the bench is told when devices can connect."""
        # The bridge makes its socket by itself, and nobody but a bench wants another: there is no seam for it but the name.
        bridge.app.AudioServer = self._make_audio  # type: ignore[attr-defined,assignment]
        async with asyncio.TaskGroup() as tasks:
            talking: list[asyncio.Task[None]] = []

            def told(facts: Facts) -> None:
                if ready is not None:
                    ready(facts)
                probe = Probe(lambda: self._audio, self._vad)
                own = {"ota_url": facts.ota_url, "pid": os.getpid()}
                talking.append(tasks.create_task(probe.serve(self._options.ask, own), name="probe"))

            await serve(loaded, ready=told, stop=stop, seat=seat, providers=self._providers)
            for task in talking:
                task.cancel()

    def _make_audio(self) -> WatchedAudioServer:
        self._audio = WatchedAudioServer()
        return self._audio

    def _providers(self, settings: SettingsTree, store: ModelStore) -> Providers:
        if self._options.vad == "silero":
            self._vad = WatchedVad(build_vad(settings.vad, store=store))
        asr = OneSentenceAsr("" if self._options.deaf else "what time is it?")
        return Providers(vad=self._vad, asr=asr, llm=OneAnswerLlm(), tts=ToneTts(self._options.answer_s), intents=ScriptedIntents())


def settings(options: argparse.Namespace) -> Loaded:
    own = {
        **dict.fromkeys(("http.host", "mqtt.host", "udp.host", "advertise.host"), "127.0.0.1"),
        **dict.fromkeys(("http.port", "mqtt.port", "udp.port"), 0),
        "data_dir": options.data_dir,
        "log.level": "error" if options.deaf else "warning",  # talkers are quiet until all are there, which is worth a warning each
        "workers": options.workers,
    }
    return load(environ={}, directory=Path(options.data_dir), overrides=own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ask", required=True, help="the socket at which the bench listens")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--vad", choices=("energy", "silero"), default="energy")
    parser.add_argument("--answer-s", type=float, default=3.0)
    parser.add_argument("--deaf", action="store_true", help="nothing is understood, so nothing is answered")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cores", type=int, nargs="*", default=[])
    parser.add_argument("--worker-fd", type=int)
    options = parser.parse_args()
    end_with_parent()
    pin(options.cores)
    raise_file_limit()
    loaded = settings(options)
    logs.configure(loaded.tree.log)
    bench = Bench(options)
    if options.worker_fd is not None:
        worker.run(loaded, options.worker_fd, serve=bench.serve)
    elif options.workers > 1:
        supervisor.run(loaded, command=[sys.executable, *sys.orig_argv[1:]], reload=lambda: settings(options))
    else:
        run_loop(bench.serve(loaded))


if __name__ == "__main__":
    main()
