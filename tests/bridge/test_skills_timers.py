"""Timers: the schedule by numbers, its face on a real loop."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.skills.timers import LONGEST_S, TIMER_LIMIT, Schedule, Timers, TimersFullError


def test_timers_are_due_in_order_and_once() -> None:
    schedule = Schedule()
    later = schedule.add(100.0, 60, announcement="later", name="Pizza")
    sooner = schedule.add(100.0, 30, announcement="sooner")
    assert schedule.pending() == [sooner, later]
    assert schedule.next_due_s() == 130.0
    assert schedule.take_due(129.9) == []
    assert later.remaining_s(130.4) == 30
    assert schedule.take_due(500.0) == [sooner, later]
    assert schedule.take_due(500.0) == []
    assert schedule.next_due_s() is None


def test_the_number_of_timers_is_bounded() -> None:
    schedule = Schedule()
    for _ in range(TIMER_LIMIT):
        schedule.add(0, 60, announcement="")
    with pytest.raises(TimersFullError):
        schedule.add(0, 60, announcement="")
    assert schedule.clear() == TIMER_LIMIT
    assert len(schedule) == 0


def test_lengths_are_bounded() -> None:
    schedule = Schedule()
    assert schedule.add(0, 0, announcement="").length_s == 1
    assert schedule.add(0, 10**9, announcement="").length_s == LONGEST_S


def test_find_by_name_and_length() -> None:
    schedule = Schedule()
    pizza = schedule.add(0, 600, announcement="", name="Pizza")
    eggs = schedule.add(0, 300, announcement="", name="the soft eggs")
    plain = schedule.add(0, 300, announcement="")
    assert schedule.find(name="pizza") == [pizza]
    assert schedule.find(name="eggs") == [eggs]
    assert schedule.find(name="the pizza") == [pizza]
    assert schedule.find(length_s=300) == [eggs, plain]
    assert schedule.find(name="tea") == []
    assert schedule.find() == [eggs, plain, pizza]
    schedule.remove(pizza)
    schedule.remove(pizza)
    assert schedule.find(name="pizza") == []


def test_shifting_never_goes_before_now() -> None:
    schedule = Schedule()
    timer = schedule.add(0, 60, announcement="")
    assert schedule.shift(timer, 60, 10).due_s == 120
    assert schedule.shift(schedule.pending()[0], -10_000, 20).due_s == 20
    assert len(schedule) == 1


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1200)), max_size=20))
def test_every_timer_is_due_exactly_once_and_never_early(timers: list[tuple[int, int]]) -> None:
    schedule = Schedule()
    for length_s, _ in timers:
        schedule.add(0, length_s, announcement="")
    seen = []
    for now_s in [*sorted(moment for _, moment in timers), 2000]:
        due = schedule.take_due(now_s)
        assert all(timer.due_s <= now_s for timer in due)
        seen += [timer.id for timer in due]
    assert sorted(seen) == list(range(1, len(timers) + 1))


async def test_a_timer_is_announced() -> None:
    rung = asyncio.Event()
    said: list[str] = []

    def announce(text: str) -> None:
        said.append(text)
        rung.set()

    timers = Timers(announce)
    timers.start(1, announcement="first")
    kept = timers.start(3600, announcement="much later")
    timers.cancel(timers.start(1, announcement="cancelled"))
    async with asyncio.timeout(20):
        await rung.wait()
    assert said == ["first"]
    assert timers.pending() == [kept]
    rung.clear()
    timers.shift(kept, -3600)
    async with asyncio.timeout(20):
        await rung.wait()
    assert said == ["first", "much later"]


async def test_a_closed_session_announces_nothing() -> None:
    said: list[str] = []
    timers = Timers(said.append)
    timers.start(1, announcement="x")
    timers.close()
    timers.close()
    assert timers.pending() == []
    with pytest.raises(TimersFullError):
        timers.start(1, announcement="y")
    await asyncio.sleep(1.2)
    assert said == []
