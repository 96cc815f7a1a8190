"""The address that devices are told, and how it follows the machine's."""

from __future__ import annotations

import asyncio
import ipaddress

from bridge.address import AdvertisedHost, lan_address
from bridge.scope import task_scope


def test_the_address_is_one_that_others_can_use() -> None:
    address = lan_address()
    assert address is None or not ipaddress.IPv4Address(address).is_loopback


async def test_a_change_is_followed_and_a_lost_network_is_not() -> None:
    answers = ["192.168.1.10", "192.168.1.10", None, "10.0.0.7", "10.0.0.7"]
    host = AdvertisedHost(None, find=lambda: answers.pop(0) if len(answers) > 1 else answers[0])
    seen = [host.current]
    async with task_scope() as tasks:
        tasks.create_task(host.watch(period_s=0.001))
        async with asyncio.timeout(5):
            while host.current != "10.0.0.7":
                await asyncio.sleep(0.001)
                seen.append(host.current)
    assert list(dict.fromkeys(seen)) == ["192.168.1.10", "10.0.0.7"]
    assert host.changes == 1


async def test_what_is_set_stays() -> None:
    host = AdvertisedHost("bridge.example", find=lambda: "10.0.0.7")
    async with asyncio.timeout(5):
        await host.watch(period_s=0)
    assert host.current == "bridge.example"


def test_without_a_network_there_is_still_an_address() -> None:
    assert AdvertisedHost(None, find=lambda: None).current == "127.0.0.1"
