"""A bound on what strangers can make us log (pure: the caller brings the time)."""

from __future__ import annotations


class LogBudget:
    """At most so many lines a minute, so that nobody can fill the log from outside."""

    __slots__ = ("_left", "_per_minute", "_refill_at", "_suppressed")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = self._left = per_minute
        self._refill_at = 0.0
        self._suppressed = 0

    def allows(self, now: float) -> bool:
        if now >= self._refill_at:
            self._left, self._refill_at = self._per_minute, now + 60
        if self._left == 0:
            self._suppressed += 1
            return False
        self._left -= 1
        return True

    def take_suppressed(self) -> int:
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
