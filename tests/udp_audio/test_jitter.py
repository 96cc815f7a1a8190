from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udp_audio.jitter import JitterBuffer

FRAME_S = 0.06


def buffer(**options: float) -> JitterBuffer[str]:
    return JitterBuffer(frame_s=FRAME_S, **options)  # type: ignore[arg-type]  # the options of each test


def feed(jitter: JitterBuffer[str], *arrivals: tuple[int, float]) -> list[tuple[int, str | None]]:
    return [release for sequence, now in arrivals for release in jitter.push(sequence, f"p{sequence}", now)]


def test_in_order_packets_are_not_delayed() -> None:
    jitter = buffer()
    for sequence in range(1, 20):
        assert jitter.push(sequence, f"p{sequence}", sequence * FRAME_S) == [(sequence, f"p{sequence}")]
        assert jitter.deadline is None


def test_check_070_reorder_of_three_is_healed() -> None:
    jitter = buffer()
    assert feed(jitter, (1, 0.0), (3, 0.01), (4, 0.02), (5, 0.03)) == [(1, "p1")]
    assert feed(jitter, (2, 0.04)) == [(2, "p2"), (3, "p3"), (4, "p4"), (5, "p5")]
    assert (jitter.stats.reordered, jitter.stats.lost, jitter.stats.concealed) == (1, 0, 0)


def test_fourth_packet_behind_a_gap_gives_it_up() -> None:
    jitter = buffer()
    feed(jitter, (1, 0.0), (3, 0.01), (4, 0.02), (5, 0.03))
    assert feed(jitter, (6, 0.04)) == [(2, None), (3, "p3"), (4, "p4"), (5, "p5"), (6, "p6")]


def test_deadline_gives_a_gap_up() -> None:
    jitter = buffer()
    feed(jitter, (1, 0.0), (4, 0.1))
    assert jitter.deadline == pytest.approx(0.22)
    assert jitter.poll(0.219) == []
    assert jitter.poll(0.22) == [(2, None), (3, None), (4, "p4")]
    assert jitter.deadline is None
    assert (jitter.stats.expected, jitter.stats.received, jitter.stats.lost) == (4, 2, 2)


def test_second_gap_has_its_own_deadline() -> None:
    jitter = buffer()
    feed(jitter, (2, 0.0), (4, 0.06))
    assert jitter.poll(0.12) == [(1, None), (2, "p2")]
    assert jitter.deadline == pytest.approx(0.18)
    assert jitter.poll(0.18) == [(3, None), (4, "p4")]


def test_long_gap_is_a_discontinuity() -> None:
    jitter = buffer()
    feed(jitter, (1, 0.0), (8, 0.1))
    assert jitter.poll(1.0) == [(8, "p8")]
    assert (jitter.stats.discontinuities, jitter.stats.concealed, jitter.stats.lost) == (1, 0, 6)


def test_late_and_duplicate_packets_are_dropped() -> None:
    jitter = buffer()
    feed(jitter, (1, 0.0), (3, 0.0))
    jitter.poll(0.12)
    assert feed(jitter, (2, 0.13), (2, 0.14), (1, 0.15), (3, 0.16)) == []
    assert (jitter.stats.late, jitter.stats.duplicates) == (1, 3)
    assert jitter.stats.lost == 0  # late, yet delivered


def test_duplicate_of_a_held_packet() -> None:
    jitter = buffer()
    assert feed(jitter, (2, 0.0), (2, 0.0)) == []
    assert jitter.stats.duplicates == 1


def test_interarrival_jitter_by_hand() -> None:
    # RFC 3550 §6.4.1: J += (|D| - J) / 16, with D = 16 ms, then -16 ms
    jitter = buffer()
    feed(jitter, (1, 0.0), (2, 0.076), (3, 0.12))
    assert jitter.stats.jitter_ms == pytest.approx(1.0 + (16.0 - 1.0) / 16)


def test_pause_of_the_talker_is_no_jitter() -> None:
    jitter = buffer()
    feed(jitter, (1, 0.0), (2, 0.06), (3, 20.0), (4, 20.06))
    assert jitter.stats.jitter_ms == pytest.approx(0.0)


ARRIVALS = st.lists(st.tuples(st.integers(-6, 9), st.floats(0, 0.1)), max_size=80)


@settings(deadline=None)
@given(ARRIVALS)
def test_against_a_simple_model(steps: list[tuple[int, float]]) -> None:
    jitter = buffer()
    now, newest = 0.0, 0
    pushed: dict[int, None] = {}
    duplicates = 0
    released: list[tuple[int, str | None]] = []
    for distance, pause_s in steps:
        now += pause_s
        if jitter.deadline is not None and jitter.deadline <= now:
            released += jitter.poll(now)
            assert jitter.deadline is None or jitter.deadline > now
        sequence = max(1, newest + distance)
        duplicates += sequence in pushed
        pushed[sequence] = None
        newest = max(newest, sequence)
        released += jitter.push(sequence, f"p{sequence}", now)
    released += jitter.poll(now + 60)

    numbers = [sequence for sequence, _ in released]
    assert all(before < after for before, after in itertools.pairwise(numbers))
    assert all(item in (None, f"p{sequence}") for sequence, item in released)
    stats = jitter.stats
    delivered = [sequence for sequence, item in released if item is not None]
    assert len(delivered) + stats.late == stats.received == len(pushed)
    assert (stats.duplicates, stats.highest, stats.lost) == (duplicates, newest, newest - len(pushed))
    assert stats.concealed == len(released) - len(delivered)
    gaps = [after - before for before, after in itertools.pairwise([0, *numbers])]
    assert sum(gap > 1 for gap in gaps) == stats.discontinuities
    assert all(gap == 1 or gap > 6 for gap in gaps)
    assert jitter.deadline is None


@settings(deadline=None)
@given(st.permutations(range(1, 5)), st.integers(0, 40))
def test_any_order_of_four_neighbours_is_healed(order: list[int], start: int) -> None:
    jitter = buffer()
    feed(jitter, *((sequence, 0.0) for sequence in range(1, start + 1)))
    assert feed(jitter, *((start + place, 0.0) for place in order)) == [(start + n, f"p{start + n}") for n in range(1, 5)]
