"""Metrics of several processes as one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bridge.workers.exposition import exposition, families_of
from bridge.workers.messages import Family
from bridge.workers.totals import Totals, counter, gauge, join


def process(turns: int, sessions: float, lag_s: float) -> list[Family]:
    registry = CollectorRegistry()
    Counter("turns", "Turns", ["outcome"], registry=registry).labels("answered").inc(turns)
    Gauge("sessions", "Sessions", registry=registry).set(sessions)
    Histogram("lag", "Lag", buckets=(0.1, 1), registry=registry).observe(lag_s)
    return families_of(registry)


def lines(families: list[Family]) -> list[str]:
    return [line for line in exposition(families).decode().splitlines() if not line.startswith("#") and "_created" not in line]


def test_counters_are_summed_and_gauges_stand_beside_each_other() -> None:
    assert lines(join({0: process(3, 1, 0.05), 1: process(4, 2, 0.5)}, counted=())) == [
        'lag_bucket{le="0.1"} 1.0',
        'lag_bucket{le="1.0"} 2.0',
        'lag_bucket{le="+Inf"} 2.0',
        "lag_count 2.0",
        "lag_sum 0.55",
        'sessions{worker="0"} 1.0',
        'sessions{worker="1"} 2.0',
        'turns_total{outcome="answered"} 7.0',
    ]


def test_what_a_dead_worker_has_counted_stays() -> None:
    totals = Totals()
    totals.bury(process(3, 1, 0.05))
    totals.bury(process(2, 1, 0.05))
    joined = lines(totals.with_living({1: process(4, 2, 0.5)}, silent=[process(10, 5, 0.05)]))
    assert 'turns_total{outcome="answered"} 19.0' in joined
    assert [line for line in joined if line.startswith("sessions")] == ['sessions{worker="1"} 2.0']
    assert "lag_count 4.0" in joined


def test_a_counter_was_born_once() -> None:
    first, second = process(1, 0, 0), process(1, 0, 0)
    born = [sample.value for family in first for sample in family.samples if sample.name == "turns_created"]
    joined = [
        sample.value for family in join({0: first, 1: second}, counted=()) for sample in family.samples if sample.name == "turns_created"
    ]
    assert joined == born


def test_what_the_supervisor_adds() -> None:
    assert lines([gauge("up", "Up", {1: 0.0, 0: 1.0}), counter("restarts", "Restarts", {0: 2})]) == [
        'up{worker="0"} 1.0',
        'up{worker="1"} 0.0',
        'restarts_total{worker="0"} 2.0',
    ]
