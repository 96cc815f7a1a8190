"""Which models the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator

from settings.model import SettingsTree
from settings.providers import KokoroTts, LlamaCppLlm, LocalTts, PiperTts, SileroVad, WhisperAsr

KOKORO_VOICES = "kokoro-voices"


def models_needed(settings: SettingsTree) -> Iterator[tuple[str, bool]]:
    """Names (or paths) for :meth:`providers.models.ModelStore.resolve`, each with whether the bridge is useless without it."""
    if isinstance(settings.vad, SileroVad):
        yield str(settings.vad.model_path or "silero-vad"), True
    if isinstance(settings.asr, WhisperAsr):
        yield settings.asr.model, True
    if isinstance(settings.llm, LlamaCppLlm):
        yield settings.llm.model, True
    match settings.tts:
        case LocalTts(latin=latin, chinese=chinese):
            yield latin.voice, True
            yield chinese.model, False
            yield KOKORO_VOICES, False
        case PiperTts(voice=voice):
            yield voice, True
        case KokoroTts(model=model):
            yield model, True
            yield KOKORO_VOICES, True
        case _:
            pass
