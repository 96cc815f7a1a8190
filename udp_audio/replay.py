"""Which sequence numbers are new. Checking and committing are apart: a packet is committed only once its content is believed."""

from __future__ import annotations

from enum import Enum, auto


class Verdict(Enum):
    """What a sequence number means, given what was committed before."""

    FRESH = auto()
    """Not seen, inside the window or at most one window ahead."""
    LEAP = auto()
    """Further ahead, but less than ``max_forward``: believable after an outage, worth a second look."""
    FAR = auto()
    """``max_forward`` or more ahead: an honest stream does not do this without a long silence."""
    DUPLICATE = auto()
    """Committed before."""
    OLD = auto()
    """Behind the window; whether it was seen is not known any more."""


class ReplayWindow:
    """A bitmap over the last ``size`` sequence numbers, starting before 1 (the first of every session)."""

    __slots__ = ("_bitmap", "_mask", "_max_forward", "_size", "highest")

    def __init__(self, *, size: int = 64, max_forward: int = 1000) -> None:
        """``size``: a power of two, at least 64, at most ``max_forward``."""
        if size < 64 or size & (size - 1) or size > max_forward:
            raise ValueError(f"a replay window of {size} packets (forward bound {max_forward}) is not possible")
        self._size = size
        self._mask = (1 << size) - 1
        self._max_forward = max_forward
        self._bitmap = 1  # bit n: highest - n was committed; number 0 is never sent
        self.highest = 0

    def check(self, sequence: int) -> Verdict:
        """Judges a number (0 … 2**32-1) and changes nothing."""
        ahead = sequence - self.highest
        if ahead > 0:
            if ahead <= self._size:
                return Verdict.FRESH
            return Verdict.LEAP if ahead < self._max_forward else Verdict.FAR
        if -ahead >= self._size:
            return Verdict.OLD
        return Verdict.DUPLICATE if self._bitmap >> -ahead & 1 else Verdict.FRESH

    def commit(self, sequence: int) -> None:
        """Marks a number as seen; numbers behind the window are ignored."""
        ahead = sequence - self.highest
        if ahead > 0:
            # a shift by an unbounded distance would build an integer of that many bits
            self._bitmap = 1 if ahead >= self._size else (self._bitmap << ahead | 1) & self._mask
            self.highest = sequence
        elif -ahead < self._size:
            self._bitmap |= 1 << -ahead
