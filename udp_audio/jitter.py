"""Puts packets back in order, without delaying those that are in order, and keeps reception statistics (RFC 3550 §6.4.1, A.3, A.8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_PAUSE_S = 1.0
"""A longer silence is a pause of the talker (its clock stands still meanwhile), not transit jitter."""
_REMEMBERED_LOSSES = 64
_REPORT_S = 5.0
"""The interval of the loss fraction; RFC 3550 §6.2 recommends no less between reports."""

_MIN_HOLD_S = 0.02
_MAX_HOLD_S = 0.24
_MIN_HELD_PACKETS = 3
_JITTER_FACTOR = 3.0
"""The interarrival jitter is a mean deviation: about one packet in twenty deviates by more than three times as much."""
_LATENESS_MARGIN = 1.25
_LATENESS_DECAY = 1 - 1 / 128
"""A packet: half of a lateness is forgotten after 90 packets, 5 s of speech at 60 ms."""


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
    loss_fraction: float = 0.0
    """0..1, of the last complete interval of 5 s of audio."""
    max_hold_s: float = 0.0
    """The longest time that the buffer has been willing to wait for a straggler."""

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


class HoldTime:
    """How long a gap is worth waiting for: what this link has needed of late, and no more.

    It covers three times the interarrival jitter and the worst lateness seen lately (how long a packet came after the first
    one that overtook it, also if that was too late) with a quarter on top. Bounds: half a frame but at least 20 ms, and 240 ms,
    four packets of 60 ms. Before anything is known it is two frames; a link that keeps order brings it down within seconds.
    """

    __slots__ = ("_floor_s", "_lateness_s", "hold_s")

    def __init__(self, *, frame_s: float) -> None:
        self._floor_s = max(_MIN_HOLD_S, frame_s / 2)
        self._lateness_s = 2 * frame_s / _LATENESS_MARGIN
        self.hold_s = min(2 * frame_s, _MAX_HOLD_S)

    def packet(self, *, jitter_s: float, lateness_s: float = 0.0) -> None:
        """A packet has come, ``lateness_s`` after one that should have followed it."""
        if lateness_s > _MAX_HOLD_S:
            lateness_s = 0.0  # no wait that is worth while would have helped
        self._lateness_s = max(lateness_s, self._lateness_s * _LATENESS_DECAY)
        needed_s = max(_JITTER_FACTOR * jitter_s, _LATENESS_MARGIN * self._lateness_s)
        self.hold_s = min(max(needed_s, self._floor_s), _MAX_HOLD_S)


class JitterBuffer(Generic[T]):
    """A small reorder buffer.

    A packet that is next in order is released at once. Behind a gap packets wait, none longer than :class:`HoldTime` says at
    its arrival (20 .. 240 ms), and no more of them than arrive in that time (at least 3, for bursts); then the gap is given up.
    A gap of up to ``max_conceal`` packets is released as that many losses, directly before the packet behind it; a longer one
    as nothing: the jump of the sequence number is all there is to tell.

    Releases are ``(sequence, item)``, ``item`` None for a loss, in strictly rising order.
    """

    def __init__(self, *, frame_s: float, max_conceal: int = 5) -> None:
        self._frame_s = frame_s
        self._max_conceal = max_conceal
        self._next = 1
        self._hold = HoldTime(frame_s=frame_s)
        self._held: dict[int, tuple[T, float, float]] = {}  # item, arrival, deadline; in the order of arrival
        self._given_up: dict[int, float] = {}  # the last losses, oldest first: when the first packet behind them came
        self._last_sequence = 0
        self._last_arrival = 0.0
        self._behind_s = 0.0  # against the fastest packet since the last pause
        self._reported = (0, 0)
        self.stats = ReceptionStats()

    @property
    def hold_s(self) -> float:
        """How long the next gap would be waited for."""
        return self._hold.hold_s

    @property
    def deadline(self) -> float | None:
        """When :meth:`poll` has to be called at the latest; None when nothing is held."""
        for _, _, deadline in self._held.values():
            return deadline
        return None

    def push(self, sequence: int, item: T, now: float) -> list[tuple[int, T | None]]:
        """Takes a packet in (``sequence`` >= 1) and returns what can be released."""
        if sequence == self._next and not self._held:
            self._count(sequence, now)
            self._next = sequence + 1
            return [(sequence, item)]
        if sequence < self._next:
            overtaken_at = self._given_up.pop(sequence, None)
            if overtaken_at is None:
                self.stats.duplicates += 1
            else:
                self._count(sequence, now, lateness_s=now - overtaken_at)
                self.stats.late += 1
            return []
        if sequence in self._held:
            self.stats.duplicates += 1
            return []
        self._count(sequence, now, lateness_s=now - self._overtaken_at(sequence, now))
        self._held[sequence] = (item, now, now + self._hold.hold_s)
        return self._release(now)

    def poll(self, now: float) -> list[tuple[int, T | None]]:
        """What can be released because time has passed."""
        return self._release(now) if self._held else []

    def _overtaken_at(self, sequence: int, now: float) -> float:
        """When the first packet came that should have followed this one; ``now`` if none has."""
        return next((arrival for held, (_, arrival, _) in self._held.items() if held > sequence), now)

    def _release(self, now: float) -> list[tuple[int, T | None]]:
        released: list[tuple[int, T | None]] = []
        room = max(_MIN_HELD_PACKETS, math.ceil(self._hold.hold_s / self._frame_s))
        while True:
            while self._next in self._held:
                released.append((self._next, self._held.pop(self._next)[0]))
                self._next += 1
            deadline = self.deadline
            if deadline is None or (now < deadline and len(self._held) <= room):
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
        overtaken_at = min(arrival for _, arrival, _ in self._held.values())
        for sequence in range(max(self._next, first - _REMEMBERED_LOSSES), first):
            self._given_up[sequence] = overtaken_at
        while len(self._given_up) > _REMEMBERED_LOSSES:
            del self._given_up[next(iter(self._given_up))]
        self._next = first

    def _count(self, sequence: int, now: float, *, lateness_s: float = 0.0) -> None:
        stats = self.stats
        stats.received += 1
        elapsed = now - self._last_arrival
        if self._last_sequence and elapsed < _PAUSE_S:
            deviation = elapsed - (sequence - self._last_sequence) * self._frame_s
            # Early beyond the delay that was seen before is a sender that sends stored audio at once, not a network.
            counted = max(deviation, min(-deviation, self._behind_s))
            stats.jitter_s += (counted - stats.jitter_s) / 16
            self._behind_s = max(0.0, self._behind_s + deviation)
        else:
            self._behind_s = 0.0
        self._last_sequence = sequence
        self._last_arrival = now
        if sequence > stats.highest:
            stats.highest = sequence
        else:
            stats.reordered += 1
        self._hold.packet(jitter_s=stats.jitter_s, lateness_s=lateness_s)
        stats.max_hold_s = max(stats.max_hold_s, self._hold.hold_s)
        self._report()

    def _report(self) -> None:
        """The loss fraction of each interval of audio that is over (RFC 3550 A.3); a late packet makes up for a lost one."""
        stats = self.stats
        expected_before, received_before = self._reported
        expected = stats.expected - expected_before
        if expected * self._frame_s >= _REPORT_S:
            stats.loss_fraction = max(0, expected - (stats.received - received_before)) / expected
            self._reported = (stats.expected, stats.received)
