"""A server to be loaded: the real bridge, but recogniser, model and voice answer at once and remember nothing.

What a device costs is real: MQTT, deciphering, jitter buffer, Opus decoding, (with ``--vad silero``) voice activity, the turn,
Opus encoding, pacing. Prints ``{"ota_url": ..., "pid": ...}`` when devices can connect; ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import uvloop

from bench.load.plan import raise_file_limit
from bridge import logs
from bridge.app import serve
from bridge.banner import Facts
from bridge.engines import Providers
from providers.base import ChatEvent, Message, Pcm, PcmFrame, TextDelta, ToolSpec, Transcript, Vad
from providers.factory import build_vad
from providers.models import ModelStore
from settings.load import Loaded, load
from settings.model import SettingsTree
from tests.scripted import EnergyVad, ScriptedIntents, tone

RATE_HZ = 24000


class OneSentenceAsr:
    early = False

    async def warm(self) -> None: ...

    async def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        async for _ in audio:
            pass
        yield Transcript("what time is it?", "en")

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


async def run(loaded: Loaded, *, vad: str, answer_s: float) -> None:
    def build(settings: SettingsTree, store: ModelStore) -> Providers:
        ears: Vad = build_vad(settings.vad, store=store) if vad == "silero" else EnergyVad()
        return Providers(vad=ears, asr=OneSentenceAsr(), llm=OneAnswerLlm(), tts=ToneTts(answer_s), intents=ScriptedIntents())

    def ready(facts: Facts) -> None:
        print(json.dumps({"ota_url": facts.ota_url, "pid": os.getpid()}), flush=True)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    await serve(loaded, ready=ready, stop=stop, providers=build)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vad", choices=("energy", "silero"), default="energy")
    parser.add_argument("--answer-s", type=float, default=3.0)
    options = parser.parse_args()
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="xiaozhi-load-") as directory:
        own = {
            **dict.fromkeys(("http.host", "mqtt.host", "udp.host", "advertise.host"), "127.0.0.1"),
            **dict.fromkeys(("http.port", "mqtt.port", "udp.port"), 0),
            "data_dir": directory,
            "log.level": "warning",
        }
        loaded = load(environ={}, directory=Path(directory), overrides=own)
        logs.configure(loaded.tree.log)
        uvloop.run(run(loaded, vad=options.vad, answer_s=options.answer_s))


if __name__ == "__main__":
    main()
