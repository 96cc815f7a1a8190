"""The thread of an engine: order, errors, cancellation, closing."""

from __future__ import annotations

import asyncio
import threading

import pytest

from providers.base import ModelMissing, ProviderUnavailable
from providers.engine_thread import EngineThread


async def test_calls_run_in_one_other_thread() -> None:
    thread = EngineThread("toy")
    first, second = await thread.run(threading.get_ident), await thread.run(threading.get_ident)
    assert first == second != threading.get_ident()
    await thread.aclose()


async def test_errors_get_the_projects_names() -> None:
    def fail(error: Exception) -> None:
        raise error

    thread = EngineThread("toy")
    with pytest.raises(ProviderUnavailable, match="toy failed: RuntimeError: out of luck"):
        await thread.run(fail, RuntimeError("out of luck"))
    with pytest.raises(ModelMissing, match="gone"):
        await thread.run(fail, ModelMissing("gone"))
    await thread.aclose()


async def test_cancelled_before_its_turn_a_call_never_begins() -> None:
    thread = EngineThread("toy")
    gate = threading.Event()
    ran: list[int] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(thread.run(gate.wait, 10))
        waiting = group.create_task(thread.run(ran.append, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        gate.set()
    assert running.result()
    await thread.run(ran.append, 2)
    assert ran == [2]
    await thread.aclose()


async def test_cancelled_while_running_the_result_is_dropped() -> None:
    thread = EngineThread("toy")
    begun, gate = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        gate.wait(10)
        return 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(thread.run(slow))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
    gate.set()
    assert await thread.run(lambda: 2) == 2
    await thread.aclose()


async def test_closed_is_closed() -> None:
    thread = EngineThread("toy")
    gate = threading.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(thread.run(gate.wait, 10))
        waiting = group.create_task(_closed(thread))
        await asyncio.sleep(0)
        closing = group.create_task(thread.aclose())
        await asyncio.sleep(0.01)
        gate.set()
    assert running.result()
    assert waiting.result()
    assert closing.done()
    assert await _closed(thread)
    await thread.aclose()


async def _closed(thread: EngineThread) -> bool:
    try:
        await thread.run(lambda: None)
    except ProviderUnavailable:
        return True
    return False
