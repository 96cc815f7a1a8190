"""The vocabulary of providers and the protocols they implement.

Audio is mono signed 16-bit PCM in NumPy arrays of shape ``(samples,)``. A *provider* lives as long as the process
(a model, an HTTP pool); what one use needs lives in the generator or stream it returns, so no provider holds a session.

Streams are async generators, to be consumed under :func:`contextlib.aclosing`. Closing or cancelling one stops the
work as soon as the engine allows and leaves the provider usable. Errors are of one small tree::

    ProviderError                 the engine failed; `provider` says which
    +-- ProviderUnavailable       cannot be reached or loaded now: a retry or another provider may help
    +-- ProviderTimeout           gave nothing in time: a retry may help
    +-- ProviderRejected          refused the request (key, quota, model name): a retry does not help
    +-- ModelMissing              the weights are nowhere to be found: the sentence names the ways to get them
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pcm: TypeAlias = NDArray[np.int16]


class ProviderError(Exception):
    """An engine failed. The text is a sentence for the operator, without secrets."""

    def __init__(self, message: str, *, provider: str = "") -> None:
        super().__init__(message)
        self.provider = provider


class ProviderUnavailable(ProviderError):
    """The engine cannot be reached or loaded now."""


class ProviderTimeout(ProviderError):
    """The engine gave nothing in time."""


class ProviderRejected(ProviderError):
    """The engine refused the request."""


class ModelMissing(ProviderError):
    """The weights are nowhere to be found."""


@dataclass(frozen=True, slots=True)
class PcmFrame:
    """A piece of speech of any length: mono samples at ``sample_rate_hz``."""

    samples: Pcm
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


# -- voice activity ----------------------------------------------------------------------------------------------------
class VadStream(Protocol):
    """The memory of one listener. Not to be used by two tasks at once."""

    window_samples: int
    """Samples per decision, at 16 kHz (512 = 32 ms for Silero)."""

    async def feed(self, samples: Pcm) -> list[float]:
        """Speech probabilities (0..1) of the windows completed by these 16 kHz samples, oldest first; the rest waits."""

    def reset(self) -> None:
        """Forget what was heard."""


class Vad(Protocol):
    async def warm(self) -> None:
        """Load the model; afterwards the first use is as fast as any. Idempotent."""

    def open(self) -> VadStream: ...

    async def aclose(self) -> None: ...


# -- speech to text ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard. ``language`` is a lower-case ISO 639-1 code when known; an empty ``text`` means no words."""

    text: str
    language: str | None = None
    final: bool = True


class SpeechToText(Protocol):
    early: bool
    """True when transcribing a guess that is thrown away costs nothing but CPU."""

    async def warm(self) -> None: ...

    def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        """Transcripts of one utterance (16 kHz frames); partial ones may come first, the last one is final.

        Raises ProviderError.
        """
        ...

    async def aclose(self) -> None: ...


# -- language model ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool; ``arguments`` is the parsed JSON object.

    ``malformed`` is not empty when the model sent something else than a JSON object (``arguments`` is then empty):
    the tool must not run, and the model gets an error as its result, so that it can try again.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    malformed: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of the history.

    ``assistant`` entries may carry ``tool_calls``; each is answered by one ``tool`` entry with its ``tool_call_id``.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told about a tool. ``name`` matches ``^[A-Za-z0-9_-]{1,64}$``; ``parameters`` is a JSON schema object."""

    name: str
    description: str
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


ChatEvent: TypeAlias = TextDelta | ToolCall | Usage


class Llm(Protocol):
    tools: bool
    """False when the model cannot call tools: none are offered to it."""
    languages: frozenset[str] | None
    """ISO 639-1 codes of the languages it speaks; None: whatever it is asked in."""

    async def warm(self, prefix: Sequence[Message] = ()) -> None:
        """Load the model or open the connection, and evaluate the prompt prefix where that helps."""

    def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        """The answer as it comes; tool calls arrive whole. Raises ProviderError."""
        ...

    async def aclose(self) -> None: ...


# -- text to speech ----------------------------------------------------------------------------------------------------
class TextToSpeech(Protocol):
    async def warm(self) -> None: ...

    def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        """The speech of one sentence or clause, in pieces as they come, all of one sample rate. Raises ProviderError."""
        ...

    async def aclose(self) -> None: ...


# -- intents -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Intent:
    """What a sentence asks for: a name such as ``SetVolume`` and its slots, in plain JSON values."""

    name: str
    slots: dict[str, Any]
    language: str


class IntentRecognizer(Protocol):
    async def warm(self) -> None: ...

    async def recognize(self, text: str, *, language: str | None = None) -> Intent | None:
        """The intent of the sentence, or None when it is not one of ours."""

    async def aclose(self) -> None: ...
