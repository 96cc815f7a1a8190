"""Speech from any endpoint that offers OpenAI's ``/audio/speech``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import numpy as np

from providers import openai_sdk
from providers.base import PcmFrame, ProviderRejected, ProviderUnavailable
from providers.models import ModelStore
from providers.tts.envelope import Envelope
from providers.tts.pcm_stream import PcmStream, UnknownAudioError
from providers.tts.text import speakable
from settings import providers as configs

_PROVIDER: Final = "openai"
MAX_SILENCE_S: Final = 10
"""An endpoint that sends nothing but silence means it: so much of it is passed on, and the text is shown with it."""


def build(config: configs.OpenAiTts, *, store: ModelStore) -> OpenAiTts:
    """What :mod:`providers.factory` calls; there is no model to store."""
    del store
    return OpenAiTts(config)


class OpenAiTts:
    """Asks for raw PCM and passes it on as it arrives. Servers that send a WAV file instead are understood too."""

    def __init__(self, config: configs.OpenAiTts) -> None:
        self._config = config
        self._client = openai_sdk.Client(config, provider=_PROVIDER)

    async def warm(self) -> None:
        """Import the SDK and open a connection; an endpoint that does not answer is no error yet. Idempotent."""
        await self._client.warm()

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        """The speech of one sentence as it comes. Cancelled or closed, the request is dropped and the pool stays usable."""
        spoken = speakable(text)
        if not spoken:
            return
        sdk = await self._client.get()
        host = openai_sdk.where(self._config.base_url)
        async with AsyncExitStack() as stack:
            with openai_sdk.translated_errors(_PROVIDER, self._config.base_url):
                response = await stack.enter_async_context(
                    sdk.audio.speech.with_streaming_response.create(
                        model=self._config.model, voice=self._config.voice, input=spoken, response_format="pcm", **self._options()
                    )
                )
                pieces = response.iter_bytes()
            silence, sounded = 0, False
            try:
                stream = PcmStream(sample_rate_hz=self._config.sample_rate_hz, content_type=response.headers.get("content-type", ""))
                envelope: Envelope | None = None
                while (piece := await self._next(pieces)) is not None:
                    samples = stream.feed(piece)
                    if not len(samples):
                        continue
                    envelope = envelope or Envelope(stream.sample_rate_hz)
                    silence += len(samples)
                    if len(settled := envelope.feed(samples)):
                        sounded = True
                        yield PcmFrame(settled, stream.sample_rate_hz)
            except UnknownAudioError as error:
                raise ProviderRejected(f"{host} sent {error}; it must support response_format pcm or wav", provider=_PROVIDER) from error
            if envelope is None:
                raise ProviderUnavailable(f"{host} sent no sound", provider=_PROVIDER)
            if len(rest := envelope.finish()):
                yield PcmFrame(rest, stream.sample_rate_hz)
            elif not sounded:
                yield PcmFrame(np.zeros(min(silence, MAX_SILENCE_S * stream.sample_rate_hz), np.int16), stream.sample_rate_hz)

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.aclose()

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        with openai_sdk.translated_errors(_PROVIDER, self._config.base_url):
            return await anext(pieces, None)

    def _options(self) -> dict[str, Any]:
        return {} if self._config.speed is None else {"speed": self._config.speed}
