"""Puts packets back in order, without delaying those that are in order, and keeps reception statistics (RFC 3550 §6.4.1, A.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_PAUSE_S = 1.0
"""A longer silence is a pause of the talker (its clock stands still meanwhile), not transit jitter."""
_REMEMBERED_LOSSES = 64


@dataclass(slots=True)
class ReceptionStats:
    """Of one uplink stream. ``lost`` counts what the network did not deliver; a late packet was delivered, but is not used."""

    highest: int = 0
    received: int = 0
    duplicates: int = 0
    reordered: int = 0
    late: int = 0
    concealed: int = 0
    discontinuities: int = 0
    jitter_s: float = 0.0

    @property
    def expected(self) -> int:
        """Packets the sender has sent so far, as far as we know: numbers start at 1."""
        return self.highest

    @property
    def lost(self) -> int:
        """Expected but never arrived."""
        return self.highest - self.received

    @property
    def jitter_ms(self) -> float:
        """Smoothed interarrival jitter."""
        return self.jitter_s * 1000


class JitterBuffer(Generic[T]):
    """A small reorder buffer.

    A packet that is next in order is released at once. Behind a gap up to ``hold_packets`` packets wait, none longer than
    ``hold_s``; then the gap is given up. A gap of up to ``max_conceal`` packets is released as that many losses, a longer
    one as nothing: the jump of the sequence number is all there is to tell.

    Releases are ``(sequence, item)``, ``item`` None for a loss, in strictly rising order.
    """

    def __init__(self, *, frame_s: float, hold_packets: int = 3, hold_s: float = 0.12, max_conceal: int = 5) -> None:
        self._frame_s = frame_s
        self._hold_packets = hold_packets
        self._hold_s = hold_s
        self._max_conceal = max_conceal
        self._next = 1
        self._held: dict[int, tuple[T, float]] = {}  # in the order of arrival
        self._given_up: dict[int, None] = {}  # the last losses, oldest first
        self._last_sequence = 0
        self._last_arrival = 0.0
        self.stats = ReceptionStats()

    @property
    def deadline(self) -> float | None:
        """When :meth:`poll` has to be called at the latest; None when nothing is held."""
        for _, arrival in self._held.values():
            return arrival + self._hold_s
        return None

    def push(self, sequence: int, item: T, now: float) -> list[tuple[int, T | None]]:
        """Takes a packet in (``sequence`` >= 1) and returns what can be released."""
        if sequence == self._next and not self._held:
            self._count(sequence, now)
            self._next = sequence + 1
            return [(sequence, item)]
        if sequence < self._next:
            if sequence in self._given_up:
                del self._given_up[sequence]
                self._count(sequence, now)
                self.stats.late += 1
            else:
                self.stats.duplicates += 1
            return []
        if sequence in self._held:
            self.stats.duplicates += 1
            return []
        self._count(sequence, now)
        self._held[sequence] = (item, now)
        return self._release(now)

    def poll(self, now: float) -> list[tuple[int, T | None]]:
        """What can be released because time has passed."""
        return self._release(now) if self._held else []

    def _release(self, now: float) -> list[tuple[int, T | None]]:
        released: list[tuple[int, T | None]] = []
        while True:
            while self._next in self._held:
                released.append((self._next, self._held.pop(self._next)[0]))
                self._next += 1
            deadline = self.deadline
            if deadline is None or (now < deadline and len(self._held) <= self._hold_packets):
                break
            self._give_up(released)
        return released

    def _give_up(self, released: list[tuple[int, T | None]]) -> None:
        first = min(self._held)
        gap = first - self._next
        if gap <= self._max_conceal:
            released.extend((sequence, None) for sequence in range(self._next, first))
            self.stats.concealed += gap
        else:
            self.stats.discontinuities += 1
        for sequence in range(max(self._next, first - _REMEMBERED_LOSSES), first):
            self._given_up[sequence] = None
        while len(self._given_up) > _REMEMBERED_LOSSES:
            del self._given_up[next(iter(self._given_up))]
        self._next = first

    def _count(self, sequence: int, now: float) -> None:
        stats = self.stats
        stats.received += 1
        elapsed = now - self._last_arrival
        if self._last_sequence and elapsed < _PAUSE_S:
            deviation = elapsed - (sequence - self._last_sequence) * self._frame_s
            stats.jitter_s += (abs(deviation) - stats.jitter_s) / 16
        self._last_sequence = sequence
        self._last_arrival = now
        if sequence > stats.highest:
            stats.highest = sequence
        else:
            stats.reordered += 1
