"""How evenly the packets of one answer came (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

GAP_S = 0.1
"""A longer wait between two packets of an answer is one that a device with a short queue may hear."""


@dataclass(frozen=True, slots=True)
class Pacing:
    """One answer. ``errors_s``: of each packet, how much later than the schedule it came, the earliest packet being right."""

    errors_s: tuple[float, ...]
    lead_frames: int
    gaps: int
    lost: int


def pacing(packets: Sequence[tuple[float, int]], *, frame_s: float) -> Pacing:
    """``packets``: time of arrival and sequence number, as they came.

    The schedule: the lead at once (what comes within half a frame of the first packet), then one packet a frame, on an absolute
    clock. A lost packet shifts nothing, since the sequence number says when each was due. Packet delay variation against the
    fastest packet: RFC 5481 §3.2.
    """
    if not packets:
        return Pacing((), 0, 0, 0)
    begin, first = packets[0]
    lead = sum(at < begin + frame_s / 2 for at, _ in packets)
    lateness = [at - begin - max(0, sequence - first - lead + 1) * frame_s for at, sequence in packets]
    fastest = min(lateness)
    # what is lost leaves a hole that is not the server's
    gaps = sum(
        at - before > GAP_S + (sequence - previous - 1) * frame_s for (before, previous), (at, sequence) in itertools.pairwise(packets)
    )
    span = max(sequence for _, sequence in packets) - min(sequence for _, sequence in packets) + 1
    return Pacing(tuple(late - fastest for late in lateness), lead, gaps, span - len(packets))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share (0..1) of all do not exceed; 0.0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
