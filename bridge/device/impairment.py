"""A bad network between the device and the server: loss, duplication, reordering, delay and jitter, reproducible by seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_IN_FLIGHT: Final = 512
"""Datagrams held back at once; beyond it the link loses them, as a full router queue does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """One direction of a bad link. Probabilities are 0..1."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of datagrams that are held back by ``reorder_ms`` and so overtaken by later ones."""
    reorder_ms: float = 90.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Uniform extra delay, 0..jitter_ms, independent for each datagram: it reorders, too, when above the packet interval."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"impairment {name} must lie between 0 and 1")


@dataclass(slots=True)
class LinkStats:
    offered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    overflowed: int = 0


class ImpairedLink:
    """Passes datagrams on to ``deliver``, or not. ``close()`` forgets what is in flight."""

    def __init__(self, impairment: Impairment, deliver: Callable[[bytes], None], *, loop: asyncio.AbstractEventLoop, salt: str) -> None:
        self._impairment = impairment
        self._deliver = deliver
        self._loop = loop
        self._random = random.Random(f"{impairment.seed}/{salt}")
        self._in_flight: dict[int, asyncio.TimerHandle] = {}
        self._count = 0
        self.stats = LinkStats()

    def push(self, datagram: bytes) -> None:
        self.stats.offered += 1
        if self._random.random() < self._impairment.loss:
            self.stats.lost += 1
            return
        self._forward(datagram)
        if self._random.random() < self._impairment.duplicate:
            self.stats.duplicated += 1
            self._forward(datagram)

    def close(self) -> None:
        for timer in self._in_flight.values():
            timer.cancel()
        self._in_flight.clear()

    def _forward(self, datagram: bytes) -> None:
        delay_ms = self._impairment.delay_ms + self._random.uniform(0.0, self._impairment.jitter_ms)
        if self._random.random() < self._impairment.reorder:
            self.stats.reordered += 1
            delay_ms += self._impairment.reorder_ms
        if delay_ms <= 0.0:
            self._deliver(datagram)
            return
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            self.stats.overflowed += 1
            return
        self._count += 1
        number = self._count
        self._in_flight[number] = self._loop.call_later(delay_ms / 1000, self._arrive, number, datagram)

    def _arrive(self, number: int, datagram: bytes) -> None:
        del self._in_flight[number]
        self._deliver(datagram)
