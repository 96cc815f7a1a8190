"""Engines that do as they are told: the provider protocols without models, for tests and benchmarks of everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from providers.base import (
    ChatEvent,
    Intent,
    Message,
    Pcm,
    PcmFrame,
    TextDelta,
    ToolCall,
    ToolSpec,
    Transcript,
)


def tone(seconds: float, *, rate_hz: int = 16000, hz: float = 440.0, amplitude: int = 8000) -> Pcm:
    """A sine, int16 mono."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.asarray(np.sin(2 * np.pi * hz * t) * amplitude, np.int16)


def silence(seconds: float, *, rate_hz: int = 16000) -> Pcm:
    return np.zeros(round(seconds * rate_hz), np.int16)


class EnergyVadStream:
    """Loud is speech."""

    window_samples = 512

    def __init__(self) -> None:
        self._rest: Pcm = np.zeros(0, np.int16)

    async def feed(self, samples: Pcm) -> list[float]:
        samples = np.concatenate((self._rest, samples))
        count = len(samples) // self.window_samples
        windows = samples[: count * self.window_samples].reshape(count, self.window_samples)
        self._rest = samples[count * self.window_samples :]
        return [0.95 if np.abs(window.astype(np.int32)).max() > 1000 else 0.02 for window in windows]

    def reset(self) -> None:
        self._rest = self._rest[:0]


class EnergyVad:
    async def warm(self) -> None: ...

    def open(self) -> EnergyVadStream:
        return EnergyVadStream()

    async def aclose(self) -> None: ...


@dataclass
class ScriptedAsr:
    """Says ``texts`` one after another, the last for ever. An exception in the row is raised."""

    texts: Sequence[str | Exception] = ("hello",)
    delay_s: float = 0.0
    early: bool = False
    utterances: list[PcmFrame] = field(default_factory=list)

    async def warm(self) -> None: ...

    async def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        frames = [frame async for frame in audio]
        number = len(self.utterances)
        self.utterances.append(PcmFrame(np.concatenate([frame.samples for frame in frames]), 16000))
        await asyncio.sleep(self.delay_s)
        text = self.texts[min(number, len(self.texts) - 1)]
        if isinstance(text, Exception):
            raise text
        yield Transcript(text, "en")

    async def aclose(self) -> None: ...


@dataclass
class ScriptedLlm:
    """Plays ``answers`` one call after another, the last for ever: each a row of text pieces, tool calls or exceptions."""

    answers: Sequence[Sequence[str | ToolCall | Exception]] = (("It works. ", "Really."),)
    delay_s: float = 0.0
    pace_s: float = 0.0
    """Before each piece."""
    tools: bool = True
    languages: frozenset[str] | None = None
    histories: list[list[Message]] = field(default_factory=list)
    offered: list[list[ToolSpec]] = field(default_factory=list)

    async def warm(self, prefix: Sequence[Message] = ()) -> None: ...

    async def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        answer = self.answers[min(len(self.histories), len(self.answers) - 1)]
        self.histories.append(list(history))
        self.offered.append(list(tools))
        await asyncio.sleep(self.delay_s)
        for piece in answer:
            if self.pace_s:
                await asyncio.sleep(self.pace_s)
            if isinstance(piece, Exception):
                raise piece
            yield piece if isinstance(piece, ToolCall) else TextDelta(piece)

    async def aclose(self) -> None: ...


@dataclass
class ScriptedTts:
    """A tone of ``seconds_per_character`` for every character."""

    seconds_per_character: float = 0.02
    delay_s: float = 0.0
    rate_hz: int = 24000
    error: Exception | None = None
    texts: list[str] = field(default_factory=list)

    async def warm(self) -> None: ...

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        self.texts.append(text)
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        yield PcmFrame(tone(max(0.1, len(text) * self.seconds_per_character), rate_hz=self.rate_hz), self.rate_hz)

    async def aclose(self) -> None: ...


@dataclass
class ScriptedIntents:
    """``find`` decides; by default there are no intents."""

    find: Callable[[str], Intent | None] = lambda _text: None

    async def warm(self) -> None: ...

    async def recognize(self, text: str, *, language: str | None = None) -> Intent | None:
        return self.find(text)

    async def aclose(self) -> None: ...
