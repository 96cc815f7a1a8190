"""Kokoro-82M on onnxruntime: the Chinese voice, which also speaks the English words among the Chinese ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from providers.base import ModelMissing, Pcm, PcmFrame, ProviderUnavailable
from providers.engine_thread import EngineThread
from providers.models import ModelStore
from providers.tts import onnx
from providers.tts.envelope import Envelope, quantize
from providers.tts.phonemes import Phonemizer, tokens
from providers.tts.text import clauses, speakable
from settings import providers as configs

log = structlog.get_logger(__name__)

SAMPLE_RATE_HZ: Final = 24000
VOICES_MODEL: Final = "kokoro-voices"
_STYLE_WIDTH: Final = 256
_MAX_TOKENS: Final = 510
_GAIN: Final = 0.7  # as loud as the Piper voice, which speaks the Latin sentences between
_MIN_CLAUSE_UNITS: Final = 6
_MAX_CLAUSE_UNITS: Final = 30  # longer ones cost memory that onnxruntime keeps, and time before the first sound
_PAUSE_MS: Final = 100
_STOP_PAUSE_MS: Final = 250


@dataclass(slots=True)
class KokoroStats:
    clauses: int = 0
    unspoken_characters: int = 0


def build(config: configs.KokoroTts, *, store: ModelStore) -> KokoroTts:
    """What :mod:`providers.factory` calls."""
    return KokoroTts(config, store=store)


class KokoroTts:
    """One model and one voice in one thread; a sentence is spoken clause by clause, so that its beginning comes early.

    ``config.voice`` is a name of the voice package or the path of a ``.bin`` file (float32, rows of 256, one a token count).
    """

    def __init__(self, config: configs.KokoroTts, *, store: ModelStore) -> None:
        self._config = config
        self._store = store
        self._engine: _Engine | None = None
        self._thread = EngineThread("kokoro")
        self.stats = KokoroStats()

    async def warm(self) -> None:
        """Load model, voice and dictionaries and speak a word unheard. Idempotent. Raises ModelMissing, ProviderUnavailable."""
        if self._engine is None:
            await self._thread.run(self._load)

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        """The speech of one sentence, a frame a clause. Cancelled or closed, it stops after the clause being computed."""
        await self.warm()
        parts = clauses(speakable(text), min_units=_MIN_CLAUSE_UNITS, max_units=_MAX_CLAUSE_UNITS)
        for number, clause in enumerate(parts, start=1):
            samples = await self._thread.run(self._speak, clause)
            last = number == len(parts)
            piece = _shaped(samples, pause_ms=_STOP_PAUSE_MS if clause[-1] in ".!?。！？…" and not last else _PAUSE_MS)
            if len(piece):
                yield PcmFrame(piece, SAMPLE_RATE_HZ)

    async def aclose(self) -> None:
        """Give the model back. Idempotent; a clause being computed ends in the background."""
        await self._thread.aclose()
        self._engine = None

    # -- in the engine's thread ----------------------------------------------------------------------------------------
    def _load(self) -> None:
        if self._engine is None:
            engine = _Engine(self._config, self._store)
            engine.speak("好")
            self._engine = engine
            log.info("Voice is ready", voice=self._config.voice, engine="kokoro")

    def _speak(self, clause: str) -> Pcm:
        engine = self._engine
        if engine is None:
            raise ProviderUnavailable("the voice has been closed", provider="kokoro")
        samples = engine.speak(clause)
        self.stats.clauses += 1
        if engine.phonemizer.unspoken > self.stats.unspoken_characters:
            missed = engine.phonemizer.unspoken - self.stats.unspoken_characters
            self.stats.unspoken_characters = engine.phonemizer.unspoken
            log.warning("Characters of another script were not spoken", voice=self._config.voice, characters=missed)
        return samples


class _Engine:
    """What is loaded: the session, the voice's style vectors, the dictionaries."""

    def __init__(self, config: configs.KokoroTts, store: ModelStore) -> None:
        self._speed = np.array([config.speed], dtype=np.float32)
        self._styles = _styles(config.voice, store)
        self._session = _session(config, store)
        try:
            self.phonemizer = Phonemizer()
        except ImportError as error:
            raise ProviderUnavailable(f"{error.name} is missing: pip install 'misaki[zh]'", provider="kokoro") from error

    def speak(self, clause: str) -> Pcm:
        numbers = tokens(self.phonemizer.phonemes(clause))
        if not numbers:
            return np.empty(0, dtype=np.int16)
        # A clause has far fewer tokens than fit; only a monstrous "word" has more, and is cut.
        pieces = [numbers[start : start + _MAX_TOKENS] for start in range(0, len(numbers), _MAX_TOKENS)]
        return np.concatenate([self._run(piece) for piece in pieces])

    def _run(self, numbers: list[int]) -> Pcm:
        inputs = {
            "tokens": np.array([[0, *numbers, 0]], dtype=np.int64),
            "style": self._styles[min(len(numbers), len(self._styles)) - 1][np.newaxis],
            "speed": self._speed,
        }
        with onnx.engine_errors("the voice failed", provider="kokoro"):
            return quantize(self._session.run(None, inputs)[0], gain=_GAIN)


def _session(config: configs.KokoroTts, store: ModelStore) -> Any:
    directory = store.resolve(config.model)
    file = directory if directory.is_file() else next(iter(sorted(directory.glob("*.onnx"))), None)
    if file is None:
        raise ModelMissing(f"{directory} holds no .onnx file", provider="kokoro")
    return onnx.session(file, provider="kokoro", threads=config.threads)


def _styles(voice: str, store: ModelStore) -> NDArray[np.float32]:
    """The voice's style vectors, shape (token counts, 256)."""
    if voice.endswith(".bin"):
        file = store.resolve(voice)
    else:
        file = store.resolve(VOICES_MODEL) / f"{voice}.bin"
        if not file.is_file():
            known = ", ".join(sorted(path.stem for path in file.parent.glob("*.bin")))
            raise ModelMissing(f"there is no Kokoro voice {voice!r}; there are {known}", provider="kokoro")
    styles = np.fromfile(file, dtype="<f4")
    if not len(styles) or len(styles) % _STYLE_WIDTH:
        raise ModelMissing(f"{file} is not a Kokoro voice (float32 rows of {_STYLE_WIDTH})", provider="kokoro")
    return styles.reshape(-1, _STYLE_WIDTH).astype(np.float32)


def _shaped(samples: Pcm, *, pause_ms: int) -> Pcm:
    envelope = Envelope(SAMPLE_RATE_HZ, tail_ms=pause_ms)
    return np.concatenate([envelope.feed(samples), envelope.finish()])
