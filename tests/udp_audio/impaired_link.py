"""A bad network on a virtual clock: both directions between a device and the server, the same each time for the same seed.

Nothing sleeps: who uses it says what time it is, and asks for what has arrived by then.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstLoss:
    """Gilbert-Elliott: a good state without loss, and spells of ``mean_packets`` datagrams that are all lost but for ``leak``.

    ``loss`` is the long-term share of datagrams lost.
    """

    loss: float
    mean_packets: float = 3.0
    leak: float = 0.0

    @property
    def leave_bad(self) -> float:
        """Probability to return to the good state, a datagram."""
        return 1 / self.mean_packets

    @property
    def bad_share(self) -> float:
        """Long-term share of datagrams in the bad state."""
        return self.loss / (1 - self.leak)

    @property
    def enter_bad(self) -> float:
        """Probability to fall into the bad state; it makes the long-term loss what was asked for."""
        return self.bad_share * self.leave_bad / (1 - self.bad_share) if self.bad_share < 1 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """One direction. Shares are 0..1."""

    loss: float = 0.0
    burst: BurstLoss | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Uniform extra delay, 0 .. ``jitter_ms``, independent for each datagram: it reorders when above the packet interval."""
    reorder: float = 0.0
    """Share of datagrams held back by ``reorder_ms``."""
    reorder_ms: float = 70.0
    duplicate: float = 0.0
    rate_bps: float | None = None
    """A bottleneck: datagrams queue behind each other, IP and UDP headers included."""
    queue_ms: float = 200.0
    """The bottleneck's queue; what would wait longer is dropped."""


CLEAN = Conditions()
_OVERHEAD_BYTES = 28  # IPv4 and UDP headers


@dataclass(slots=True)
class WireStats:
    offered: int = 0
    lost: int = 0
    choked: int = 0
    duplicated: int = 0


@dataclass(slots=True)
class Wire:
    """One direction of the link."""

    conditions: Conditions
    seed: int | str = 0
    stats: WireStats = field(default_factory=WireStats)
    _random: random.Random = field(init=False)
    _flying: list[tuple[float, int, bytes]] = field(default_factory=list)
    _bad: bool = False
    _free_at: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        burst = self.conditions.burst
        self._bad = burst is not None and self._random.random() < burst.bad_share  # from the start as in the long run

    def send(self, datagram: bytes, now: float) -> None:
        """A datagram enters the link."""
        self.stats.offered += 1
        if self._is_lost():
            self.stats.lost += 1
            return
        copies = 2 if self._random.random() < self.conditions.duplicate else 1
        self.stats.duplicated += copies - 1
        for _ in range(copies):
            leaves_at = self._through_bottleneck(len(datagram), now)
            if leaves_at is None:
                self.stats.choked += 1
            else:
                heapq.heappush(self._flying, (leaves_at + self._delay_s(), self.stats.offered, datagram))

    @property
    def due(self) -> float | None:
        """When the next datagram arrives; None when none is on its way."""
        return self._flying[0][0] if self._flying else None

    def arrived(self, now: float) -> Iterator[tuple[float, bytes]]:
        """What has arrived by now, each with its time of arrival, in order of arrival."""
        while self._flying and self._flying[0][0] <= now:
            at, _, datagram = heapq.heappop(self._flying)
            yield at, datagram

    def _is_lost(self) -> bool:
        burst = self.conditions.burst
        if burst is not None:
            self._bad = self._random.random() >= burst.leave_bad if self._bad else self._random.random() < burst.enter_bad
            if self._bad and self._random.random() >= burst.leak:
                return True
        return self._random.random() < self.conditions.loss

    def _through_bottleneck(self, size: int, now: float) -> float | None:
        rate_bps = self.conditions.rate_bps
        if rate_bps is None:
            return now
        starts_at = max(now, self._free_at)
        if starts_at - now > self.conditions.queue_ms / 1000:
            return None
        self._free_at = starts_at + (size + _OVERHEAD_BYTES) * 8 / rate_bps
        return self._free_at

    def _delay_s(self) -> float:
        delay_ms = self.conditions.delay_ms + self._random.uniform(0.0, self.conditions.jitter_ms)
        if self._random.random() < self.conditions.reorder:
            delay_ms += self.conditions.reorder_ms
        return delay_ms / 1000


class ImpairedLink:
    """Both directions; each has its own dice, so that traffic one way does not change what happens the other way."""

    def __init__(self, *, up: Conditions = CLEAN, down: Conditions = CLEAN, seed: int = 0) -> None:
        self.up = Wire(up, f"{seed}/up")
        self.down = Wire(down, f"{seed}/down")

    @property
    def due(self) -> float | None:
        """When something arrives at either end."""
        times = [wire.due for wire in (self.up, self.down) if wire.due is not None]
        return min(times) if times else None
