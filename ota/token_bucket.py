"""How often a source may ask: token buckets in a bounded table.

Pure. ``now`` is in seconds of any clock that does not run backwards.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class TokenBuckets:
    """Each source has ``burst`` tokens, refilled at ``rate_per_s``.

    ``max_sources`` are remembered; beyond, the one that was quiet longest is forgotten, and starts anew with a full bucket.
    """

    def __init__(self, *, rate_per_s: float, burst: float, max_sources: int = 10_000) -> None:
        self.refused = 0
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_sources = max_sources
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, source: str, *, now: float) -> bool:
        """Use a token; False (and counted) when there is none."""
        bucket = self._bucket(source, now)
        if bucket.tokens < 1:
            self.refused += 1
            return False
        bucket.tokens -= 1
        return True

    def owe(self, source: str, cost: float, *, now: float) -> float:
        """Use ``cost`` tokens whether they are there or not; seconds until what is owed is paid back, 0 when nothing is."""
        bucket = self._bucket(source, now)
        bucket.tokens -= cost
        return max(0.0, -bucket.tokens / self._rate_per_s)

    def empty(self, source: str, *, now: float) -> bool:
        """True when there is no token, without using one."""
        return self._bucket(source, now).tokens < 1

    def _bucket(self, source: str, now: float) -> _Bucket:
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = self._buckets[source] = _Bucket(self._burst, now)
            if len(self._buckets) > self._max_sources:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(source)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled_at) * self._rate_per_s)
        bucket.filled_at = now
        return bucket


def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 network of an IPv6 one, since whoever has one has them all."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
