"""Speech recognition by any endpoint that offers OpenAI's ``/audio/transcriptions``."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from providers import openai_sdk
from providers.asr.phantoms import is_phantom
from providers.base import PcmFrame, ProviderTimeout, ProviderUnavailable, Transcript
from providers.models import ModelStore
from settings.providers import OpenAiAsr

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = structlog.get_logger(__name__)

_PROVIDER: Final = "openai"
_MIN_PEAK: Final = 60  # of 32768: what is quieter is not worth a request


@dataclass(slots=True)
class TranscriptionStats:
    """Counters since the start."""

    requests: int = 0
    empty: int = 0


def build(config: OpenAiAsr, *, store: ModelStore) -> OpenAiTranscription:
    """What :mod:`providers.factory` calls; there is no model to store."""
    del store
    return OpenAiTranscription(config)


class OpenAiTranscription:
    """One request an utterance, over kept connections. Implements :class:`providers.base.SpeechToText`."""

    def __init__(self, config: OpenAiAsr) -> None:
        self._config = config
        self._client = openai_sdk.Client(config, provider=_PROVIDER)
        self.early = config.early
        self.stats = TranscriptionStats()

    async def warm(self) -> None:
        """Import the SDK and open a connection. An endpoint that does not answer yet is no error. Idempotent."""
        await self._client.warm()

    async def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        """The transcript of one utterance, once its audio has ended; an empty one, without a request, for silence.

        Raises ProviderError, at the latest after ``timeout_s``, retries included. Closed or cancelled, the request is
        dropped and the connections stay usable.
        """
        frames = [frame async for frame in audio]
        if not any(np.abs(frame.samples.astype(np.int32)).max(initial=0) >= _MIN_PEAK for frame in frames):
            self.stats.empty += 1
            yield Transcript("", self._config.language)
            return
        sdk = await self._client.get()
        self.stats.requests += 1
        try:
            async with asyncio.timeout(self._config.timeout_s):
                answer = await self._ask(sdk, wav(frames))
        except TimeoutError as error:
            host = openai_sdk.where(self._config.base_url)
            raise ProviderTimeout(f"{host} gave no transcript within {self._config.timeout_s:g} s", provider=_PROVIDER) from error
        transcript = self._transcript(answer)
        self.stats.empty += not transcript.text
        yield transcript

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.aclose()

    async def _ask(self, sdk: AsyncOpenAI, utterance: bytes) -> Any:
        language: dict[str, Any] = {"language": self._config.language.split("-")[0].lower()} if self._config.language else {}
        with openai_sdk.translated_errors(_PROVIDER, self._config.base_url):
            return await sdk.audio.transcriptions.create(
                model=self._config.model, file=("utterance.wav", utterance, "audio/wav"), response_format="json", **language
            )

    def _transcript(self, answer: Any) -> Transcript:
        """Servers differ in what they add to the text; where there is none (a web page, say), something else answers there."""
        text = answer if isinstance(answer, str) and not _is_markup(answer) else getattr(answer, "text", None)
        if not isinstance(text, str):
            host = openai_sdk.where(self._config.base_url)
            raise ProviderUnavailable(f"{host} answered without a text; is base_url right up to its /v1?", provider=_PROVIDER)
        language = getattr(answer, "language", None)
        if not (isinstance(language, str) and len(language) == 2):
            language = self._config.language
        heard = any(character.isalnum() for character in text) and not is_phantom(text, weak=False)
        return Transcript(text.strip() if heard else "", language.split("-")[0].lower() if language else None)


def _is_markup(text: str) -> bool:
    """A web page or an unread JSON document rather than the bare transcript that some servers send as ``text/plain``."""
    return text.lstrip().startswith(("<", "{"))


def wav(frames: list[PcmFrame]) -> bytes:
    """The frames as one WAV file: mono, 16 bit, at their rate."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(frames[0].sample_rate_hz)
        for frame in frames:
            file.writeframes(frame.samples.astype("<i2").tobytes())
    return out.getvalue()
