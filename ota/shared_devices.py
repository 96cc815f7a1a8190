"""The device registry of several processes on one machine: the file is the truth, nothing is remembered beside it.

A look-up is one read by primary key on the event loop (tens of microseconds; SQLite's write-ahead log lets nobody wait for
a writer). A change is one transaction in the writer thread: it reads again, decides and writes while it alone may write,
so that the same device at two processes at once ends as one record. Devices that wait for a person stand in the file too;
:func:`start_afresh` forgets them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from secrets import token_bytes
from typing import Any, TypeVar

import structlog

from mqtt_control.identity import DeviceIdentity
from ota.devices import (
    DEFAULT_GROUP,
    SECRET_BYTES,
    SELECT,
    SELECT_FIRMWARE,
    UNTOUCHED,
    UPSERT,
    Device,
    DeviceFacts,
    DeviceStore,
    Enrolment,
    StoreError,
    admitted,
    create_file,
    device_of,
    firmware_change,
    firmware_of,
    prepare,
    row_of,
    sentence,
    visited,
)
from ota.firmware import Decision, FirmwareState

_log = structlog.get_logger(__name__)

READ_TIMEOUT_S = 0.1
"""Readers wait for nobody but in the instant in which SQLite recovers a log; the event loop waits so long at most."""
WRITE_TIMEOUT_S = 5.0

T = TypeVar("T")

_TABLES = (
    """
CREATE TABLE IF NOT EXISTS pending (
  device_id TEXT NOT NULL, client_id TEXT NOT NULL, first_seen TEXT NOT NULL, last_seen TEXT NOT NULL,
  board TEXT NOT NULL, firmware TEXT NOT NULL, PRIMARY KEY (device_id, client_id)
) WITHOUT ROWID
""",
    """
CREATE TABLE IF NOT EXISTS offers (
  device_id TEXT NOT NULL, client_id TEXT NOT NULL, code TEXT NOT NULL UNIQUE, challenge TEXT NOT NULL, expires_at REAL NOT NULL,
  confirmed INTEGER NOT NULL DEFAULT 0, serial_number TEXT NOT NULL DEFAULT '', hmac TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (device_id, client_id)
) WITHOUT ROWID
""",
    "CREATE TABLE IF NOT EXISTS guesses (source TEXT NOT NULL, made_at REAL NOT NULL)",
)
_SELECT_PENDING = "SELECT device_id, client_id, first_seen, last_seen, board, firmware FROM pending"
_FORGET_OLDEST = """
DELETE FROM pending WHERE (device_id, client_id) IN (
  SELECT device_id, client_id FROM pending ORDER BY last_seen LIMIT max(0, (SELECT count(*) FROM pending) - ?)
)
"""


def start_afresh(path: Path) -> None:
    """Make the file when there is none, and forget who waits for a person: they ask again. Raises StoreError.

    For the one process that comes before those that share the file.
    """
    try:
        create_file(path)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=WRITE_TIMEOUT_S)) as database:
            prepare(database, path)
            for table in _TABLES:
                database.execute(table)
            for name in ("pending", "offers", "guesses"):
                database.execute(f"DELETE FROM {name}")  # noqa: S608 - one of three words
    except (sqlite3.Error, OSError) as error:
        raise StoreError(sentence(path, error)) from error


class SharedDeviceStore(DeviceStore):
    """:class:`DeviceStore` for one of several processes. Look-ups raise StoreError when the file cannot be read."""

    _reader: sqlite3.Connection | None = None

    async def open(self, path: Path) -> None:
        """Open a file that :func:`start_afresh` has seen. Raises StoreError."""
        self._path = path
        await self._on_disk(self._open)
        try:
            self._reader = sqlite3.connect(path, isolation_level=None, timeout=READ_TIMEOUT_S)
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise StoreError(sentence(path, error)) from error

    async def aclose(self) -> None:
        """Close the file; idempotent. There are no look-ups afterwards."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        await super().aclose()

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows, read at once on the event loop. Raises StoreError."""
        try:
            if self._reader is None:
                raise sqlite3.ProgrammingError("it is closed")
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(sentence(self._path, error)) from error

    async def change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in the writer thread as one transaction that alone may write. Raises StoreError and what ``work`` raises.

        Cancellation leaves the whole change made or none of it.
        """
        return await self._on_disk(lambda: self._transact(work))

    # -- look-ups ------------------------------------------------------------------------------------------------------
    def get(self, device_id: str) -> Device | None:
        if device := self._approved(device_id):
            return device
        rows = self.read(f"{_SELECT_PENDING} WHERE device_id = ? ORDER BY last_seen DESC LIMIT 1", (device_id,))
        return _pending_of(rows[0]) if rows else None

    def all(self) -> list[Device]:
        approved = [device_of(row) for row in self.read(f"{SELECT} ORDER BY device_id")]
        return [*approved, *(_pending_of(row) for row in self.read(f"{_SELECT_PENDING} ORDER BY last_seen"))]

    def firmware_state(self, device_id: str) -> FirmwareState:
        rows = self.read(f"{SELECT_FIRMWARE} WHERE device_id = ?", (device_id,))
        return firmware_of(rows[0])[1] if rows else UNTOUCHED

    def firmware_states(self) -> dict[str, FirmwareState]:
        return dict(firmware_of(row) for row in self.read(SELECT_FIRMWARE))

    def _approved(self, device_id: str) -> Device | None:
        rows = self.read(f"{SELECT} WHERE device_id = ?", (device_id,))
        return device_of(rows[0]) if rows else None

    # -- changes -------------------------------------------------------------------------------------------------------
    async def enrol(self, device_id: str, client_id: str, facts: DeviceFacts) -> Enrolment:
        identity = DeviceIdentity(device_id, client_id, DEFAULT_GROUP)
        known = self._approved(device_id)
        genuine = known is not None and known.identity.client_id == client_id
        if known and genuine and visited(known, facts, self._now()) is known:
            return Enrolment("approved", known)
        try:
            enrolment = await self.change(lambda database: self._enrol(database, identity, facts))
        except StoreError as error:
            if not genuine:
                raise
            self.stats.write_errors += 1
            _log.warning("the visit of a known device could not be noted", device_id=device_id, reason=str(error))
            return Enrolment("approved", known)
        self.stats.enrolled += enrolment.fresh
        self.stats.refused += enrolment.state == "refused"
        self.stats.other_client += enrolment.state == "other_client"
        return enrolment

    async def approve(self, device_id: str, client_id: str) -> Device:
        identity = DeviceIdentity(device_id, client_id, DEFAULT_GROUP)

        def approve(database: sqlite3.Connection) -> tuple[Device, bool, bool]:
            known = _row(database, device_id)
            if known and known.pair == (device_id, client_id):
                return known, False, False
            waiting = database.execute(f"{_SELECT_PENDING} WHERE device_id = ? AND client_id = ?", (device_id, client_id)).fetchone()
            return self._admit_row(database, identity, known, _pending_of(waiting).facts if waiting else DeviceFacts()), True, bool(known)

        device, fresh, replaced = await self.change(approve)
        self.stats.enrolled += fresh
        if replaced:
            self.on_revoked(device_id)
        return device

    async def rotate(self, device_id: str) -> Device | None:
        device = await self._alter(device_id, lambda known: replace(known, secret=token_bytes(SECRET_BYTES)))
        if device is not None:
            self.on_revoked(device_id)
        return device

    async def rename(self, device_id: str, alias: str) -> Device | None:
        return await self._alter(device_id, lambda known: replace(known, alias=alias))

    async def forget(self, device_id: str) -> bool:
        """Remove the device, whatever its state; False when there was none. Raises StoreError, and then nothing has changed."""

        def forget(database: sqlite3.Connection) -> tuple[int, int]:
            waiting = database.execute("DELETE FROM pending WHERE device_id = ?", (device_id,)).rowcount
            database.execute("DELETE FROM firmware WHERE device_id = ?", (device_id,))
            return waiting, database.execute("DELETE FROM devices WHERE device_id = ?", (device_id,)).rowcount

        waiting, approved = await self.change(forget)
        if approved:
            self.on_revoked(device_id)
            self.on_forgotten(device_id)
        return bool(waiting or approved)

    async def settle_firmware(self, device_id: str, decide: Callable[[FirmwareState], Decision]) -> Decision:
        known = self.firmware_state(device_id)
        decision = decide(known)
        if decision.state == known:
            return decision

        def settle(database: sqlite3.Connection) -> Decision:
            row = database.execute(f"{SELECT_FIRMWARE} WHERE device_id = ?", (device_id,)).fetchone()
            known = firmware_of(row)[1] if row else UNTOUCHED
            decision = decide(known)
            if decision.state != known and _row(database, device_id):
                database.execute(*firmware_change(device_id, decision.state))
            return decision

        return await self.change(settle)

    async def _alter(self, device_id: str, alter: Callable[[Device], Device]) -> Device | None:
        def change(database: sqlite3.Connection) -> Device | None:
            known = _row(database, device_id)
            return _write(database, alter(known)) if known else None

        return await self.change(change)

    # -- writer thread -------------------------------------------------------------------------------------------------
    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = self._database
        if database is None:
            raise sqlite3.ProgrammingError("the registry is closed")
        database.execute("BEGIN IMMEDIATE")
        try:
            result = work(database)
            database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # some errors have rolled back already
                database.execute("ROLLBACK")
            raise
        return result

    def _enrol(self, database: sqlite3.Connection, identity: DeviceIdentity, facts: DeviceFacts) -> Enrolment:
        known = _row(database, identity.device_id)
        (count,) = database.execute("SELECT count(*) FROM devices").fetchone()
        match self._verdict(known, identity.client_id, count=count):
            case "approved" if known:
                return Enrolment("approved", _write(database, visited(known, facts, self._now())))
            case "approved":
                return Enrolment("approved", self._admit_row(database, identity, None, facts), fresh=True)
            case "refused":
                return Enrolment("refused", None)
            case waiting:
                return Enrolment(waiting, self._wait_row(database, identity, facts))

    def _admit_row(self, database: sqlite3.Connection, identity: DeviceIdentity, known: Device | None, facts: DeviceFacts) -> Device:
        device = _write(database, admitted(identity, known, facts, self._now()))
        database.execute("DELETE FROM pending WHERE device_id = ? AND client_id = ?", device.pair)
        return device

    def _wait_row(self, database: sqlite3.Connection, identity: DeviceIdentity, facts: DeviceFacts) -> Device:
        now = self._now()
        pair = (identity.device_id, identity.client_id)
        waiting = database.execute(f"{_SELECT_PENDING} WHERE device_id = ? AND client_id = ?", pair).fetchone()
        device = Device(identity, "pending", _pending_of(waiting).first_seen if waiting else now, now, facts)
        values = (*pair, device.first_seen.isoformat(), now.isoformat(), facts.board, facts.firmware)
        database.execute("INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?, ?)", values)
        database.execute(_FORGET_OLDEST, (self._max_pending,))
        return device


def _row(database: sqlite3.Connection, device_id: str) -> Device | None:
    row = database.execute(f"{SELECT} WHERE device_id = ?", (device_id,)).fetchone()
    return device_of(row) if row else None


def _write(database: sqlite3.Connection, device: Device) -> Device:
    database.execute(UPSERT, row_of(device))
    return device


def _pending_of(row: tuple[Any, ...]) -> Device:
    device_id, client_id, first_seen, last_seen, board, firmware = row
    return Device(
        DeviceIdentity(device_id, client_id, DEFAULT_GROUP),
        "pending",
        datetime.fromisoformat(first_seen),
        datetime.fromisoformat(last_seen),
        DeviceFacts(board, firmware),
    )
