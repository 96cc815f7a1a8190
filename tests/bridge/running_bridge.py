"""The whole bridge on free ports of loopback, with scripted engines: for tests that need every part but no model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bridge.app import bridge
from bridge.banner import Facts
from bridge.engines import Providers
from settings.load import load
from tests.scripted import EnergyVad, ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts


def scripted(**engines: Any) -> Providers:
    """Engines that do as they are told; ``tts=ScriptedTts(...)`` and the like replace one."""
    usual: dict[str, Any] = {
        "vad": EnergyVad(),
        "asr": ScriptedAsr(),
        "llm": ScriptedLlm(),
        "tts": ScriptedTts(),
        "intents": ScriptedIntents(),
    }
    return Providers(**(usual | engines))


@asynccontextmanager
async def running_bridge(data_dir: Path, settings: dict[str, Any] | None = None, **engines: Any) -> AsyncGenerator[Facts, None]:
    """The facts of a bridge that listens on 127.0.0.1 and stops with the block. ``settings`` by dotted names."""
    loaded = load(
        None,
        overrides={
            "data_dir": data_dir,
            **dict.fromkeys(("http.host", "mqtt.host", "udp.host", "advertise.host"), "127.0.0.1"),
            **dict.fromkeys(("http.port", "mqtt.port", "udp.port"), 0),
        }
        | (settings or {}),
    )
    async with bridge(loaded, providers=lambda _settings, _store: scripted(**engines)) as facts:
        yield facts
