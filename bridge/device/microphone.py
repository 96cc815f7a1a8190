"""The microphone and who speaks into it: a frame a frame-duration, silence when nobody says anything."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from bridge.device.codec import MICROPHONE_RATE_HZ, Encoder, Pcm
from bridge.device.errors import SpeechError
from bridge.device.speech import Speech, silence

WARM_UP_S: Final = 0.12
"""From ``listen start`` to the first packet."""


@dataclass(frozen=True, slots=True)
class Said:
    """When one saying was spoken (loop time): its first packet, the end of its voice, its last packet."""

    started_s: float
    speech_end_s: float
    finished_s: float
    unheard_frames: int
    """Frames spoken while the microphone was off."""


class LiveSource(Protocol):
    """A real microphone: 16 kHz frames, oldest first."""

    def read(self) -> Pcm | None:
        """The next frame, or None when the hardware has not delivered one yet."""

    def close(self) -> None: ...


@dataclass(slots=True)
class MicrophoneStats:
    frames: int = 0
    late_frames: int = 0
    """Frames sent more than half a frame after their time: the machine was busy."""


@dataclass(slots=True)
class _Clip:
    speech: Speech
    done: asyncio.Future[Said]
    position: int = 0
    unheard: int = 0
    started_s: float = 0.0


class Microphone:
    """Sends through ``transmit`` while it is on. :meth:`run` is its task; nothing is sent without it."""

    def __init__(
        self,
        *,
        frame_ms: int,
        transmit: Callable[[bytes], None],
        realtime: bool = True,
        live: LiveSource | None = None,
        warm_up_s: float = WARM_UP_S,
    ) -> None:
        self._frame_s = frame_ms / 1000
        self._silence = silence(frame_ms)
        self._silent_frames = 0
        self._transmit = transmit
        self._realtime = realtime
        self._live = live
        self._encoder = Encoder(frame_ms) if live is not None else None
        self._warm_up_s = warm_up_s
        self._clip: _Clip | None = None
        self._wake = asyncio.Event()
        self._running = asyncio.Event()
        self._on = False
        self._due_s = 0.0
        self.stats = MicrophoneStats()

    @property
    def on(self) -> bool:
        return self._on

    def switch_on(self) -> None:
        """Idempotent; the first packet follows after the warm-up."""
        if not self._on:
            self._on = True
            self._due_s = asyncio.get_running_loop().time() + self._warm_up_s
            self._running.set()
            self._wake.set()

    def switch_off(self) -> None:
        """From now nothing is sent. Who is speaking goes on, unheard."""
        self._on = False
        self._running.clear()

    async def say(self, speech: Speech) -> Said:
        """Speak from the moment the microphone is on; returns after the last frame. Cancelled, the person falls silent.

        Raises :class:`SpeechError` when somebody is speaking already.
        """
        await self._running.wait()
        if self._clip is not None:
            raise SpeechError("Somebody is speaking already.")
        clip = _Clip(speech, asyncio.get_running_loop().create_future())
        self._clip = clip
        try:
            return await clip.done
        finally:
            if self._clip is clip:
                self._clip = None

    async def run(self) -> None:
        """The microphone's clock: absolute, so that it does not drift. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if not self._on and self._clip is None:
                await self._wake.wait()
            fast = not self._realtime and self._clip is not None
            late_s = loop.time() - self._due_s
            if late_s < 0 and not fast:
                await asyncio.sleep(-late_s)
                continue
            if late_s > self._frame_s * 8:  # woken after a long stall: real hardware would not catch up either
                self._due_s = loop.time()
            elif late_s > self._frame_s / 2:
                self.stats.late_frames += 1
            self._tick(loop.time())
            self._due_s += self._frame_s if not fast else 0.0
            if fast:
                await asyncio.sleep(0)

    def close(self) -> None:
        if self._live is not None:
            self._live.close()

    def _tick(self, now: float) -> None:
        frame = self._next_frame(now)
        if frame and self._on:
            self.stats.frames += 1
            self._transmit(frame)

    def _next_frame(self, now: float) -> bytes:
        clip = self._clip
        if clip is None:
            return self._ambient()
        if clip.position == 0:
            clip.started_s = now
        frame = clip.speech.frames[clip.position]
        clip.position += 1
        clip.unheard += not self._on
        if clip.position == len(clip.speech.frames):
            self._finish(clip, now)
        return frame

    def _finish(self, clip: _Clip, now: float) -> None:
        self._clip = None
        # The first packet carries what was said during the frame before it.
        speech_end_s = clip.started_s - self._frame_s + clip.speech.voiced_until_s if self._realtime else now
        if not clip.done.done():
            clip.done.set_result(Said(clip.started_s, min(speech_end_s, now), now, clip.unheard))

    def _ambient(self) -> bytes:
        if self._live is not None and self._encoder is not None:
            samples = self._live.read()
            return b"" if samples is None else self._encoder.encode(samples)
        self._silent_frames += 1
        return self._silence[self._silent_frames % len(self._silence)]


class SoundcardSource:
    """The machine's default microphone through ``sounddevice``, if that is installed."""

    def __init__(self, *, frame_ms: int) -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:
            raise SpeechError("The live microphone needs the package sounddevice and PortAudio: pip install sounddevice.") from error
        size = MICROPHONE_RATE_HZ * frame_ms // 1000
        # ~1 s; the oldest is lost when nobody reads. Filled by PortAudio's thread: deque operations are atomic.
        self._frames: deque[Pcm] = deque(maxlen=max(1000 // frame_ms, 1))

        def keep(block: Any, _frames: int, _time: object, _status: object) -> None:
            self._frames.append(np.array(block[:, 0], dtype=np.int16))

        try:
            self._stream = sounddevice.InputStream(samplerate=MICROPHONE_RATE_HZ, channels=1, dtype="int16", blocksize=size, callback=keep)
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise SpeechError(f"The microphone cannot be opened: {error}.") from error

    def read(self) -> Pcm | None:
        return self._frames.popleft() if self._frames else None

    def close(self) -> None:
        self._stream.close()
