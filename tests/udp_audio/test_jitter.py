from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udp_audio.jitter import JitterBuffer

FRAME_S = 0.06


def buffer(frame_s: float = FRAME_S) -> JitterBuffer[str]:
    return JitterBuffer(frame_s=frame_s)


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
    assert jitter.deadline == pytest.approx(0.22, abs=0.003)  # two frames, less what two packets in order have taken off
    assert jitter.poll(0.216) == []
    assert jitter.poll(0.22) == [(2, None), (3, None), (4, "p4")]
    assert jitter.deadline is None
    assert (jitter.stats.expected, jitter.stats.received, jitter.stats.lost) == (4, 2, 2)


def test_second_gap_has_its_own_deadline() -> None:
    jitter = buffer()
    feed(jitter, (2, 0.0), (4, 0.06))
    assert jitter.poll(0.12) == [(1, None), (2, "p2")]
    assert jitter.deadline == pytest.approx(0.18, abs=0.003)
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


def test_stored_audio_in_one_burst_is_no_jitter() -> None:
    jitter = buffer()
    for sequence in range(1, 34):  # the wake word, two seconds of it
        jitter.push(sequence, "", 5.0)
    assert jitter.stats.jitter_ms == 0.0
    in_order(jitter, 100, 5)
    assert jitter.stats.jitter_ms < 1.0


def test_a_delay_and_what_catches_up_with_it_are_jitter() -> None:
    # 100 ms late, then the two that had piled up behind it
    jitter = buffer()
    feed(jitter, (1, 0.0), (2, 0.16), (3, 0.16), (4, 0.18))
    expected = 0.0
    for deviation in (100.0, 60.0, 40.0):
        expected += (deviation - expected) / 16
    assert jitter.stats.jitter_ms == pytest.approx(expected)


def test_pause_of_the_talker_is_no_jitter() -> None:
    jitter = buffer()
    feed(jitter, (1, 0.0), (2, 0.06), (3, 20.0), (4, 20.06))
    assert jitter.stats.jitter_ms == pytest.approx(0.0)


def in_order(jitter: JitterBuffer[str], first: int, count: int, *, frame_s: float = FRAME_S) -> float:
    """Packets right on time; the time after the last one."""
    for sequence in range(first, first + count):
        jitter.push(sequence, "", sequence * frame_s)
    return (first + count) * frame_s


@pytest.mark.parametrize(("frame_s", "floor_s"), [(0.06, 0.03), (0.04, 0.02), (0.02, 0.02)])
def test_a_clean_link_comes_down_to_the_floor(frame_s: float, floor_s: float) -> None:
    jitter = buffer(frame_s)
    assert jitter.hold_s == pytest.approx(2 * frame_s)
    in_order(jitter, 1, 300, frame_s=frame_s)
    assert jitter.hold_s == floor_s


def test_a_reordering_link_is_waited_for_and_forgotten() -> None:
    jitter = buffer()
    now = in_order(jitter, 1, 300)
    assert feed(jitter, (302, now + 0.06), (303, now + 0.12), (301, now + 0.121)) == [(301, None), (302, "p302"), (303, "p303")]
    assert jitter.stats.late == 1  # the first straggler of a clean link is lost
    assert jitter.hold_s == pytest.approx(1.25 * 0.061)
    # the next one is waited for
    assert feed(jitter, (305, now + 0.2)) == []
    assert jitter.poll(now + 0.25) == []
    assert feed(jitter, (304, now + 0.255)) == [(304, "p304"), (305, "p305")]
    in_order(jitter, 306, 300)
    assert jitter.hold_s < 0.04


def test_jitter_alone_lengthens_the_wait_up_to_the_bound() -> None:
    jitter = buffer()
    for sequence in range(1, 200):
        jitter.push(sequence, "", sequence * FRAME_S + (0.04 if sequence % 2 else 0.0))
    assert jitter.hold_s == pytest.approx(3 * 0.04, rel=0.02)
    for sequence in range(200, 400):
        jitter.push(sequence, "", sequence * FRAME_S + (0.2 if sequence % 2 else 0.0))
    assert jitter.hold_s == 0.24
    assert jitter.stats.max_hold_s == 0.24


def test_a_straggler_beyond_any_wait_changes_nothing() -> None:
    jitter = buffer()
    now = in_order(jitter, 1, 300)
    feed(jitter, (302, now + 0.06))
    jitter.poll(now + 0.2)
    feed(jitter, (301, now + 0.36))
    assert jitter.stats.late == 1
    assert jitter.hold_s < 0.1  # jitter of one late packet, no lateness


def test_small_frames_wait_by_time_not_by_count() -> None:
    jitter = buffer(0.02)
    for sequence in range(1, 100):
        jitter.push(sequence, "", sequence * 0.02 + (0.04 if sequence % 2 else 0.0))
        jitter.poll(sequence * 0.02)
    held = jitter.stats.received
    now = 3.0
    for sequence in range(held + 2, held + 7):  # five packets behind a gap
        assert jitter.push(sequence, "", now) == []


def test_loss_fraction_of_the_last_interval() -> None:
    # RFC 3550 A.3; 84 packets of 60 ms are the first to last 5 s
    jitter = buffer()
    for sequence in range(1, 85):
        if sequence % 4:
            jitter.push(sequence, "", sequence * FRAME_S)
        jitter.poll(sequence * FRAME_S)
    assert jitter.stats.loss_fraction == 0.0  # number 84 has not come, so the interval is not over
    jitter.push(85, "", 85 * FRAME_S)
    assert jitter.stats.loss_fraction == pytest.approx(21 / 85)
    in_order(jitter, 86, 90)
    assert jitter.stats.loss_fraction == 0.0


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
