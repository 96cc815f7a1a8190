"""What waits to be sent, and what of it can be taken back."""

from __future__ import annotations

import asyncio

from bridge.websocket.outbox import MAX_WAITING, Outbox


async def test_one_order_for_both_kinds() -> None:
    box = Outbox()
    for message in ("a", b"1", "b", b"2"):
        assert box.put(message)
    assert [await box.get() for _ in range(4)] == ["a", b"1", "b", b"2"]


async def test_it_is_bounded() -> None:
    box = Outbox()
    assert all(box.put("x") for _ in range(MAX_WAITING))
    assert not box.put("y")
    await box.get()
    assert box.put("y")


async def test_audio_is_taken_back_and_messages_stay() -> None:
    box = Outbox()
    for message in (b"1", "a", b"2", b"3", "b"):
        box.put(message)
    assert box.take_back_audio() == 3
    assert [await box.get(), await box.get()] == ["a", "b"]


async def test_closed_it_hands_out_what_waits_and_then_nothing() -> None:
    box = Outbox()
    box.put("last")
    box.close()
    assert box.put("too late")
    assert [await box.get(), await box.get(), await box.get()] == ["last", None, None]


async def test_a_reader_waits_and_is_woken() -> None:
    box = Outbox()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(box.get())
        await asyncio.sleep(0)
        box.put("news")
    assert reader.result() == "news"
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(box.get())
        await asyncio.sleep(0)
        box.close()
    assert reader.result() is None
