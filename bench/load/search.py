"""How many are still carried: up in large steps, then halving what lies between the last that was and the first that was not."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

GROWTH = 1.5
PRECISION = 0.06
"""Runs differ by more than this; to halve further would measure the weather."""


async def largest(carried: Callable[[int], Awaitable[bool]], *, first: int, most: int) -> tuple[int, int | None]:
    """The largest number found that was carried (0: none), and the smallest that was not (None: even ``most`` was).

    ``carried`` is asked in turn, never about the same number twice, and should be monotonic: true up to some number, false beyond.
    """
    good, bad, number = 0, None, min(first, most)
    while bad is None or bad - good > max(1, PRECISION * bad):
        if await carried(number):
            good = number
        else:
            bad = number
        if bad is None and good == most:
            break
        number = min(most, math.ceil(good * GROWTH)) if bad is None else (good + bad) // 2
    return good, bad
