"""The bad link does what it is told, the same way every time."""

from __future__ import annotations

import asyncio

import pytest

from bridge.device.impairment import MAX_IN_FLIGHT, ImpairedLink, Impairment


def link(impairment: Impairment, out: list[bytes], salt: str = "uplink") -> ImpairedLink:
    return ImpairedLink(impairment, out.append, loop=asyncio.get_running_loop(), salt=salt)


async def test_loss_and_duplicates_are_reproducible() -> None:
    runs: list[list[bytes]] = []
    for _ in range(2):
        out: list[bytes] = []
        bad = link(Impairment(loss=0.2, duplicate=0.1, seed=7), out)
        for number in range(1000):
            bad.push(number.to_bytes(2, "big"))
        runs.append(out)
        assert 150 < bad.stats.lost < 250
        assert 50 < bad.stats.duplicated < 120
        assert len(out) == 1000 - bad.stats.lost + bad.stats.duplicated
    assert runs[0] == runs[1]


async def test_reordered_datagrams_are_overtaken() -> None:
    out: list[bytes] = []
    bad = link(Impairment(reorder=0.3, reorder_ms=1, seed=1), out)
    for number in range(50):
        bad.push(bytes([number]))
    async with asyncio.timeout(5):
        while len(out) < 50:
            await asyncio.sleep(0.005)
    assert out != sorted(out)
    assert sorted(out) == [bytes([number]) for number in range(50)]
    assert bad.stats.reordered > 5


async def test_what_is_in_flight_is_bounded_and_forgotten_on_close() -> None:
    out: list[bytes] = []
    bad = link(Impairment(delay_ms=5, jitter_ms=5), out)
    for _ in range(MAX_IN_FLIGHT + 10):
        bad.push(b"x")
    assert bad.stats.overflowed == 10
    bad.close()
    await asyncio.sleep(0.03)
    assert not out


def test_shares_are_checked() -> None:
    with pytest.raises(ValueError, match="loss"):
        Impairment(loss=1.5)
