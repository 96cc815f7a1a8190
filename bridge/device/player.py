"""The speaker: a decode queue with the firmware's length and drop rules, played on a real-time clock.

Model: decode queue (``queue_packets``) -> 2 decoded frames -> ~60 ms in the output DMA -> ear. A full queue drops the *new*
packet. A lost packet is a skip, not a gap. A gap is heard when the queue stays dry for longer than the DMA lasts.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bridge.device.codec import SPEAKER_RATE_HZ, Decoder, OpusError, Pcm, packet_ms
from bridge.device.hello import AudioFormat

DECODED_FRAMES: Final = 2
DMA_S: Final = 0.06
_TRACE_LENGTH: Final = 4096
_MAX_GAP_S: Final = 2.0
"""Longer silence is not written into the recording."""


@dataclass(slots=True)
class PlayerStats:
    """Counters since the player was made.

    ``dropped`` is keyed by reason: state, queue_full, cleared, truncated, undecodable, too_long, format.
    """

    received: int = 0
    queued: int = 0
    played: int = 0
    played_s: float = 0.0
    max_depth: int = 0
    underruns: int = 0
    underrun_s: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)


class Player:
    """Owned by one device; every method is to be called on the loop. ``close()`` stops the clock."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        queue_packets: int,
        decode: bool = True,
        max_heard_s: float = 120.0,
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._capacity = queue_packets
        self._decoder = Decoder() if decode else None
        self._max_heard = int(max_heard_s * SPEAKER_RATE_HZ)
        self._on_drained = on_drained
        self._format = AudioFormat()
        self._queue: deque[tuple[bytes, int, float]] = deque()
        self._decoded: deque[tuple[bytes, int, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._in_utterance = False
        self._heard: list[Pcm] = []
        self._heard_samples = 0
        self.stats = PlayerStats()
        self.first_played_s: float | None = None
        """Loop time at which the current utterance became audible."""
        self.arrivals: deque[float] = deque(maxlen=_TRACE_LENGTH)
        self.depths: deque[tuple[float, int]] = deque(maxlen=_TRACE_LENGTH)
        """(loop time, packets waiting) after each arrival and each frame."""
        self.played_timestamps: deque[int] = deque(maxlen=3)
        """Header timestamps of the frames last played, for the echo of server-AEC builds."""

    @property
    def depth(self) -> int:
        """Packets waiting, the decoded ones included, the playing one not."""
        return len(self._queue) + len(self._decoded)

    @property
    def playback_end_s(self) -> float:
        """Loop time at which what plays now ends, or what played last has ended."""
        return self._due_s

    @property
    def drained(self) -> bool:
        """True when nothing plays and nothing waits."""
        return self._timer is None

    def set_format(self, audio: AudioFormat) -> None:
        self._format = audio

    def receive(self, opus: bytes, *, timestamp: int, accept: bool) -> None:
        """One packet from the network. ``accept`` is false while the device's state does not allow audio."""
        now = self._loop.time()
        self.stats.received += 1
        self.arrivals.append(now)
        reason, duration_s = self._judge(opus, accept=accept)
        if not reason:
            self._advance(now)
            if len(self._queue) >= self._capacity:
                reason = "queue_full"
        if reason:
            self.stats.dropped[reason] += 1
            return
        self.stats.queued += 1
        self._queue.append((opus, timestamp, duration_s))
        self._refill()
        self.stats.max_depth = max(self.stats.max_depth, self.depth)
        if self._timer is None:
            self._start(now)
        self._trace(now)

    def begin_utterance(self) -> None:
        """``tts start`` was heard: from here a dry queue is an underrun, if more audio follows. The firmware resets its decoder."""
        if self._decoder is not None:
            self._decoder = Decoder()
        self._in_utterance = True
        self.first_played_s = None

    def end_utterance(self) -> None:
        """``tts stop`` was heard."""
        self._in_utterance = False

    def clear(self, reason: str = "cleared") -> None:
        """Throw away what waits; the frame in the DMA still sounds. ``on_drained`` is not called."""
        self.stats.dropped[reason] += self.depth
        self._queue.clear()
        self._decoded.clear()
        self._stop()

    def take_heard(self) -> Pcm:
        """24 kHz samples played since the last call, audible gaps as silence, cut at ``max_heard_s``."""
        heard = np.concatenate(self._heard) if self._heard else np.zeros(0, dtype=np.int16)
        self._heard, self._heard_samples = [], 0
        return heard

    def close(self) -> None:
        self._stop()

    def _judge(self, opus: bytes, *, accept: bool) -> tuple[str, float]:
        if not accept:
            return "state", 0.0
        if not self._format.playable:
            return "format", 0.0
        duration_ms = packet_ms(opus)
        if duration_ms is None:
            return "undecodable", 0.0
        if duration_ms > self._format.frame_ms:
            return "too_long", 0.0
        return "", duration_ms / 1000

    def _start(self, now: float) -> None:
        gap_s = now - self._due_s
        if self._in_utterance and self.first_played_s is not None:
            if gap_s <= DMA_S:
                now = self._due_s  # the DMA bridged it: the clock goes on
            else:
                self.stats.underruns += 1
                self.stats.underrun_s += gap_s - DMA_S
                self._keep(np.zeros(int(min(gap_s, _MAX_GAP_S) * SPEAKER_RATE_HZ), dtype=np.int16))
        self._due_s = now
        self._play()

    def _advance(self, now: float) -> None:
        """Play what has become due, even if a busy loop called the timer late."""
        while self._timer is not None and self._due_s <= now:
            self._play()

    def _on_timer(self) -> None:
        now = self._loop.time()
        self._advance(max(now, self._due_s))
        self._trace(now)

    def _play(self) -> None:
        """Start the next playable frame, or fall dry."""
        self._stop()
        while self._decoded:
            opus, timestamp, duration_s = self._decoded.popleft()
            self._refill()
            if self._sounds(opus):
                break
            self.stats.dropped["undecodable"] += 1
        else:
            self._on_drained()
            return
        if self.first_played_s is None:
            self.first_played_s = self._due_s
        self._due_s += duration_s
        self._timer = self._loop.call_at(self._due_s, self._on_timer)
        self.stats.played += 1
        self.stats.played_s += duration_s
        if timestamp:
            self.played_timestamps.append(timestamp)

    def _sounds(self, opus: bytes) -> bool:
        if self._decoder is None:
            return True
        try:
            self._keep(self._decoder.decode(opus))
        except OpusError:
            return False
        return True

    def _refill(self) -> None:
        while self._queue and len(self._decoded) < DECODED_FRAMES:
            self._decoded.append(self._queue.popleft())

    def _keep(self, samples: Pcm) -> None:
        if self._decoder is not None and self._heard_samples < self._max_heard:
            self._heard.append(samples)
            self._heard_samples += len(samples)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _trace(self, now: float) -> None:
        self.depths.append((now, self.depth))
