"""What waits between a broker and the sessions: bounded, in all and for each device."""

from __future__ import annotations

import asyncio

import aiomqtt
import pytest

from mqtt_control.broker import INBOX_SHARE, BrokerStats, _Inbox


def message(device: str, number: int = 0) -> aiomqtt.Message:
    return aiomqtt.Message(f"xiaozhi/{device}/up", b"%d" % number, 0, retain=False, mid=0, properties=None)


async def test_a_loud_device_does_not_fill_the_place_of_others() -> None:
    stats = BrokerStats()
    inbox = _Inbox(1000, stats)
    for number in range(50_000):
        inbox.put_nowait(message("loud", number))
    inbox.put_nowait(message("quiet"))
    assert stats.inbox_dropped == 50_000 - INBOX_SHARE
    taken = [inbox.get_nowait() for _ in range(inbox.qsize())]
    assert [int(str(one.payload, "ascii")) for one in taken[:-1] if isinstance(one.payload, bytes)] == list(range(INBOX_SHARE))
    assert taken[-1].topic.value == "xiaozhi/quiet/up"
    assert not inbox._waiting
    inbox.put_nowait(message("loud"))
    assert (await inbox.get()).topic.value == "xiaozhi/loud/up"


async def test_a_full_inbox_refuses_and_counts() -> None:
    stats = BrokerStats()
    inbox = _Inbox(3, stats)
    for number in range(3):
        inbox.put_nowait(message(str(number)))
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait(message("one more"))
    assert stats.inbox_dropped == 1
    assert sum(inbox._waiting.values()) == 3
