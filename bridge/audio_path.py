"""Whether a device's audio arrives (pure): a UDP path that is closed looks like a device that never says anything.

A listening microphone always sends, silence included (the first packet 120-200 ms after `listen start`). So a device that
listens and of which nothing plausible comes has a wrong address or port, a firewall, or a NAT in its way.
"""

from __future__ import annotations

from enum import StrEnum

PATIENCE_S = 3.0


class PathState(StrEnum):
    UNKNOWN = "unknown"
    """Nothing has come, nor was it to be expected."""
    OPEN = "open"
    CLOSED = "closed"
    """The device listened for three seconds and nothing came since."""


class AudioPath:
    """One session's uplink. Times are in seconds of one clock; ``last_received_at`` is that of the last plausible packet."""

    __slots__ = ("_closed_at", "_listening_since", "_patience_s", "_reported")

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._listening_since: float | None = None
        self._closed_at: float | None = None
        self._reported = False

    def listens(self, now: float) -> float:
        """The microphone goes on. Returns when to :meth:`look`."""
        self._listening_since = now
        return now + self._patience_s

    def rests(self) -> None:
        """The microphone is off, or may be: silence says nothing now."""
        self._listening_since = None

    def look(self, now: float, last_received_at: float | None) -> bool:
        """True when the path is found closed for the first time in this session: to be told once."""
        since = self._listening_since
        if since is None or now < since + self._patience_s or (last_received_at is not None and last_received_at >= since):
            return False
        self._closed_at = now
        first, self._reported = not self._reported, True
        return first

    def state(self, last_received_at: float | None) -> PathState:
        """A packet after all opens it again."""
        if last_received_at is not None and (self._closed_at is None or last_received_at > self._closed_at):
            return PathState.OPEN
        return PathState.UNKNOWN if self._closed_at is None else PathState.CLOSED
