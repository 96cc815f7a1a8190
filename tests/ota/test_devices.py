"""The registry on real SQLite files."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mqtt_control.identity import DeviceIdentity, IdentityError
from ota.devices import DeviceFacts, DeviceStore, StoreError

MAC = "02:00:00:00:00:01"
OTHER_MAC = "02:00:00:00:00:02"
FACTS = DeviceFacts("board", "2.4.2")


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[DeviceStore]:
    store = DeviceStore(**options)
    await store.open(path)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "devices.sqlite3"


async def test_record_survives(path: Path) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with opened(path, now=lambda: moment) as store:
        made = (await store.enrol(MAC, "c", FACTS)).device
        await store.rename(MAC, "Kitchen 厨房")
    async with opened(path) as store:
        device = store.get(MAC)
        assert device is not None
        assert made is not None
        assert device.identity == DeviceIdentity(MAC, "c", "GID_default")
        assert (device.status, device.facts, device.alias) == ("approved", FACTS, "Kitchen 厨房")
        assert (device.first_seen, device.last_seen) == (moment, moment)
        assert device.secret == made.secret
        assert len(device.secret) == 32
        assert repr(device.secret) not in repr(device)


async def test_files_are_for_the_owner_only(path: Path) -> None:
    async with opened(path) as store:
        await store.enrol(MAC, "c", FACTS)
        files = list(path.parent.iterdir())
        assert len(files) >= 2  # with SQLite's journal
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_authenticate(path: Path) -> None:
    async with opened(path) as store:
        device = (await store.enrol(MAC, "c", FACTS)).device
        assert device is not None
        await store.enrol(OTHER_MAC, "d", FACTS)
        good = store.credentials(device)
        password = good.password.encode()
        assert store.authenticate(good.client_id, good.username, password) == device.identity
        group, mac, client = good.client_id.split("@@@")
        wrong = [
            (f"{group}@@@{mac}", good.username, password),
            (f"{group}@@@02_00_00_00_00_02@@@d", good.username, password),
            (f"{group}@@@02_00_00_00_00_09@@@{client}", good.username, password),
            (f"GID_other@@@{mac}@@@{client}", good.username, password),
            (f"{group}@@@{mac}@@@d", good.username, password),
            (good.client_id, good.username + "=", password),
            (good.client_id, good.username, b""),
            (good.client_id, good.username, password[:-1]),
            (good.client_id, good.username, b"\xff\x00"),
            ("", "", b""),
        ]
        assert [store.authenticate(*attempt) for attempt in wrong] == [None] * len(wrong)
        assert (store.stats.authenticated, store.stats.rejected) == (1, len(wrong))


async def test_visit_is_noted_but_not_each_time(path: Path) -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    async with opened(path, now=lambda: clock[0]) as store:
        await store.enrol(MAC, "c", FACTS)
        for seconds, expected in ((30, 0), (61, 61), (70, 61)):
            clock[0] = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
            device = (await store.enrol(MAC, "c", DeviceFacts())).device
            assert device is not None
            assert (device.last_seen - device.first_seen).total_seconds() == expected
            assert device.facts == FACTS


async def test_many_at_once(path: Path) -> None:
    async with opened(path) as store:
        made = []

        async def enrol(n: int) -> None:
            made.append((await store.enrol(f"02:00:00:00:00:{n % 10:02x}", "c", FACTS)).device)

        async with asyncio.TaskGroup() as group:
            for n in range(50):
                group.create_task(enrol(n))
        assert len(store.all()) == 10
        assert {device.secret for device in made if device} == {device.secret for device in store.all()}


async def test_pending_devices_are_bounded_and_not_written(path: Path) -> None:
    async with opened(path, enrolment="code", max_pending=2) as store:
        for n in range(3):
            assert (await store.enrol(f"02:00:00:00:00:{n:02x}", "c", FACTS)).state == "pending"
        assert [device.device_id for device in store.all()] == ["02:00:00:00:00:01", "02:00:00:00:00:02"]
        approved = await store.approve("02:00:00:00:00:01", "c")
        assert approved.facts == FACTS
        assert (await store.approve("02:00:00:00:00:01", "c")).secret == approved.secret
        assert [device.status for device in store.all()] == ["approved", "pending"]
        assert await store.forget("02:00:00:00:00:02")
    async with opened(path) as store:
        assert [device.device_id for device in store.all()] == ["02:00:00:00:00:01"]


async def test_full_registry(path: Path) -> None:
    async with opened(path, max_devices=1) as store:
        await store.enrol(MAC, "c", FACTS)
        assert (await store.enrol(OTHER_MAC, "c", FACTS)).state == "refused"


async def test_forget_and_rotate_of_unknown_devices(path: Path) -> None:
    async with opened(path) as store:
        assert not await store.forget(MAC)
        assert await store.rotate(MAC) is None
        assert await store.rename(MAC, "x") is None
        assert store.get(MAC) is None


async def test_ids_that_are_none(path: Path) -> None:
    async with opened(path) as store:
        with pytest.raises(IdentityError):
            await store.enrol("02:00", "c", FACTS)
        with pytest.raises(IdentityError):
            await store.approve(MAC, "a@@@b")


async def test_full_disk(path: Path) -> None:
    async with opened(path) as store:
        await store.enrol(MAC, "c", FACTS)
        await store._on_disk(lambda: store._execute("PRAGMA max_page_count = 1", ()))

        async def fill() -> None:
            for n in range(2, 200):
                await store.enrol(f"02:00:00:00:00:{n:02x}", "c" * 64, DeviceFacts("b" * 64, "f" * 64))

        with pytest.raises(StoreError, match="the disk is full: free some space"):
            await fill()
        assert (await store.enrol(MAC, "c", DeviceFacts("b" * 5000, "9"))).state == "approved"
        assert store.stats.write_errors <= 1


async def test_path_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = DeviceStore()
    with pytest.raises(StoreError, match="device registry"):
        await store.open(tmp_path / "file" / "devices.sqlite3")
    await store.aclose()


@pytest.fixture
def foreign(path: Path) -> Path:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    return path


async def test_file_that_is_none(foreign: Path) -> None:
    store = DeviceStore()
    with pytest.raises(StoreError, match="it is no device registry"):
        await store.open(foreign)
    await store.aclose()


def edit(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("PRAGMA user_version = 99", "a newer version"),
        ("UPDATE devices SET device_id = 'x'", "cannot be one"),
        ("UPDATE devices SET last_seen = 'x'", "cannot be one"),
    ],
)
async def test_file_of_another_time(path: Path, statement: str, words: str) -> None:
    async with opened(path) as store:
        await store.enrol(MAC, "c", FACTS)
    edit(path, statement)
    store = DeviceStore()
    with pytest.raises(StoreError, match=words):
        await store.open(path)
    await store.aclose()


async def test_closed_registry(path: Path) -> None:
    async with opened(path) as store:
        await store.enrol(MAC, "c", FACTS)
    await store.aclose()
    assert store.get(MAC) is not None
    with pytest.raises(StoreError, match="closed"):
        await store.enrol(OTHER_MAC, "c", FACTS)
