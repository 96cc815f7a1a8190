"""The whole bridge in the test's own process, on free ports of loopback, with the engines of the test's choice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydantic import BaseModel

from bridge.app import bridge
from bridge.banner import Facts
from bridge.device import Device, DeviceOptions, Speech, encode_speech
from bridge.engines import Providers
from providers.base import IntentRecognizer, Llm, SpeechToText, TextToSpeech, Vad
from providers.models import ModelStore
from settings.load import Loaded, load
from settings.model import SettingsTree
from tests.e2e.pitch import EchoLlm, PitchAsr, PitchTts
from tests.scripted import EnergyVad, ScriptedIntents, silence, tone

QUICK = {"vad.silence_ms": 120, "vad.max_silence_ms": 200, "vad.pre_roll_ms": 200}
"""Turns that end soon: nobody in these tests thinks between words."""
STEADY_S = 20.0
"""How long a test waits for what must come at once, on a machine that is busy with other things."""


@dataclass
class Cast:
    """The engines of a test. A plain value: :func:`running` makes the Providers of it."""

    vad: Vad = field(default_factory=EnergyVad)
    asr: SpeechToText = field(default_factory=PitchAsr)
    llm: Llm = field(default_factory=EchoLlm)
    tts: TextToSpeech = field(default_factory=PitchTts)
    intents: IntentRecognizer = field(default_factory=ScriptedIntents)

    def providers(self, _settings: SettingsTree, _store: ModelStore) -> Providers:
        return Providers(vad=self.vad, asr=self.asr, llm=self.llm, tts=self.tts, intents=self.intents)


@dataclass(frozen=True)
class Server:
    """A running bridge."""

    facts: Facts
    loaded: Loaded

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.facts.http_port}"

    async def metrics(self) -> dict[str, float]:
        """What an operator would read, by name without ``_total``; labelled ones keep their labels."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.base_url}/metrics")).text
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name.removesuffix("_total"): float(value) for name, _, value in lines}

    async def settled(self, name: str, value: float, *, timeout_s: float = STEADY_S) -> None:
        """Wait until a metric has this value. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while (await self.metrics()).get(name) != value:
                await asyncio.sleep(0.02)

    def device(self, number: int = 1, **options: Any) -> Device:
        """A simulated device of its own MAC; its microphone starts at once and its user speaks as fast as the network carries."""
        quick: dict[str, Any] = {"warm_up_s": 0.0, "reconnect_s": 0.2, "hello_timeout_s": 5.0, "realtime": False}
        return Device(DeviceOptions(ota_url=self.facts.ota_url, device_id=mac(number), **(quick | options)))


async def until(condition: Callable[[], object], *, timeout_s: float = STEADY_S) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def mac(number: int) -> str:
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


@asynccontextmanager
async def running(
    directory: Path,
    cast: Cast | None = None,
    *,
    providers: Callable[[SettingsTree, ModelStore], Providers] | None = None,
    settings: Mapping[str, Any] | None = None,
    beyond: Mapping[str, Any] | None = None,
    quick: bool = True,
) -> AsyncIterator[Server]:
    """The bridge with these settings. ``beyond`` are values outside the permitted range, so that a test need not wait for minutes."""
    own = {
        "data_dir": str(directory / "data"),
        "http.port": 0,
        "mqtt.port": 0,
        "udp.port": 0,
        "http.host": "127.0.0.1",
        "mqtt.host": "127.0.0.1",
        "udp.host": "0.0.0.0",  # noqa: S104 - hostile tests send from other loopback addresses
        "advertise.host": "127.0.0.1",
        "udp.receive_buffer_bytes": 65536,
    }
    loaded = load(environ={}, directory=directory, overrides=own | (QUICK if quick else {}) | dict(settings or {}))
    tree = loaded.tree
    for path, value in (beyond or {}).items():
        tree = _with(tree, path.split("."), value)
    loaded = replace(loaded, tree=tree)
    async with bridge(loaded, providers=providers or (cast or Cast()).providers) as facts:
        yield Server(facts, loaded)


def _with(branch: Any, path: list[str], value: Any) -> Any:
    """The settings with one value replaced, unchecked."""
    assert isinstance(branch, BaseModel)
    inner = value if len(path) == 1 else _with(getattr(branch, path[0]), path[1:], value)
    return branch.model_copy(update={path[0]: inner})


def sung(hz: int, seconds: float = 0.6, *, rest_s: float = 0.0, frame_ms: int = 60) -> Speech:
    """A tone as microphone packets, with silence behind it. After a second of steady tone the microphone's DTX takes it for noise."""
    return encode_speech(np.concatenate((tone(seconds, hz=float(hz)), silence(rest_s))), frame_ms=frame_ms)
