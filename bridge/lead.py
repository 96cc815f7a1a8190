"""How many frames to send ahead of playback: enough for the network between, no more than the firmware's queue takes. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MAX_GROWN_FRAMES = 10
"""Jitter lengthens the lead up to here; what is set by hand may be longer."""

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_QUEUES = (((1, 6, 6), 40), ((1, 6, 2), 10), ((1, 6, 0), 5))
"""First version with a decode queue of so many packets, whatever their duration; what is full drops the newest."""
_QUEUE_SHARE = 0.6
"""Of a short queue: one packet is being decoded while others arrive, and their clock is not ours."""
_CALM_MS = 10.0
"""Interarrival jitter that the lead as it is covers easily: Wi-Fi at rest."""
_JITTER_FACTOR = 3.0
"""The jitter of RFC 3550 is a mean deviation: about one packet in twenty is later than three times as much."""


@dataclass(frozen=True, slots=True)
class LeadPolicy:
    """Decides for one device. ``lead_frames`` is what the settings ask for; ``firmware`` its version, empty when not known."""

    lead_frames: int
    frame_ms: int
    firmware: str = ""

    @property
    def queue_packets(self) -> int | None:
        """The device's decode queue; None when its firmware is not known."""
        found = _VERSION.match(self.firmware)
        if found is None:
            return None
        version = tuple(int(part) for part in found.groups())
        # before 1.6.0 the queue had no bound
        return next((packets for first, packets in _QUEUES if version >= first), _QUEUES[0][1])

    def frames(self, *, jitter_ms: float) -> int:
        """The lead for the next answer, at least 1.

        ``jitter_ms``: smoothed interarrival jitter of the uplink, the only thing that a device tells about its network. Above
        10 ms the lead grows by three times the jitter, up to 10 frames, where the queue of the firmware is known to take it.
        A queue of 5 gets 3 frames at most, one of 10 gets 6, whatever is set.
        """
        queue = self.queue_packets
        if queue is None:
            return self.lead_frames
        grown = self.lead_frames
        if jitter_ms > _CALM_MS:
            extra = math.ceil(min(_JITTER_FACTOR * jitter_ms / self.frame_ms, MAX_GROWN_FRAMES))
            grown = max(grown, min(grown + extra, MAX_GROWN_FRAMES))
        return max(1, min(grown, int(queue * _QUEUE_SHARE)))
