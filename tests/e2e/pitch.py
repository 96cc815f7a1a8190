"""Engines that carry a pitch through the whole bridge: who sings 500 Hz reads "You sang 500." and hears a tone of 500 Hz.

So every answer, its text and its audio, says which utterance it belongs to.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from providers.base import ChatEvent, Message, Pcm, PcmFrame, TextDelta, ToolSpec, Transcript
from tests.scripted import tone

STEP_HZ = 50


def pitch_of(samples: Pcm, *, rate_hz: int) -> int:
    """The strongest frequency, rounded to 50 Hz; 0 for silence."""
    if len(samples) == 0 or int(np.abs(samples.astype(np.int32)).max()) < 500:
        return 0
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64) * np.hanning(len(samples))))
    spectrum[: int(60 * len(samples) / rate_hz)] = 0
    strongest_hz = float(np.argmax(spectrum)) * rate_hz / len(samples)
    return round(strongest_hz / STEP_HZ) * STEP_HZ


@dataclass
class PitchAsr:
    """``pitch 440`` for an utterance of that pitch. ``utterances`` are kept, oldest first."""

    early: bool = False
    delay_s: float = 0.0
    utterances: list[PcmFrame] = field(default_factory=list)

    async def warm(self) -> None: ...

    async def transcribe(self, audio: AsyncIterator[PcmFrame]) -> AsyncGenerator[Transcript, None]:
        frames = [frame async for frame in audio]
        heard = PcmFrame(np.concatenate([frame.samples for frame in frames]), 16000)
        self.utterances.append(heard)
        await asyncio.sleep(self.delay_s)
        pitch = pitch_of(heard.samples, rate_hz=16000)
        yield Transcript(f"pitch {pitch}" if pitch else "", "en")

    async def aclose(self) -> None: ...


@dataclass
class EchoLlm:
    """Answers every user message that holds a number with ``sentences`` sentences about it."""

    sentences: int = 1
    padding: str = ""
    tools: bool = True
    languages: frozenset[str] | None = None
    histories: list[list[Message]] = field(default_factory=list)

    async def warm(self, prefix: Sequence[Message] = ()) -> None: ...

    async def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        self.histories.append(list(history))
        found = re.search(r"\d+", history[-1].content)
        for _ in range(self.sentences):
            yield TextDelta(f"You sang {found.group() if found else 'nothing'}{self.padding}. ")

    async def aclose(self) -> None: ...


@dataclass
class PitchTts:
    """Sings the number that stands in the text; without one it hums at 200 Hz."""

    seconds: float = 0.24
    rate_hz: int = 24000
    texts: list[str] = field(default_factory=list)

    async def warm(self) -> None: ...

    async def synthesize(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        self.texts.append(text)
        found = re.search(r"\d+", text)
        await asyncio.sleep(0)
        yield PcmFrame(tone(self.seconds, rate_hz=self.rate_hz, hz=float(found.group()) if found else 200.0), self.rate_hz)

    async def aclose(self) -> None: ...
