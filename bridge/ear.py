"""The ear of a session: Opus frames in, finished utterances out.

It lives as long as the session and outside every turn, so the words that interrupt an answer are not lost. While
nobody listens it keeps the last half second undecoded; audio that overtakes its `listen start` is thus not lost either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Protocol

import numpy as np
import structlog

from bridge.dialogue import Mode
from bridge.endpointing import Endpointer, Mark
from bridge.transport import AudioLink
from providers.base import Pcm, PcmFrame, VadStream
from settings.providers import VadConfig
from udp_audio.channel import UplinkFrame
from udp_audio.errors import OpusError
from udp_audio.opus import OpusDecoder, carries_fec, is_dtx

log = structlog.get_logger(__name__)

SAMPLE_RATE_HZ = 16000
OVERTAKING_S = 0.5
"""Audio may come this long before the `listen start` that it belongs to; what is older belongs to nothing."""
STRAGGLERS_S = 0.1
"""After `listen stop`, the wait for datagrams that the control message has overtaken."""
SILENT_LINK_S = 0.3
"""In speech, a link that is silent this much longer than the closing silence ends the utterance too."""
BARGE_IN_MS = 500.0


@dataclass(slots=True)
class Utterance:
    """What one person said at one time: 16 kHz mono. ``speech_end`` is loop time of the last voiced window's arrival."""

    frames: list[Pcm] = field(default_factory=list)
    samples: int = 0
    speech_ms: float = 0.0
    speech_end: float = 0.0

    @property
    def duration_s(self) -> float:
        return self.samples / SAMPLE_RATE_HZ

    def add(self, *frames: Pcm) -> None:
        self.frames.extend(frames)
        for frame in frames:
            self.samples += len(frame)

    def continue_from(self, earlier: Utterance) -> None:
        """Put what was said before in front of this."""
        self.frames[:0] = earlier.frames
        self.samples += earlier.samples
        self.speech_ms += earlier.speech_ms

    def audio(self) -> PcmFrame:
        """All of it in one frame."""
        samples = np.concatenate(self.frames) if self.frames else np.zeros(0, np.int16)
        return PcmFrame(samples, SAMPLE_RATE_HZ)


@dataclass(slots=True)
class EarStats:
    """What the ear had to make up, in frames."""

    concealed: int = 0
    recovered: int = 0
    """Lost, but carried by the error correction of the next packet."""
    undecodable: int = 0
    resets: int = 0
    """The decoder started afresh, because the stream had jumped."""


class FrameDecoder:
    """Turns a device's frames into 16 kHz samples, one frame after the other, lost ones included.

    A frame that is lost is recovered when the packet behind it carries error correction (its LBRR flag says so), else concealed.
    After a jump of the sequence the decoder forgets the stream: what it knew does not go on there.
    """

    def __init__(self, *, frame_ms: int) -> None:
        self.stats = EarStats()
        self._samples = SAMPLE_RATE_HZ * frame_ms // 1000
        self._decoder = OpusDecoder(sample_rate_hz=SAMPLE_RATE_HZ)
        self._sequence = 0

    def decode(self, frame: UplinkFrame, following: UplinkFrame | None = None) -> Pcm:
        """The frame's samples; silence for one of discontinuous transmission, or one that libopus refuses.

        ``following``: the frame after it, where it is known already.
        """
        if self._sequence and frame.sequence != self._sequence + 1:
            self.stats.resets += 1
            self._decoder.reset()
        self._sequence = frame.sequence
        try:
            if frame.lost:
                return self._replace(following)
            if is_dtx(frame.opus):
                return np.zeros(self._samples, np.int16)
            return self._decoder.decode(frame.opus)
        except OpusError:
            self.stats.undecodable += 1
            return np.zeros(self._samples, np.int16)

    def _replace(self, following: UplinkFrame | None) -> Pcm:
        if following is not None and following.sequence == self._sequence + 1 and carries_fec(following.opus):
            self.stats.recovered += 1
            return self._decoder.recover(following.opus, self._samples)
        self.stats.concealed += 1
        return self._decoder.conceal(self._samples)


class EarListener(Protocol):
    """Who is told what the ear hears; called on the loop, must not block."""

    def speech_started(self) -> None: ...

    def speech_paused(self, so_far: Utterance) -> None:
        """A pause that may be the end (a snapshot: it does not grow)."""

    def speech_resumed(self) -> None: ...

    def may_end(self) -> bool:
        """Asked at the closing silence: False holds out for the longer one, because the words sound unfinished."""

    def utterance_finished(self, utterance: Utterance) -> None: ...

    def barged_in(self) -> None:
        """Half a second of speech in realtime mode; asked once an utterance."""


class Ear:
    """Run :meth:`run` as a task of the session; the other methods are called from the same loop."""

    def __init__(
        self, channel: AudioLink, vad: VadStream, *, options: VadConfig, frame_ms: int, max_utterance_s: float, listener: EarListener
    ) -> None:
        self._channel = channel
        self._vad = vad
        self._options = options
        self._max_utterance_s = max_utterance_s
        self._listener = listener
        self._decoder = FrameDecoder(frame_ms=frame_ms)
        self.stats = self._decoder.stats
        self._endpointer = Endpointer(options, window_ms=vad.window_samples * 1000 / SAMPLE_RATE_HZ)
        self._waiting: deque[UplinkFrame] = deque(maxlen=max(1, int(OVERTAKING_S * 1000) // frame_ms))
        # The voice that proves that there is speech comes on top of what lies before it.
        self._pre_roll: deque[Pcm] = deque(maxlen=max(1, -(-(options.pre_roll_ms + options.min_speech_ms) // frame_ms)))
        self._mode: Mode | None = None
        self._finishing = False
        self._generation = 0
        self._barged = False
        self._utterance = Utterance()
        self._waiting_since: float | None = None
        self._link_watch: asyncio.TimerHandle | None = None

    # -- what the session tells it ---------------------------------------------------------------------------------------
    def open(self, mode: Mode, *, keep_speech: bool = False) -> None:
        """Collect a new utterance. ``keep_speech``: words already under way (a barge-in) go on."""
        self._mode, self._finishing = mode, False
        if keep_speech and self._endpointer.in_speech:
            return
        self._begin()
        since = asyncio.get_running_loop().time() - OVERTAKING_S
        while self._waiting and self._waiting[0].received_at < since:
            self._waiting.popleft()

    def close(self) -> None:
        """Stop collecting; what was collected is dropped."""
        self._mode, self._finishing = None, False
        self._begin()
        self._pre_roll.clear()

    def forget_waiting(self) -> None:
        """Drop what arrived before now while nobody listened (the wake word itself)."""
        self._waiting.clear()
        self._pre_roll.clear()

    def finish(self) -> None:
        """`listen stop`: hand over the utterance as soon as stragglers have arrived."""
        self._finishing = True
        generation = self._generation
        asyncio.get_running_loop().call_later(STRAGGLERS_S, self._hand_over_if, generation)

    @property
    def in_speech(self) -> bool:
        """Somebody is speaking, as far as the session listens."""
        return self._mode is not None and self._endpointer.in_speech

    # -- the loop --------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled, or the channel closes (ChannelClosed). Cancellation loses at most the frames just taken."""
        loop = asyncio.get_running_loop()
        try:
            await self._receive(loop)
        finally:
            if self._link_watch is not None:
                self._link_watch.cancel()

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            if self._link_watch is None and self._in_auto_speech():
                self._watch_link(loop)
            self._waiting_since = loop.time()
            frames = await self._channel.receive()
            self._waiting_since = None
            if self._mode is None:
                self._waiting.extend(frames)
                continue
            if self._waiting:
                frames = [*self._waiting, *frames]
                self._waiting.clear()
            # a loss always comes together with the packet behind it
            for frame, following in zip_longest(frames, frames[1:]):
                await self._hear(self._decoder.decode(frame, following), loop.time())

    def _watch_link(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the utterance when nothing has come for too long. One timer watches over many packets: one for each would be dear."""
        self._link_watch = None
        if not self._in_auto_speech():
            return
        now = loop.time()
        since = now if self._waiting_since is None else self._waiting_since  # what has come is being heard
        until = since + self._options.silence_ms / 1000 + SILENT_LINK_S
        if now >= until:
            self._hand_over()
        else:
            self._link_watch = loop.call_at(until, self._watch_link, loop)

    def _in_auto_speech(self) -> bool:
        return self._mode in {Mode.AUTO, Mode.REALTIME} and self._endpointer.in_speech

    async def _hear(self, samples: Pcm, now: float) -> None:
        generation = self._generation
        collecting = self._mode is Mode.MANUAL or self._endpointer.in_speech
        if not collecting:
            self._pre_roll.append(samples)
        elif self._utterance.duration_s < self._max_utterance_s:
            self._utterance.add(samples)
        for probability in await self._vad.feed(samples):
            if generation != self._generation:
                return  # the session started over while the model worked
            self._mark(self._endpointer.push(probability), now)
        if generation != self._generation:
            return
        if self._endpointer.in_speech and not self._endpointer.silence_ms:
            self._utterance.speech_end = now
        self._utterance.speech_ms = self._endpointer.speech_ms
        if self._mode is Mode.REALTIME and not self._barged and self._utterance.speech_ms >= BARGE_IN_MS:
            self._barged = True
            self._listener.barged_in()
        if self._mode is not Mode.MANUAL and self._utterance.duration_s >= self._max_utterance_s:
            self._hand_over()

    def _mark(self, mark: Mark | None, now: float) -> None:
        match mark:
            case Mark.STARTED:
                if self._mode is not Mode.MANUAL:
                    self._utterance.add(*self._pre_roll)
                    self._pre_roll.clear()
                self._utterance.speech_end = now
                self._listener.speech_started()
            case Mark.EARLY if self._mode is not Mode.MANUAL:
                self._listener.speech_paused(self._snapshot())
            case Mark.RESUMED if self._mode is not Mode.MANUAL:
                self._listener.speech_resumed()
            case Mark.END if self._mode is not Mode.MANUAL and self._listener.may_end():
                self._hand_over()
            case Mark.LAST if self._mode is not Mode.MANUAL:
                self._hand_over()
            case _:
                pass

    def _snapshot(self) -> Utterance:
        return replace(self._utterance, frames=list(self._utterance.frames), speech_ms=self._endpointer.speech_ms)

    def _hand_over_if(self, generation: int) -> None:
        if self._finishing and generation == self._generation:
            if not self._utterance.speech_end:
                self._utterance.speech_end = asyncio.get_running_loop().time()
            self._hand_over()

    def _hand_over(self) -> None:
        finishing, utterance = self._finishing, self._snapshot()
        self._begin()
        if self._mode is Mode.AUTO or finishing:
            self._mode, self._finishing = None, False
        self._listener.utterance_finished(utterance)

    def _begin(self) -> None:
        self._generation += 1
        self._barged = False
        self._utterance = Utterance()
        self._endpointer.reset()
        self._vad.reset()
