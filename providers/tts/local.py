"""The default voice: each sentence by the engine that speaks its script, nothing of it outside the machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from providers.base import PcmFrame, ProviderError, TextToSpeech
from providers.models import ModelStore
from providers.tts.kokoro import KokoroTts
from providers.tts.piper import PiperTts
from providers.tts.text import Script, prevailing_script, speakable
from settings import providers as configs

log = structlog.get_logger(__name__)


def build(config: configs.LocalTts, *, store: ModelStore) -> LocalTts:
    """What :mod:`providers.factory` calls."""
    return LocalTts(config, store=store)


class LocalTts:
    """Piper for Latin script, Kokoro for Chinese; a mixed sentence goes to the voice of the script that prevails.

    When Piper cannot be loaded, Kokoro speaks everything. When Kokoro cannot, a Chinese sentence raises the error that says
    why, and Latin ones are spoken as ever. A failure is logged once and remembered until the next :meth:`warm`.
    """

    def __init__(self, config: configs.LocalTts, *, store: ModelStore) -> None:
        self._voices: dict[Script, TextToSpeech] = {
            "latin": PiperTts(config.latin, store=store),
            "cjk": KokoroTts(config.chinese, store=store),
        }
        self._failures: dict[Script, ProviderError] = {}

    async def warm(self) -> None:
        """Load both voices at once. Raises ProviderError only when neither can be loaded. Idempotent."""
        self._failures.clear()
        async with asyncio.TaskGroup() as loading:
            for script in self._voices:
                loading.create_task(self._ready(script), name=f"tts-warm-{script}")
        if len(self._failures) == len(self._voices):
            raise self._failure("latin")

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        """The speech of one sentence, at the rate of the voice that speaks it."""
        spoken = speakable(text)
        if not spoken:
            return
        script = prevailing_script(spoken)
        voice = await self._ready(script)
        if voice is None and script == "latin":
            voice = await self._ready("cjk")
        if voice is None:
            raise self._failure(script)
        async with aclosing(voice.synthesize(spoken)) as frames:
            async for frame in frames:
                yield frame

    async def aclose(self) -> None:
        for voice in self._voices.values():
            await voice.aclose()

    async def _ready(self, script: Script) -> TextToSpeech | None:
        """The voice, loaded; None when it cannot be."""
        if script in self._failures:
            return None
        voice = self._voices[script]
        try:
            await voice.warm()
        except ProviderError as error:
            if script not in self._failures:
                self._failures[script] = error
                log.warning("A voice is missing", script=script, reason=str(error), consequence=_CONSEQUENCES[script])
            return None
        return voice

    def _failure(self, script: Script) -> ProviderError:
        """A fresh copy of the remembered error: one that is raised twice would gather tracebacks."""
        error = self._failures[script]
        return type(error)(str(error), provider=error.provider)


_CONSEQUENCES: dict[Script, str] = {
    "latin": "the Chinese voice speaks the other languages too",
    "cjk": "Chinese sentences cannot be spoken; other languages can",
}
