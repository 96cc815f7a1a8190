"""From a provider's configuration to the provider: the only place that knows which module implements which ``kind``.

Each module of the table has ``build(config, *, store)``; it is imported when it is chosen, so what is not used costs nothing.

Another package brings a provider as an entry point of the group ``xiaozhi_bridge.vad``, ``.asr``, ``.llm``, ``.tts`` or
``.intent``; the entry point's name is its ``kind``, and the object is called with the options of that branch of the
settings as keyword arguments. Built-in kinds cannot be replaced.

Building loads no model and opens no connection: ``warm()`` does.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from typing import Any, Literal, TypeAlias, cast

from providers.base import IntentRecognizer, Llm, ProviderRejected, ProviderUnavailable, SpeechToText, TextToSpeech, Vad
from providers.models import ModelStore
from settings.providers import PluginConfig, ProviderConfig

Role: TypeAlias = Literal["vad", "asr", "llm", "tts", "intent"]
AnyConfig: TypeAlias = ProviderConfig | PluginConfig

BUILT_IN: dict[Role, dict[str, str]] = {
    "vad": {"silero": "providers.vad.silero"},
    "asr": {"whisper": "providers.asr.whisper", "openai": "providers.asr.openai"},
    "llm": {"llama_cpp": "providers.llm.llama_cpp", "openai": "providers.llm.openai"},
    "tts": {
        "local": "providers.tts.local",
        "piper": "providers.tts.piper",
        "kokoro": "providers.tts.kokoro",
        "openai": "providers.tts.openai",
    },
    "intent": {"hassil": "providers.intent.hassil", "none": "providers.intent.none"},
}
"""Role -> kind -> module."""


def build_vad(config: AnyConfig, *, store: ModelStore) -> Vad:
    """The voice activity detector. Raises ProviderError, as all of these do."""
    return cast("Vad", build("vad", config, store=store))


def build_asr(config: AnyConfig, *, store: ModelStore) -> SpeechToText:
    """The recogniser."""
    return cast("SpeechToText", build("asr", config, store=store))


def build_llm(config: AnyConfig, *, store: ModelStore) -> Llm:
    """The language model."""
    return cast("Llm", build("llm", config, store=store))


def build_tts(config: AnyConfig, *, store: ModelStore) -> TextToSpeech:
    """The voice."""
    return cast("TextToSpeech", build("tts", config, store=store))


def build_intents(config: AnyConfig, *, store: ModelStore) -> IntentRecognizer:
    """What understands sentences without a model."""
    return cast("IntentRecognizer", build("intent", config, store=store))


def build(role: Role, config: AnyConfig, *, store: ModelStore) -> Any:
    """The provider of any role.

    Raises ProviderRejected for a kind that does not exist or options that a plug-in refuses, ProviderUnavailable for a
    part that is not installed or cannot be imported.
    """
    kind: str = getattr(config, "kind", "")
    if module_name := BUILT_IN[role].get(kind):
        return _import(role, kind, module_name).build(config, store=store)
    if isinstance(config, PluginConfig):
        for entry_point in importlib.metadata.entry_points(group=f"xiaozhi_bridge.{role}", name=kind):
            return _from_entry_point(role, config, entry_point)
    raise ProviderRejected(_unknown_kind(role, kind), provider=kind)


def kinds(role: Role) -> list[str]:
    """Every kind that can be chosen: built-in ones, then those of installed plug-ins."""
    plugins = importlib.metadata.entry_points(group=f"xiaozhi_bridge.{role}").names
    return [*BUILT_IN[role], *sorted(plugins - BUILT_IN[role].keys())]


def _import(role: Role, kind: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        message = (
            f"{role}.kind {kind!r} needs the package {error.name or '?'}, which cannot be imported: install it, or choose another kind"
        )
        raise ProviderUnavailable(message, provider=kind) from error


def _from_entry_point(role: Role, config: PluginConfig, entry_point: importlib.metadata.EntryPoint) -> Any:
    try:
        factory = entry_point.load()
    except (ImportError, AttributeError) as error:
        message = f"the plug-in {entry_point.value} for {role}.kind {config.kind!r} cannot be loaded: {error}"
        raise ProviderUnavailable(message, provider=config.kind) from error
    try:
        return factory(**config.options())
    except (TypeError, ValueError) as error:
        message = f"the plug-in for {role}.kind {config.kind!r} does not take its options: {error}"
        raise ProviderRejected(message, provider=config.kind) from error


def _unknown_kind(role: Role, kind: str) -> str:
    known = kinds(role)
    nearest = difflib.get_close_matches(kind, known, n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"{role}.kind {kind!r} is not known{hint}; there are {', '.join(known)}, and packages can bring more"
