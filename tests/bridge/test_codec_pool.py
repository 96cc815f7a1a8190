"""Who is served first by the threads that encode."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.codec_pool import CodecPool
from tests.virtual_time import InlineExecutor


async def test_the_earliest_deadline_is_served_first() -> None:
    served: list[str] = []
    gate = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        pool = CodecPool(thread, at_once=1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pool.run(0.0, gate.wait))
            await asyncio.sleep(0)
            for name, due in (("late", 9.0), ("soon", 2.0), ("overdue", -1.0), ("soon, asked later", 2.0)):
                tasks.create_task(pool.run(due, served.append, name))
                await asyncio.sleep(0)
            assert served == []
            gate.set()
    assert served == ["overdue", "soon", "soon, asked later", "late"]


async def test_results_and_errors_come_back_and_free_the_place() -> None:
    pool = CodecPool(InlineExecutor(), at_once=1)
    assert await pool.run(0.0, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(0.0, divmod, 7, 0)
    assert await pool.run(0.0, int, "ff", base=16) == 255


async def test_whoever_is_cancelled_holds_no_place() -> None:
    served: list[str] = []
    gate = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        pool = CodecPool(thread, at_once=1)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(pool.run(0.0, gate.wait))
            await asyncio.sleep(0)
            waiting = [tasks.create_task(pool.run(float(due), served.append, f"cancelled {due}")) for due in range(1, 4)]
            last = tasks.create_task(pool.run(9.0, served.append, "last"))
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
            running.cancel()
            waiting[1].cancel()  # in the moment in which its turn comes
            await asyncio.sleep(0)
            waiting[2].cancel()
            gate.set()
            await last
        assert served == ["last"]
        assert await pool.run(0.0, len, "four") == 4


async def test_on_the_loop_the_order_is_the_same_and_others_have_their_turn_in_between() -> None:
    served: list[str] = []
    pool = CodecPool(None)
    loop = asyncio.get_running_loop()

    def serve(name: str) -> None:
        served.append(name)
        loop.call_soon(served.append, "other work")

    async with asyncio.TaskGroup() as tasks:
        for name, due in (("first come", 0.0), ("late", 9.0), ("soon", 2.0), ("overdue", -1.0)):
            tasks.create_task(pool.run(due, serve, name))
    assert [name for name in served if name != "other work"] == ["first come", "overdue", "soon", "late"]
    assert all("other work" in pair for pair in itertools.pairwise(served))
    with pytest.raises(ZeroDivisionError):
        await pool.run(0.0, divmod, 7, 0)
    assert await pool.run(0.0, divmod, 7, 2) == (3, 1)


async def test_one_turn_alone_does_not_hold_the_loop() -> None:
    pool = CodecPool(None)
    passes = 0

    async def others() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        beside = tasks.create_task(others())
        for _ in range(20):
            await pool.run(0.0, len, "piece")
        beside.cancel()
    assert passes >= 20
