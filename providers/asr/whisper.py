"""Whisper on CTranslate2: one utterance in, one transcript out, everything in one thread.

Whisper was trained on windows of 30 s, and encoding those is most of the work. A phrase of up to 9 s is encoded in a window of
10 s instead, a longer one in a window just long enough: a third of the time at the same word error rate. Windows of 5 s or
less make the decoder loop; should it loop nevertheless, the phrase is decoded again in 30 s.

On noise Whisper says what subtitles say at such places ("Thank you."). Transcripts that the model itself does not believe,
and the well-known phantoms with little behind them, become an empty text.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

from providers.asr.chinese_script import Script, to_script
from providers.asr.log_mel import FRAMES_PER_S, SAMPLE_RATE_HZ, log_mel
from providers.asr.phantoms import is_phantom
from providers.base import Pcm, PcmFrame, ProviderRejected, Transcript
from providers.engine_thread import EngineThread
from providers.models import ModelStore
from settings.providers import WhisperAsr

log = structlog.get_logger(__name__)

_WINDOW_S: Final = 30
_SHORT_WINDOW_S: Final = 10
_MARGIN_S: Final = 1  # silence that the window has beyond the phrase
_MIN_PHRASE_S: Final = 0.1
_CUT_SEARCH_S: Final = 5  # longer audio is cut at the quietest place of the last seconds of a window
_MIN_PEAK: Final = 60  # of 32768: nothing that a microphone heard is so quiet
_LOOP_RATIO: Final = 2.4  # text that zlib shrinks more than this repeats itself
_TOKENS_PER_S: Final = 8  # and it is the decoder that repeats, not the speaker, when it comes faster than people talk
_NO_SPEECH: Final = 0.5  # with more than this, words need good scores to be believed
_LIKELY: Final = ("en", "zh")
_CHINESE_PROMPTS: Final = {"simplified": "以下是普通话的句子。", "traditional": "以下是普通話的句子。"}
_SURE: Final = 0.5  # a language less sure than this gives way to the likely ones


@dataclass(slots=True)
class WhisperStats:
    """Counters since the start."""

    phrases: int = 0
    empty: int = 0
    decoded_again: int = 0


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What the decoder made of one window."""

    text: str
    tokens: int
    audio_s: float
    language: str | None
    mean_log_probability: float
    no_speech_probability: float

    @property
    def loops(self) -> bool:
        raw = self.text.encode()
        return self.tokens > _TOKENS_PER_S * (self.audio_s + 1) and len(raw) / len(zlib.compress(raw)) > _LOOP_RATIO


@dataclass(frozen=True, slots=True)
class _Engine:
    """The loaded model; used in the engine's thread only."""

    model: Any
    tokenizer: Any
    script: Script

    @classmethod
    def load(cls, directory: Path, *, threads: int, script: Script) -> _Engine:
        import ctranslate2
        from tokenizers import Tokenizer

        model = ctranslate2.models.Whisper(str(directory), device="cpu", compute_type="int8", intra_threads=threads, inter_threads=1)
        return cls(model, Tokenizer.from_file(str(directory / "tokenizer.json")), script)

    def decode(self, samples: Pcm, *, window_s: int, language: str | None, patient: bool = False) -> _Decoded:
        """One greedy pass over one window; ``patient`` forbids repetitions."""
        import ctranslate2

        mel = log_mel(samples, mels=self.model.n_mels, frames=window_s * FRAMES_PER_S)
        encoded = self.model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None])))
        if self.model.is_multilingual:
            language = language or self._language(encoded)
        prompt = self._prompt(language)
        (result,) = self.model.generate(
            encoded,
            [prompt],
            beam_size=1,
            max_length=len(prompt) + 24 + 12 * window_s,  # nobody speaks more than 12 tokens a second
            no_repeat_ngram_size=4 if patient else 0,
            return_scores=True,
            return_no_speech_prob=True,
        )
        tokens = result.sequences_ids[0]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return _Decoded(text, len(tokens), len(samples) / SAMPLE_RATE_HZ, language, result.scores[0], result.no_speech_prob)

    def _language(self, encoded: Any) -> str:
        """The most probable language; on short phrases, where that is a guess, rather one of the likely ones."""
        (ranked,) = self.model.detect_language(encoded)
        probabilities: dict[str, float] = {token[2:-2]: probability for token, probability in ranked}
        best, certainty = max(probabilities.items(), key=lambda entry: entry[1])
        if certainty >= _SURE:
            return best
        return max(_LIKELY, key=lambda code: probabilities.get(code, 0.0))

    def _prompt(self, language: str | None) -> list[int]:
        """The decoder's first tokens; in Chinese, words before them that ask for punctuation and a script."""
        words = ["<|startoftranscript|>", "<|notimestamps|>"]
        if self.model.is_multilingual:
            words[1:1] = [f"<|{language}|>", "<|transcribe|>"]
        tokens = [self._token(word) for word in words]
        if language == "zh" and (before := _CHINESE_PROMPTS.get(self.script)):
            return [self._token("<|startofprev|>"), *self.tokenizer.encode(f" {before}", add_special_tokens=False).ids, *tokens]
        return tokens

    def _token(self, word: str) -> int:
        number = self.tokenizer.token_to_id(word)
        if number is None:
            raise ProviderRejected(f"the model has no token {word}: check asr.language", provider="whisper")
        return int(number)


def build(config: WhisperAsr, *, store: ModelStore) -> Whisper:
    """What :mod:`providers.factory` calls."""
    return Whisper(config, store=store)


class Whisper:
    """The model, shared by all sessions, one utterance at a time. Implements :class:`providers.base.SpeechToText`."""

    def __init__(self, config: WhisperAsr, *, store: ModelStore) -> None:
        self._config = config
        self._store = store
        self._thread = EngineThread("whisper")
        self._engine: _Engine | None = None
        self.early = config.early
        self.stats = WhisperStats()

    async def warm(self) -> None:
        """Load the model and decode a moment of silence. Idempotent. Raises ProviderError."""
        await self._thread.run(self._load)

    async def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        """The transcript of one utterance of 16 kHz frames, once its audio has ended. Raises ProviderError.

        Closed or cancelled, what has not begun never begins; a decoding that has is finished in the thread (at most a
        second or two, which the next utterance waits) and dropped.
        """
        frames = [frame async for frame in audio]
        for frame in frames:
            if frame.sample_rate_hz != SAMPLE_RATE_HZ:
                raise ValueError(f"Whisper takes 16 kHz, not {frame.sample_rate_hz} Hz")
        samples = np.concatenate([frame.samples for frame in frames]) if frames else np.zeros(0, np.int16)
        yield await self._thread.run(self._transcribe, samples)

    async def aclose(self) -> None:
        """End the thread and free the model. Idempotent."""
        await self._thread.aclose()
        self._engine = None

    # -- in the engine's thread ----------------------------------------------------------------------------------------
    def _load(self) -> _Engine:
        if self._engine is None:
            directory = self._store.resolve(self._config.model)
            engine = _Engine.load(directory, threads=self._config.threads, script=self._config.chinese_script)
            engine.decode(np.zeros(SAMPLE_RATE_HZ, np.int16), window_s=_SHORT_WINDOW_S, language="en")
            self._engine = engine
            log.info("Speech recognition model is loaded", path=str(directory), threads=self._config.threads)
        return self._engine

    def _transcribe(self, samples: Pcm) -> Transcript:
        engine = self._load()
        self.stats.phrases += 1
        language = _whisper_code(self._config.language)
        texts: list[str] = []
        for piece in pieces(samples):
            if len(piece) < _MIN_PHRASE_S * SAMPLE_RATE_HZ or np.abs(piece.astype(np.int32)).max() < _MIN_PEAK:
                continue
            decoded = self._decode(engine, piece, language)
            if not decoded.loops and believable(decoded.text, decoded.mean_log_probability, decoded.no_speech_probability):
                texts.append(decoded.text)
                language = language or decoded.language  # the pieces of one utterance are of one language
        if not texts:
            self.stats.empty += 1
            return Transcript("", None)
        text = ("" if language in {"zh", "ja", "yue"} else " ").join(texts)
        if language in {"zh", "yue"}:
            text = to_script(text, self._config.chinese_script)
        return Transcript(text, "zh" if language == "yue" else language)

    def _decode(self, engine: _Engine, piece: Pcm, language: str | None) -> _Decoded:
        needed_s = -(-len(piece) // SAMPLE_RATE_HZ) + _MARGIN_S
        decoded = engine.decode(piece, window_s=min(max(needed_s, _SHORT_WINDOW_S), _WINDOW_S), language=language)
        if not decoded.loops or decoded.no_speech_probability > _NO_SPEECH:  # a loop on noise is just dropped
            return decoded
        self.stats.decoded_again += 1
        decoded = engine.decode(piece, window_s=_WINDOW_S, language=language)
        return engine.decode(piece, window_s=_WINDOW_S, language=language, patient=True) if decoded.loops else decoded


def believable(text: str, mean_log_probability: float, no_speech_probability: float) -> bool:
    """Whether words were heard at all, by the text and the model's own opinion of it.

    Measured with the base model: single words in noise come with a no-speech probability under 0.2 whatever their score,
    noise, hum, knocks and beeps with 0.6 and more.
    """
    if not any(character.isalnum() for character in text):
        return False
    if mean_log_probability < -3:
        return False
    if no_speech_probability > _NO_SPEECH and mean_log_probability < -0.6:
        return False
    if no_speech_probability > 0.2 and mean_log_probability < -1.2:
        return False
    return not is_phantom(text, weak=no_speech_probability > 0.2 or mean_log_probability < -1.6)


def pieces(samples: Pcm) -> list[Pcm]:
    """The audio in pieces that fit a window, cut where it is quietest near each window's end."""
    found: list[Pcm] = []
    limit = (_WINDOW_S - _MARGIN_S) * SAMPLE_RATE_HZ
    block = SAMPLE_RATE_HZ // 20
    while len(samples) > limit:
        first = limit - _CUT_SEARCH_S * SAMPLE_RATE_HZ
        loudness = np.abs(samples[first:limit].astype(np.int32)).reshape(-1, block).sum(axis=1)
        cut = first + int(loudness.argmin()) * block + block // 2
        found.append(samples[:cut])
        samples = samples[cut:]
    return [*found, samples]


def _whisper_code(language: str | None) -> str | None:
    """Whisper's code of a BCP 47 tag: its primary subtag."""
    return language.replace("_", "-").split("-")[0].lower() if language else None
