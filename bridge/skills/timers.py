"""Timers and reminders of one session.

:class:`Schedule` is the pure core: it is given ``now`` (seconds on any clock that only runs forward) and keeps no clock.
:class:`Timers` is its face on the event loop. Timers live and die with their session: :meth:`Timers.close` drops them, nothing is
stored, and a restart of the server forgets them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

TIMER_LIMIT: Final = 20
LONGEST_S: Final = 48 * 3600 + 59 * 60


class TimersFullError(Exception):
    """The session has as many timers as it may have."""


@dataclass(frozen=True, slots=True)
class Timer:
    """``announcement`` is said when it is due; ``name`` is how the user calls it, "" for none; ``reminder`` marks a reminder."""

    id: int
    due_s: float
    length_s: int
    announcement: str
    name: str = ""
    reminder: bool = False

    def remaining_s(self, now_s: float) -> int:
        """Whole seconds until it is due, at least 0."""
        return max(0, round(self.due_s - now_s))


class Schedule:
    """Which timer is due when (P)."""

    def __init__(self, *, limit: int = TIMER_LIMIT) -> None:
        self._limit = limit
        self._timers: dict[int, Timer] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._timers)

    def add(self, now_s: float, length_s: int, *, announcement: str, name: str = "", reminder: bool = False) -> Timer:
        """A new timer. Raises TimersFullError."""
        if len(self._timers) >= self._limit:
            raise TimersFullError
        self._last_id += 1
        length_s = max(1, min(LONGEST_S, length_s))
        timer = Timer(self._last_id, now_s + length_s, length_s, announcement, name, reminder)
        self._timers[timer.id] = timer
        return timer

    def pending(self) -> list[Timer]:
        """All timers, the next due first."""
        return sorted(self._timers.values(), key=lambda timer: (timer.due_s, timer.id))

    def find(self, *, name: str = "", length_s: int | None = None) -> list[Timer]:
        """Those with this name (or words of it) and length, the next due first."""
        wanted = name.casefold()
        return [
            timer
            for timer in self.pending()
            if (
                not wanted
                or wanted == timer.name.casefold()
                or (timer.name and (wanted in timer.name.casefold() or timer.name.casefold() in wanted))
            )
            and (length_s is None or timer.length_s == length_s)
        ]

    def remove(self, timer: Timer) -> None:
        """Forget a timer; one that is gone already is no error."""
        self._timers.pop(timer.id, None)

    def clear(self) -> int:
        """Forget all; says how many there were."""
        count = len(self._timers)
        self._timers.clear()
        return count

    def shift(self, timer: Timer, delta_s: int, now_s: float) -> Timer:
        """The timer, due later or (negative) sooner, but not before ``now_s`` nor after the longest time."""
        due_s = min(max(timer.due_s + delta_s, now_s), now_s + LONGEST_S)
        moved = replace(timer, due_s=due_s)
        self._timers[timer.id] = moved
        return moved

    def next_due_s(self) -> float | None:
        """When :meth:`take_due` has something again."""
        return min((timer.due_s for timer in self._timers.values()), default=None)

    def take_due(self, now_s: float) -> list[Timer]:
        """Remove and return those whose time has come, oldest first."""
        due = [timer for timer in self.pending() if timer.due_s <= now_s]
        for timer in due:
            self.remove(timer)
        return due


class Timers:
    """The timers of one session, on the running event loop.

    ``announce`` is called on the loop with the text of a timer that is due; it must not block or raise (the session queues it).
    """

    def __init__(self, announce: Callable[[str], None], *, limit: int = TIMER_LIMIT) -> None:
        self._announce = announce
        self._schedule = Schedule(limit=limit)
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self, length_s: int, *, announcement: str, name: str = "", reminder: bool = False) -> Timer:
        """A new timer. Raises TimersFullError, also after :meth:`close`."""
        if self._closed:
            raise TimersFullError
        timer = self._schedule.add(self._now_s(), length_s, announcement=announcement, name=name, reminder=reminder)
        self._arm()
        return timer

    def pending(self) -> list[Timer]:
        """All timers, the next due first."""
        return self._schedule.pending()

    def find(self, *, name: str = "", length_s: int | None = None) -> list[Timer]:
        """Those with this name and length, the next due first."""
        return self._schedule.find(name=name, length_s=length_s)

    def remaining_s(self, timer: Timer) -> int:
        """Whole seconds until it is due."""
        return timer.remaining_s(self._now_s())

    def cancel(self, timer: Timer) -> None:
        """Forget a timer."""
        self._schedule.remove(timer)
        self._arm()

    def cancel_all(self) -> int:
        """Forget all; says how many there were."""
        count = self._schedule.clear()
        self._arm()
        return count

    def shift(self, timer: Timer, delta_s: int) -> Timer:
        """Make a timer due later or sooner."""
        moved = self._schedule.shift(timer, delta_s, self._now_s())
        self._arm()
        return moved

    def close(self) -> None:
        """The session is over: all timers are dropped and nothing is announced any more. Idempotent."""
        self._closed = True
        self.cancel_all()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due_s = self._schedule.next_due_s()
        if due_s is not None:
            self._alarm = asyncio.get_running_loop().call_at(due_s, self._ring)

    def _ring(self) -> None:
        # The loop may call a tick of its clock early: what is due at the armed moment is due now.
        due_s = self._schedule.next_due_s()
        now_s = self._now_s()
        due = self._schedule.take_due(now_s if due_s is None or due_s - now_s > 0.05 else max(now_s, due_s))
        self._arm()
        for timer in due:
            self._announce(timer.announcement)
