"""Scripted engines with fixed delays: everything of a turn but the models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Literal

from bench.signals import voice
from bridge.engines import Providers
from providers.base import PcmFrame, Vad
from providers.factory import build_vad
from providers.models import ModelStore
from settings.model import SettingsTree
from tests.scripted import EnergyVad, ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts

ASR_S = 0.1
LLM_FIRST_S = 0.15
TTS_S = 0.08
DELAYS_MS = (ASR_S + LLM_FIRST_S + TTS_S) * 1000
SPEECH_RATE_HZ = 22050
"""As Piper's voices: so the resampler is part of what is measured."""

VadKind = Literal["energy", "silero"]


class CannedTts(ScriptedTts):
    """The same speech-like sound for every sentence, made once: computing it must not be part of a turn."""

    def __init__(self, seconds: float) -> None:
        super().__init__(delay_s=TTS_S, rate_hz=SPEECH_RATE_HZ)
        self._frame = PcmFrame(voice(rate_hz=SPEECH_RATE_HZ, duration_s=seconds), SPEECH_RATE_HZ)

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        await asyncio.sleep(self.delay_s)
        yield self._frame


def scripted(settings: SettingsTree, store: ModelStore, *, vad: VadKind, sentences: int, sentence_s: float) -> Providers:
    """Engines whose answer has so many sentences of so many seconds each."""
    detector: Vad = build_vad(settings.vad, store=store) if vad == "silero" else EnergyVad()
    return Providers(
        vad=detector,
        asr=ScriptedAsr(("What is it like?",), delay_s=ASR_S),
        llm=ScriptedLlm((tuple(f"This is sentence number {number + 1}. " for number in range(sentences)),), delay_s=LLM_FIRST_S),
        tts=CannedTts(sentence_s),
        intents=ScriptedIntents(),
    )
