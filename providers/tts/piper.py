"""Piper: a small, fast voice for languages in Latin script.

``piper-tts`` is GPL-3 and therefore an optional part, imported when a voice is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from providers.base import ModelMissing, Pcm, PcmFrame, ProviderUnavailable
from providers.engine_thread import EngineThread
from providers.models import ModelStore
from providers.tts import espeak, onnx
from providers.tts.envelope import Envelope, quantize
from providers.tts.text import clauses, speakable
from settings import providers as configs

if TYPE_CHECKING:
    from piper import PiperVoice
    from piper.config import SynthesisConfig

log = structlog.get_logger(__name__)

_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_RAW_PHONEMES: Final = re.compile(r"\[\[|\]\]")  # piper would take what stands between for phonemes
_PEAK: Final = 0.8
_MIN_UNITS: Final = 12
_MAX_UNITS: Final = 60
"""Piper is twenty times faster than speech: clauses are only cut from long sentences."""


def build(config: configs.PiperTts, *, store: ModelStore) -> PiperTts:
    """What :mod:`providers.factory` calls."""
    return PiperTts(config, store=store)


class PiperTts:
    """One voice in one thread.

    ``config.voice`` is a name of the model table, the path of a voice's ONNX file (its JSON beside it) or of the directory
    that holds both.
    """

    def __init__(self, config: configs.PiperTts, *, store: ModelStore) -> None:
        self._config = config
        self._store = store
        self._voice: PiperVoice | None = None
        self._thread = EngineThread("piper")

    async def warm(self) -> None:
        """Load the voice and speak a word unheard. Idempotent. Raises ModelMissing, ProviderUnavailable."""
        if self._voice is None:
            await self._thread.run(self._load)

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        """The speech of one sentence, in one frame or several. Cancelled or closed, it stops after the part being computed."""
        await self.warm()
        envelope: Envelope | None = None
        rate_hz = 0
        for part in _parts(speakable(text)):
            for sentence in await self._thread.run(self._phonemes, part):
                samples, rate_hz = await self._thread.run(self._speak, sentence)
                envelope = envelope or Envelope(rate_hz)
                settled = envelope.feed(samples)
                if len(settled):
                    yield PcmFrame(settled, rate_hz)
        if envelope is not None and len(rest := envelope.finish()):
            yield PcmFrame(rest, rate_hz)

    async def aclose(self) -> None:
        """Give the voice back. Idempotent; a part being computed ends in the background."""
        await self._thread.aclose()
        self._voice = None

    # -- in the engine's thread ----------------------------------------------------------------------------------------
    def _load(self) -> None:
        if self._voice is None:
            voice = _voice(self._config.voice, self._store)
            with espeak.LOCK:
                phonemes = voice.phonemize("ok")
            with onnx.engine_errors("the voice failed", provider="piper"):
                voice.phoneme_ids_to_audio(voice.phonemes_to_ids(phonemes[0]))
            self._voice = voice
            log.info("Voice is ready", voice=self._config.voice, engine="piper")

    def _phonemes(self, part: str) -> list[list[str]]:
        voice = self._loaded()
        spoken = _RAW_PHONEMES.sub(" ", part)
        if not voice.config.espeak_voice.startswith(("cmn", "yue", "zh")):
            spoken = _HAN.sub(_pinyin, spoken)
        with espeak.LOCK:
            return [sentence for sentence in voice.phonemize(spoken) if sentence]

    def _speak(self, phonemes: list[str]) -> tuple[Pcm, int]:
        voice = self._loaded()
        with onnx.engine_errors("the voice failed", provider="piper"):
            audio = voice.phoneme_ids_to_audio(voice.phonemes_to_ids(phonemes), self._synthesis(voice))
        samples = np.asarray(audio[0] if isinstance(audio, tuple) else audio, dtype=np.float32)
        # Loudness differs from sentence to sentence (the model adds noise): bring the peak to one level, as Piper itself does.
        peak = float(np.max(np.abs(samples))) if samples.size else 0.0
        return quantize(samples, gain=_PEAK / peak if peak > 0.01 else 1.0), voice.config.sample_rate

    def _synthesis(self, voice: PiperVoice) -> SynthesisConfig:
        from piper.config import SynthesisConfig

        return SynthesisConfig(length_scale=voice.config.length_scale / self._config.speed)

    def _loaded(self) -> PiperVoice:
        if self._voice is None:
            raise ProviderUnavailable("the voice has been closed", provider="piper")
        return self._voice


def _parts(text: str) -> list[str]:
    return clauses(text, min_units=_MIN_UNITS, max_units=_MAX_UNITS)


def _voice(name: str, store: ModelStore) -> PiperVoice:
    try:
        from piper import PiperVoice
        from piper.config import PiperConfig
    except ImportError as error:
        raise ProviderUnavailable(
            "Piper is not installed; it is an optional part: pip install 'xiaozhi-bridge[piper]'", provider="piper"
        ) from error
    file = _onnx_file(store.resolve(name))
    try:
        config = PiperConfig.from_dict(json.loads(Path(f"{file}.json").read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ModelMissing(
            f"{file}.json is missing: a Piper voice is an .onnx file with its .onnx.json beside it", provider="piper"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ProviderUnavailable(f"{file}.json does not describe a Piper voice: {error!r}", provider="piper") from error
    return PiperVoice(session=onnx.session(file, provider="piper"), config=config)


def _onnx_file(resolved: Path) -> Path:
    if resolved.is_file():
        return resolved
    found = sorted(resolved.glob("*.onnx"))
    if len(found) != 1:
        raise ModelMissing(f"{resolved} holds {len(found)} .onnx files, not one", provider="piper")
    return found[0]


def _pinyin(match: re.Match[str]) -> str:
    """Chinese names in an English sentence, so that they are not dropped: 小智 -> xiao zhi."""
    try:
        from pypinyin import lazy_pinyin
    except ImportError:
        return match[0]
    return f" {' '.join(lazy_pinyin(match[0]))} "
