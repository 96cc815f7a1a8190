"""Two stores on one file, as two processes have them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ota.devices import DeviceFacts, DeviceStore, EnrolmentMode, StoreError
from ota.firmware import MAX_OFFERS, DeviceBuild, FirmwareFile, FirmwareIndex, FirmwareState, decide
from ota.shared_devices import SharedDeviceStore, start_afresh

MAC = "02:00:00:00:00:01"
OTHER_MAC = "02:00:00:00:00:02"
FACTS = DeviceFacts("board", "2.4.2")

Pair = tuple[SharedDeviceStore, SharedDeviceStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "devices.sqlite3"
    start_afresh(path)
    return path


@pytest.fixture
def enrolment() -> EnrolmentMode:
    return "open"


@pytest.fixture
async def stores(path: Path, enrolment: EnrolmentMode) -> AsyncIterator[Pair]:
    here, there = SharedDeviceStore(enrolment=enrolment, max_pending=2), SharedDeviceStore(enrolment=enrolment, max_pending=2)
    await here.open(path)
    await there.open(path)
    yield here, there
    await here.aclose()
    await there.aclose()


async def test_what_one_enrols_the_other_lets_in(stores: Pair) -> None:
    here, there = stores
    device = (await here.enrol(MAC, "c", FACTS)).device
    assert device is not None
    good = here.credentials(device)
    assert there.authenticate(good.client_id, good.username, good.password.encode()) == device.identity
    assert there.authenticate(good.client_id, good.username, b"wrong") is None
    assert there.get(MAC) == device
    assert there.all() == [device]
    assert (here.stats.enrolled, there.stats.enrolled) == (1, 0)
    assert repr(device.secret) not in repr(there.get(MAC))


async def test_the_same_device_at_both_at_once_is_one_record(stores: Pair) -> None:
    made = []

    async def enrol(store: SharedDeviceStore, n: int) -> None:
        made.append((await store.enrol(f"02:00:00:00:00:{n:02x}", "c", FACTS)).device)

    async with asyncio.TaskGroup() as group:
        for n in range(20):
            for store in stores:
                group.create_task(enrol(store, n))
    assert len(stores[0].all()) == 20
    assert {device.secret for device in made if device} == {device.secret for device in stores[1].all()}
    assert stores[0].stats.enrolled + stores[1].stats.enrolled == 20


async def test_rotate_and_forget_end_access_everywhere(stores: Pair) -> None:
    here, there = stores
    revoked: list[str] = []
    there.on_revoked = revoked.append
    device = (await here.enrol(MAC, "c", FACTS)).device
    assert device is not None
    old = here.credentials(device)
    rotated = await there.rotate(MAC)
    assert rotated is not None
    assert here.authenticate(old.client_id, old.username, old.password.encode()) is None
    new = there.credentials(rotated)
    assert here.authenticate(new.client_id, new.username, new.password.encode()) is not None
    assert await there.forget(MAC)
    assert here.authenticate(new.client_id, new.username, new.password.encode()) is None
    assert revoked == [MAC, MAC]
    assert not await here.forget(MAC)
    assert await here.rotate(MAC) is None
    assert await here.rename(MAC, "x") is None


async def test_another_client_waits_and_replaces(stores: Pair) -> None:
    here, there = stores
    first = (await here.enrol(MAC, "c", FACTS)).device
    assert first is not None
    assert await here.rename(MAC, "Kitchen") is not None
    other = await there.enrol(MAC, "d", FACTS)
    assert (other.state, here.all()[1].status) == ("other_client", "pending")
    revoked: list[str] = []
    here.on_revoked = revoked.append
    approved = await here.approve(MAC, "d")
    assert (approved.alias, approved.facts, approved.identity.client_id) == ("Kitchen", FACTS, "d")
    assert approved.secret != first.secret
    assert revoked == [MAC]
    assert there.is_approved((MAC, "d"))
    assert not there.is_approved((MAC, "c"))
    assert (await there.approve(MAC, "d")).secret == approved.secret


@pytest.mark.parametrize("enrolment", ["code"])
async def test_waiting_devices_are_seen_by_both_and_bounded(stores: Pair, path: Path) -> None:
    here, there = stores
    for n in range(3):
        assert (await here.enrol(f"02:00:00:00:00:{n:02x}", "c", FACTS)).state == "pending"
    assert [device.device_id for device in there.all()] == ["02:00:00:00:00:01", "02:00:00:00:00:02"]
    waiting = there.get("02:00:00:00:00:02")
    assert waiting is not None
    assert waiting.status == "pending"
    assert (await there.approve("02:00:00:00:00:01", "c")).facts == FACTS
    assert [device.status for device in here.all()] == ["approved", "pending"]
    assert await there.forget("02:00:00:00:00:02")
    assert len(here.all()) == 1
    await here.enrol(OTHER_MAC, "c", FACTS)
    start_afresh(path)
    assert [device.status for device in there.all()] == ["approved"]


@pytest.mark.parametrize("enrolment", ["closed"])
async def test_closed(stores: Pair) -> None:
    assert (await stores[0].enrol(MAC, "c", FACTS)).state == "refused"
    assert stores[0].stats.refused == 1


async def test_a_known_device_is_let_in_while_somebody_else_writes(stores: Pair, path: Path) -> None:
    here, there = stores
    device = (await here.enrol(MAC, "c", FACTS)).device
    assert device is not None
    good = here.credentials(device)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert there.authenticate(good.client_id, good.username, good.password.encode()) is not None
    assert (await there.enrol(MAC, "c", FACTS)).state == "approved"
    writer.execute("ROLLBACK")
    writer.close()


async def test_visits_are_noted_but_not_each_time(path: Path) -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = SharedDeviceStore(now=lambda: clock[0])
    await store.open(path)
    for seconds, expected in ((0, 0), (30, 0), (61, 61), (70, 61)):
        clock[0] = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        device = (await store.enrol(MAC, "c", DeviceFacts())).device
        assert device is not None
        assert (device.last_seen - device.first_seen).total_seconds() == expected
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        store.get(MAC)


async def test_the_file_is_that_of_a_single_process(stores: Pair, path: Path) -> None:
    device = (await stores[0].enrol(MAC, "c", FACTS)).device
    single = DeviceStore()
    await single.open(path)
    assert single.all() == [device]
    await single.aclose()


async def test_a_change_that_fails_leaves_nothing(stores: Pair) -> None:
    def fail(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM devices")
        raise ValueError("on purpose")

    here, there = stores
    await here.enrol(MAC, "c", FACTS)
    with pytest.raises(ValueError, match="on purpose"):
        await there.change(fail)
    assert len(there.all()) == 1
    assert await here.forget(MAC)  # the other does not hold the lock


async def test_offers_are_counted_and_force_delivered_for_all_together(stores: Pair) -> None:
    for store in stores:
        await store.enrol(MAC, "c", FACTS)
    index = FirmwareIndex([FirmwareFile("board", "2.5.0", "d", 1000, "", "x")])
    build = DeviceBuild(("board",), "2.4.2")
    offers, forced = [], []

    async def visit(store: SharedDeviceStore) -> None:
        decision = await store.settle_firmware(MAC, lambda state: decide(index, build, state))
        offers.append(decision.file is not None)
        forced.append(decision.force)

    async def visits() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                for store in stores:
                    group.create_task(visit(store))

    await visits()
    assert sum(offers) == MAX_OFFERS
    assert [store.firmware_state(MAC) for store in stores] == [FirmwareState("2.5.0", "d", MAX_OFFERS, held=True)] * 2
    assert stores[0].firmware_states() == {MAC: FirmwareState("2.5.0", "d", MAX_OFFERS, held=True)}
    await stores[0].force_firmware(MAC, "2.5.0")
    await visits()
    assert sum(forced) == 1
    await stores[1].release_firmware(MAC)
    assert stores[0].firmware_states() == {}
    await stores[1].force_firmware(MAC, "2.5.0")
    await stores[0].forget(MAC)
    assert stores[1].firmware_state(MAC) == FirmwareState()
    await stores[1].force_firmware(MAC, "2.5.0")  # of a device that is not known any more nothing is kept
    assert stores[1].firmware_states() == {}
