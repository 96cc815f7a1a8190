"""Rate limits, with the clock in the test's hand."""

from __future__ import annotations

import pytest

from ota.token_bucket import TokenBuckets, source_of


def test_burst_then_rate() -> None:
    buckets = TokenBuckets(rate_per_s=2, burst=3)
    assert [buckets.take("a", now=0) for _ in range(4)] == [True, True, True, False]
    assert buckets.refused == 1
    assert buckets.empty("a", now=0.4)
    assert [buckets.take("a", now=0.5) for _ in range(2)] == [True, False]
    assert [buckets.take("a", now=1000) for _ in range(4)] == [True, True, True, False]


def test_what_is_owed_is_paid_back_by_waiting() -> None:
    buckets = TokenBuckets(rate_per_s=2, burst=3)
    assert [buckets.owe("a", 1, now=0) for _ in range(3)] == [0, 0, 0]
    assert buckets.owe("a", 5, now=0) == 2.5
    assert not buckets.take("a", now=2.5)
    assert buckets.owe("b", 1, now=0) == 0
    assert buckets.owe("a", 1, now=10) == 0
    assert buckets.refused == 1


def test_sources_are_apart_and_bounded() -> None:
    buckets = TokenBuckets(rate_per_s=0, burst=1, max_sources=2)
    assert buckets.take("a", now=0)
    assert buckets.take("b", now=0)
    assert not buckets.take("a", now=0)
    assert buckets.take("c", now=0)  # forgets b, which was quiet longest
    assert not buckets.take("a", now=0)
    assert buckets.take("b", now=0)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
    ],
)
def test_what_counts_as_one_source(address: str, source: str) -> None:
    assert source_of(address) == source
