"""The engines of one process: built from the settings, warmed up in the background, closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from bridge.errors import OperatorError
from providers.base import IntentRecognizer, Llm, Message, ModelMissing, ProviderError, SpeechToText, TextToSpeech, Vad
from providers.factory import build_asr, build_intents, build_llm, build_tts, build_vad
from providers.inventory import models_needed
from providers.models import ModelStore
from settings.model import SettingsTree
from settings.providers import LocalTts

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Providers:
    """The engines of one process."""

    vad: Vad
    asr: SpeechToText
    llm: Llm
    tts: TextToSpeech
    intents: IntentRecognizer

    @classmethod
    def build(cls, settings: SettingsTree, store: ModelStore) -> Providers:
        return cls(
            vad=build_vad(settings.vad, store=store),
            asr=build_asr(settings.asr, store=store),
            llm=build_llm(settings.llm, store=store),
            tts=build_tts(settings.tts, store=store),
            intents=build_intents(settings.intent, store=store),
        )

    async def warm(self, prompt: str) -> None:
        """Load what the first turn will need, in the order in which it needs it. What fails is logged: turns will say so."""
        loop = asyncio.get_running_loop()
        steps = (
            ("vad", self.vad.warm),
            ("asr", self.asr.warm),
            ("intents", self.intents.warm),
            ("tts", self.tts.warm),
            ("llm", partial(self.llm.warm, [Message("system", prompt)])),
        )
        for name, warm in steps:
            started = loop.time()
            try:
                await warm()
            except ProviderError as error:
                log.warning("an engine could not be loaded", engine=name, error=str(error))
            else:
                log.info("engine loaded", engine=name, ms=round((loop.time() - started) * 1000))
        log.info("all engines are warm")

    async def aclose(self) -> None:
        for engine in (self.llm, self.tts, self.intents, self.asr, self.vad):
            await engine.aclose()


async def build_engines(settings: SettingsTree, providers: Callable[[SettingsTree, ModelStore], Providers] | None) -> Providers:
    """The engines, not loaded yet. Raises OperatorError for a model that is not there and cannot be had."""
    store = ModelStore(settings.data_dir / "models", offline=settings.models.offline, hub_url=settings.models.hub_url)
    if providers is not None:
        return providers(settings, store)
    await _find_models(settings, store)
    return Providers.build(settings, store)


async def _find_models(settings: SettingsTree, store: ModelStore) -> None:
    """Every model that the settings name is on this machine, fetched or assembled now if need be. Raises OperatorError."""
    for name, required in models_needed(settings):
        try:
            await asyncio.to_thread(store.resolve, name)
        except ModelMissing as error:
            if required:
                raise OperatorError(str(error)) from error
            log.warning("a model is missing", model=name, error=str(error))


def describe(config: object) -> str:
    """Provider kind and, when it has one, the model or voice; of the local voices both."""
    if isinstance(config, LocalTts):
        return f"{describe(config.latin)}, {describe(config.chinese)}"
    kind = str(getattr(config, "kind", ""))
    detail = getattr(config, "voice", None) or getattr(config, "model", None)
    return f"{kind} ({detail})" if detail else kind
