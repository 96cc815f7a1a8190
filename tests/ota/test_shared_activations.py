"""Codes that two processes share: what one offers the other confirms. The rules are those of test_activation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ota.activation import TooManyAttemptsError, TooManyOffersError, UnknownCodeError
from ota.shared_activations import SharedActivations
from ota.shared_devices import SharedDeviceStore, start_afresh

A = ("02:00:00:00:00:01", "one")
B = ("02:00:00:00:00:02", "two")

Codes = tuple[SharedActivations, SharedActivations]


@pytest.fixture
async def codes(tmp_path: Path) -> AsyncIterator[Codes]:
    path = tmp_path / "devices.sqlite3"
    start_afresh(path)
    stores = SharedDeviceStore(), SharedDeviceStore()
    for store in stores:
        await store.open(path)
    yield SharedActivations(stores[0], max_offers=2), SharedActivations(stores[1], max_offers=2)
    for store in stores:
        await store.aclose()


async def test_offered_here_confirmed_there(codes: Codes) -> None:
    here, there = codes
    first = await here.offer(A, source="x", now=0)
    again = await there.offer(A, source="x", now=599)
    assert (first.fresh, again.fresh) == (True, False)
    assert (again.code, again.challenge) == (first.code, first.challenge)
    other = await there.offer(B, source="x", now=1)
    assert await there.state(A, challenge=first.challenge, now=2) == "pending"
    await there.record_proof(A, serial_number="S", hmac_hex="ab")
    assert await here.serial_numbers() == {A: "S"}
    assert await there.confirm(f" {first.code} ", source="x", now=2) == A
    assert await here.state(A, challenge=first.challenge, now=3) == "confirmed"
    assert await here.state(A, challenge=other.challenge, now=3) == "none"
    assert await here.state(A, challenge=first.challenge, now=600) == "none"
    with pytest.raises(UnknownCodeError):  # a code serves once
        await here.confirm(first.code, source="x", now=3)
    await here.unconfirm(A)
    assert await there.confirm(first.code, source="x", now=4) == A
    assert (await here.offer(A, source="x", now=5)).challenge != first.challenge


async def test_at_once_from_both_it_is_one_code(codes: Codes) -> None:
    found = []

    async def ask(activations: SharedActivations) -> None:
        found.append(await activations.offer(A, source="x", now=0))

    async with asyncio.TaskGroup() as group:
        for activations in codes * 5:
            group.create_task(ask(activations))
    assert len({offer.code for offer in found}) == 1
    assert sum(offer.fresh for offer in found) == 1


async def test_offers_are_bounded_and_expire(codes: Codes) -> None:
    here, there = codes
    await here.offer(A, source="x", now=0)
    await there.offer(B, source="x", now=100)
    with pytest.raises(TooManyOffersError):
        await here.offer(("c", "c"), source="x", now=200)
    assert (await here.offer(("c", "c"), source="x", now=600)).fresh


async def test_guesses_are_limited_over_both(codes: Codes) -> None:
    offer = await codes[0].offer(A, source="x", now=0)
    for guess in range(10):
        with pytest.raises(UnknownCodeError):
            await codes[guess % 2].confirm("none \ud800", source="bad", now=guess)
    with pytest.raises(TooManyAttemptsError):
        await codes[0].confirm(offer.code, source="bad", now=11)
    assert await codes[1].confirm(offer.code, source="good", now=11) == A
    await codes[0].unconfirm(A)
    for guess in range(89):
        with pytest.raises(UnknownCodeError):
            await codes[guess % 2].confirm("none", source=str(guess), now=12)
    with pytest.raises(TooManyAttemptsError):
        await codes[1].confirm(offer.code, source="fresh", now=12)
    assert (await codes[1].offer(A, source="x", now=599)).code == offer.code
    with pytest.raises(UnknownCodeError):  # guessing is possible again, but the code is over
        await codes[1].confirm(offer.code, source="bad", now=612)
