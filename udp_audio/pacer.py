"""When the next downlink frame may be sent, so that the device's small queue neither runs dry nor overflows."""

from __future__ import annotations

MAX_BURST_FRAMES = 5
_GAINING = 0.75
"""Frame durations from one frame to the next while a long lead is built."""


class Pacer:
    """The playback clock of one answer.

    The first ``lead_frames`` go out at once, then one a frame duration on an absolute clock, so that lateness of single
    frames does not add up. Of a lead of more than 5 frames, only 5 go out at once: small queues and slow modems take no more;
    the rest is gained a quarter of a frame at a time. The device is modelled as playing from the first frame on without a
    pause; it never holds more than ``lead_frames`` by that model. When a stall has run the model dry by more than half a frame
    (the device's own output buffer is longer), that is an underrun: the clock starts afresh, and a new lead is built.

    Times are those of one monotonic clock, in seconds.
    """

    __slots__ = ("_burst_frames", "_frame_s", "_lead_frames", "_sent", "_start", "underruns")

    def __init__(self, *, frame_s: float, lead_frames: int) -> None:
        """``frame_s`` > 0, ``lead_frames`` >= 1, else ValueError."""
        if frame_s <= 0 or lead_frames < 1:
            raise ValueError(f"cannot pace frames of {frame_s} s with a lead of {lead_frames}")
        self._frame_s = frame_s
        self._lead_frames = lead_frames
        self._burst_frames = min(lead_frames, MAX_BURST_FRAMES)
        self._start = 0.0
        self._sent = 0  # since the clock was started
        self.underruns = 0

    @property
    def started(self) -> bool:
        """Whether a frame was sent."""
        return self._sent > 0

    @property
    def playback_end(self) -> float:
        """When the last frame sent will have been played; 0.0 before the first."""
        return self._start + self._sent * self._frame_s

    def ahead_s(self, now: float) -> float:
        """Audio that the device still has to play, by the model."""
        return max(0.0, self.playback_end - now) if self.started else 0.0

    def next_send(self, now: float) -> float:
        """The absolute time at which the next frame may be sent; at or before ``now`` means at once."""
        if self._sent < self._burst_frames or self._ran_dry(now):
            return now
        steady = (self._sent - self._lead_frames + 1) * self._frame_s
        gaining = (self._sent - self._burst_frames + 1) * self._frame_s * _GAINING
        return self._start + max(steady, gaining if self._burst_frames < self._lead_frames else steady)

    def sent(self, now: float) -> None:
        """Tells that a frame was sent at ``now``."""
        if not self.started:
            self._start = now
        elif self._ran_dry(now):
            self.underruns += 1
            self._start = now
            self._sent = 0
        self._sent += 1

    def _ran_dry(self, now: float) -> bool:
        return now > self.playback_end + self._frame_s / 2
