"""The device registry: who is let in, with which secret. SQLite on disk, everything in memory for look-ups.

Only approved devices are written; those that wait for a person are kept in memory, bounded, and come again by
themselves. One process owns the file; :mod:`ota.shared_devices` is for several. Errors that an operator can mend are
:class:`StoreError`, with a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import structlog

from mqtt_control.credentials import Credentials, mint, verify
from mqtt_control.identity import DeviceIdentity, IdentityError, parse_client_id
from ota.bearer import mint_bearer, verify_bearer
from ota.firmware import Decision, FirmwareState

_log = structlog.get_logger(__name__)

SECRET_BYTES = 32
WEBSOCKET = "websocket"
SCHEMA_VERSION = 1
DEFAULT_GROUP = "GID_default"
SEEN_RESOLUTION = timedelta(minutes=1)
"""How exact `last_seen` is on disk: a device that asks again within it costs no write."""

EnrolmentMode: TypeAlias = Literal["open", "code", "closed"]
EnrolmentState: TypeAlias = Literal["approved", "pending", "other_client", "refused"]
T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
  device_id TEXT PRIMARY KEY, client_id TEXT NOT NULL, secret BLOB NOT NULL, device_group TEXT NOT NULL,
  first_seen TEXT NOT NULL, last_seen TEXT NOT NULL, board TEXT NOT NULL, firmware TEXT NOT NULL, alias TEXT NOT NULL
) WITHOUT ROWID
"""
_FIRMWARE_SCHEMA = """
CREATE TABLE IF NOT EXISTS firmware (
  device_id TEXT PRIMARY KEY, version TEXT NOT NULL, digest TEXT NOT NULL, offers INTEGER NOT NULL, held INTEGER NOT NULL,
  force TEXT NOT NULL
) WITHOUT ROWID
"""
UPSERT = "INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT = "SELECT device_id, client_id, secret, device_group, first_seen, last_seen, board, firmware, alias FROM devices"
SELECT_FIRMWARE = "SELECT device_id, version, digest, offers, held, force FROM firmware"
UNTOUCHED = FirmwareState()


class StoreError(Exception):
    """The registry cannot be read or written. The sentence says what to do."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device tells of itself; bounded text."""

    board: str = ""
    firmware: str = ""


@lru_cache(maxsize=1024)
def facts_of(board: str, firmware: str) -> DeviceFacts:
    """The facts; one object for all devices of which the same is known, since thousands are kept."""
    return DeviceFacts(board, firmware)


@dataclass(frozen=True, slots=True)
class Device:
    """One device. The secret does not show in the representation."""

    identity: DeviceIdentity
    status: Literal["approved", "pending"]
    first_seen: datetime
    last_seen: datetime
    facts: DeviceFacts = DeviceFacts()
    alias: str = ""
    secret: bytes = field(default=b"", repr=False)

    @property
    def device_id(self) -> str:
        return self.identity.device_id

    @property
    def pair(self) -> tuple[str, str]:
        """Device-Id and Client-Id."""
        return self.identity.device_id, self.identity.client_id


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What becomes of a device that asks.

    ``approved``: gets credentials. ``pending``: unknown, a person must confirm it. ``other_client``: the Device-Id is known
    with another Client-Id, because the flash was erased or because somebody pretends; a person must confirm it.
    ``refused``: unknown and nobody is let in, or the registry is full. ``fresh``: it was unknown and is let in by this very call.
    """

    state: EnrolmentState
    device: Device | None
    fresh: bool = False


@dataclass(slots=True)
class DeviceStoreStats:
    enrolled: int = 0
    other_client: int = 0
    refused: int = 0
    authenticated: int = 0
    rejected: int = 0
    write_errors: int = 0


class DeviceStore:
    """See the module. Look-ups are synchronous; changes are written before they count."""

    def __init__(
        self,
        *,
        enrolment: EnrolmentMode = "open",
        max_devices: int = 20_000,
        max_pending: int = 1000,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.stats = DeviceStoreStats()
        self.on_revoked: Callable[[str], None] = _ignore
        """Called with the Device-Id when its credentials stop being valid: whoever holds its connection closes it."""
        self.on_forgotten: Callable[[str], None] = _ignore
        """Called with the Device-Id when the device is known no longer, after :attr:`on_revoked`."""
        self._enrolment = enrolment
        self._max_devices = max_devices
        self._max_pending = max_pending
        self._now = now
        self._devices: dict[str, Device] = {}
        self._firmware: dict[str, FirmwareState] = {}  # of devices that have one other than UNTOUCHED
        self._pending: OrderedDict[tuple[str, str], Device] = OrderedDict()
        self._decoy = secrets.token_bytes(SECRET_BYTES)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="devices")
        self._database: sqlite3.Connection | None = None
        self._path = Path()
        self._changing = asyncio.Lock()
        self._closed = False

    async def open(self, path: Path) -> None:
        """Read the registry, made with mode 0600 when there is none. Raises StoreError."""
        self._path = path
        devices = await self._on_disk(self._open)
        self._devices = {device.device_id: device for device in devices}
        self._firmware = await self._on_disk(self._read_firmware)

    async def aclose(self) -> None:
        """Close the file; idempotent. Look-ups go on working."""
        if not self._closed:
            with contextlib.suppress(StoreError):
                await self._on_disk(self._close)
            self._closed = True
            self._executor.shutdown()

    # -- look-ups ------------------------------------------------------------------------------------------------------
    def get(self, device_id: str) -> Device | None:
        """The approved device, or the pending one that asked last."""
        if device := self._approved(device_id):
            return device
        return next((device for pair, device in reversed(self._pending.items()) if pair[0] == device_id), None)

    def all(self) -> list[Device]:
        """Approved devices in order of their ids, then pending ones, oldest first."""
        return [*(self._devices[device_id] for device_id in sorted(self._devices)), *self._pending.values()]

    def is_approved(self, pair: tuple[str, str]) -> bool:
        """Whether this very pair is let in."""
        device = self._approved(pair[0])
        return device is not None and device.pair == pair

    def authenticate(self, client_id: str, username: str, password: bytes) -> DeviceIdentity | None:
        """The approved device that these MQTT credentials belong to.

        Does the same work for unknown devices and malformed ids as for known ones.
        """
        device = self._named_by(client_id)
        genuine = verify(device.secret if device else self._decoy, client_id=client_id, username=username, password=password)
        if device is None or not genuine:
            self.stats.rejected += 1
            return None
        self.stats.authenticated += 1
        return device.identity

    def credentials(self, device: Device) -> Credentials:
        """The MQTT credentials of an approved device.

        They stay the same until the secret is rotated: devices write them to flash at each boot, and flash skips what is equal.
        There is no expiry, since a device asks for new ones only when it boots.
        """
        return mint(device.secret, device.identity, claims={"v": 1})

    def approved(self, device_id: str) -> DeviceIdentity | None:
        """The approved device of this id, where somebody else has authenticated it (the user's broker)."""
        device = self._approved(device_id)
        return device.identity if device else None

    def bearer(self, device: Device) -> str:
        """The token with which an approved device opens its WebSocket; as long-lived as :meth:`credentials`."""
        return mint_bearer(device.secret, device.identity, purpose=WEBSOCKET)

    def authenticate_bearer(self, identity: DeviceIdentity, token: str) -> bool:
        """Whether this very device is approved and the token its own. Does the same work for unknown devices as for known ones."""
        device = self._approved(identity.device_id)
        known = device is not None and device.identity == identity
        genuine = verify_bearer(device.secret if device and known else self._decoy, identity, token, purpose=WEBSOCKET)
        if not (known and genuine):
            self.stats.rejected += 1
            return False
        self.stats.authenticated += 1
        return True

    def firmware_state(self, device_id: str) -> FirmwareState:
        """What is remembered of the device's updates."""
        return self._firmware.get(device_id, UNTOUCHED)

    def firmware_states(self) -> dict[str, FirmwareState]:
        """The same of all devices of which there is anything."""
        return dict(self._firmware)

    # -- changes -------------------------------------------------------------------------------------------------------
    async def enrol(self, device_id: str, client_id: str, facts: DeviceFacts) -> Enrolment:
        """A device asks. Raises IdentityError for ids that are none, StoreError when a new device cannot be written.

        Cancellation leaves the device enrolled or not; asking again settles it.
        """
        identity = DeviceIdentity(device_id, client_id, DEFAULT_GROUP)
        async with self._changing:
            known = self._devices.get(device_id)
            match self._verdict(known, client_id, count=len(self._devices)):
                case "approved" if known:
                    return Enrolment("approved", await self._seen(known, facts))
                case "approved":
                    return Enrolment("approved", await self._admit(identity, facts), fresh=True)
                case "refused":
                    self.stats.refused += 1
                    return Enrolment("refused", None)
                case waiting:
                    self.stats.other_client += waiting == "other_client"
                    return Enrolment(waiting, self._wait(identity, facts))

    async def approve(self, device_id: str, client_id: str) -> Device:
        """Let this pair in. Another Client-Id of the same device loses its access: the secret is a new one.

        Raises IdentityError, StoreError. Cancellation: as :meth:`enrol`.
        """
        identity = DeviceIdentity(device_id, client_id, DEFAULT_GROUP)
        async with self._changing:
            if self.is_approved((device_id, client_id)):
                return self._devices[device_id]
            pending = self._pending.get((device_id, client_id))
            return await self._admit(identity, pending.facts if pending else DeviceFacts())

    async def rotate(self, device_id: str) -> Device | None:
        """Give the device a new secret: it must ask again (a restart does it). None when it is not approved. Raises StoreError."""
        async with self._changing:
            if known := self._devices.get(device_id):
                return await self._put(replace(known, secret=secrets.token_bytes(SECRET_BYTES)), revoke=True)
            return None

    async def rename(self, device_id: str, alias: str) -> Device | None:
        """Give the device a name for people. None when it is not approved. Raises StoreError."""
        async with self._changing:
            if known := self._devices.get(device_id):
                return await self._put(replace(known, alias=alias))
            return None

    async def forget(self, device_id: str) -> bool:
        """Remove the device, whatever its state; False when there was none. Raises StoreError.

        Its access ends at once, even when the file cannot be written; then it is back after a restart.
        """
        async with self._changing:
            waiting = [pair for pair in self._pending if pair[0] == device_id]
            for pair in waiting:
                del self._pending[pair]
            if self._devices.pop(device_id, None) is None:
                return bool(waiting)
            self._firmware.pop(device_id, None)
            self.on_revoked(device_id)
            self.on_forgotten(device_id)
            await self._on_disk(lambda: self._forget(device_id))
            return True

    async def settle_firmware(self, device_id: str, decide: Callable[[FirmwareState], Decision]) -> Decision:
        """Decide from what is remembered of the device's updates, and remember what comes of it. Nobody else changes it meanwhile.

        Raises StoreError, and then what was remembered stands. Cancellation leaves the new state or the old.
        """
        async with self._changing:
            known = self._firmware.get(device_id, UNTOUCHED)
            decision = decide(known)
            state = decision.state
            if state != known and device_id in self._devices:
                await self._on_disk(lambda: self._execute(*firmware_change(device_id, state)))
                self._firmware[device_id] = state
                if state == UNTOUCHED:
                    del self._firmware[device_id]
            return decision

    async def force_firmware(self, device_id: str, version: str) -> None:
        """Have this version installed by force at the device's next visit. Raises StoreError."""
        await self.settle_firmware(device_id, lambda state: Decision(replace(state, force=version)))

    async def release_firmware(self, device_id: str) -> None:
        """Forget offers and force: the device is offered anew what is newer. Raises StoreError."""
        await self.settle_firmware(device_id, lambda _: Decision(UNTOUCHED))

    # -- inside --------------------------------------------------------------------------------------------------------
    def _approved(self, device_id: str) -> Device | None:
        return self._devices.get(device_id)

    def _named_by(self, client_id: str) -> Device | None:
        try:
            identity = parse_client_id(client_id)
        except IdentityError:
            return None
        device = self._approved(identity.device_id)
        return device if device and device.identity == identity else None

    def _verdict(self, known: Device | None, client_id: str, *, count: int) -> EnrolmentState:
        if known:
            return "approved" if known.identity.client_id == client_id else "other_client"
        if self._enrolment == "closed" or count >= self._max_devices:
            return "refused"
        return "pending" if self._enrolment == "code" else "approved"

    async def _admit(self, identity: DeviceIdentity, facts: DeviceFacts) -> Device:
        known = self._devices.get(identity.device_id)
        device = admitted(identity, known, facts, self._now())
        await self._put(device, revoke=known is not None)
        self._pending.pop(device.pair, None)
        self.stats.enrolled += 1
        return device

    async def _seen(self, known: Device, facts: DeviceFacts) -> Device:
        """Note the visit. A disk that cannot be written does not keep out a device that is known."""
        device = visited(known, facts, self._now())
        if device is known:
            return known
        try:
            await self._put(device)
        except StoreError as error:
            self.stats.write_errors += 1
            _log.warning("the visit of a known device could not be noted", device_id=device.device_id, reason=str(error))
            self._devices[device.device_id] = device
        return device

    async def _put(self, device: Device, *, revoke: bool = False) -> Device:
        await self._on_disk(lambda: self._execute(UPSERT, row_of(device)))
        self._devices[device.device_id] = device
        if revoke:
            self.on_revoked(device.device_id)
        return device

    def _wait(self, identity: DeviceIdentity, facts: DeviceFacts) -> Device:
        pair = (identity.device_id, identity.client_id)
        now = self._now()
        waiting = self._pending.pop(pair, None)
        device = Device(identity, "pending", waiting.first_seen if waiting else now, now, facts)
        self._pending[pair] = device
        if len(self._pending) > self._max_pending:
            self._pending.popitem(last=False)
        return device

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Run in the writer thread; what SQLite complains of becomes a sentence."""
        if self._closed:
            raise StoreError(f"device registry {self._path}: it is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(sentence(self._path, error)) from error

    # -- writer thread -------------------------------------------------------------------------------------------------
    def _open(self) -> list[Device]:
        create_file(self._path)
        database = sqlite3.connect(self._path, isolation_level=None, timeout=5)
        try:
            prepare(database, self._path)
            devices = [device_of(row) for row in database.execute(SELECT)]
        except (ValueError, TypeError) as error:
            database.close()
            raise StoreError(f"device registry {self._path}: it holds a device that cannot be one: restore a copy") from error
        except BaseException:
            database.close()
            raise
        self._database = database
        return devices

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        if self._database is None:
            raise sqlite3.ProgrammingError("the registry is closed")
        self._database.execute(statement, values)

    def _read_firmware(self) -> dict[str, FirmwareState]:
        if self._database is None:
            raise sqlite3.ProgrammingError("the registry is closed")
        return dict(firmware_of(row) for row in self._database.execute(SELECT_FIRMWARE))

    def _forget(self, device_id: str) -> None:
        for table in ("devices", "firmware"):
            self._execute(f"DELETE FROM {table} WHERE device_id = ?", (device_id,))  # noqa: S608 - one of two words

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def admitted(identity: DeviceIdentity, known: Device | None, facts: DeviceFacts, now: datetime) -> Device:
    """The record of a device that is let in, with a new secret; what is ``known`` of it stays."""
    first_seen, alias = (known.first_seen, known.alias) if known else (now, "")
    return Device(identity, "approved", first_seen, now, facts, alias, secrets.token_bytes(SECRET_BYTES))


def visited(known: Device, facts: DeviceFacts, now: datetime) -> Device:
    """The record after a visit; the very same one when there is nothing worth writing."""
    facts = facts_of(facts.board or known.facts.board, facts.firmware or known.facts.firmware)
    if facts == known.facts and now - known.last_seen < SEEN_RESOLUTION:
        return known
    return replace(known, last_seen=now, facts=facts)


def create_file(path: Path) -> None:
    """The file, made when there is none. It holds secrets; SQLite gives its journal files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def prepare(database: sqlite3.Connection, path: Path) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StoreError(f"device registry {path}: a newer version of this program wrote it: update, or name another data_dir")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute(_SCHEMA)
    database.execute(_FIRMWARE_SCHEMA)  # an addition that older versions of this program do not mind
    if version != SCHEMA_VERSION:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def read_registry(path: Path) -> list[Device]:
    """The approved devices in a registry that another process may be using; nothing is changed. Blocks. Raises StoreError."""
    if not path.is_file():
        raise StoreError(f"device registry {path}: there is none; has the server run with this data_dir?")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            return [device_of(row) for row in database.execute(f"{SELECT} ORDER BY device_id")]
    except (sqlite3.Error, OSError) as error:
        raise StoreError(sentence(path, error)) from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"device registry {path}: it holds a device that cannot be one: restore a copy") from error


def _ignore(device_id: str) -> None:
    del device_id


def row_of(device: Device) -> tuple[object, ...]:
    return (
        device.device_id,
        device.identity.client_id,
        device.secret,
        device.identity.group,
        device.first_seen.isoformat(),
        device.last_seen.isoformat(),
        device.facts.board,
        device.facts.firmware,
        device.alias,
    )


def device_of(row: tuple[str, str, bytes, str, str, str, str, str, str]) -> Device:
    device_id, client_id, secret, group, first_seen, last_seen, board, firmware, alias = row
    return Device(
        DeviceIdentity(device_id, client_id, group),
        "approved",
        datetime.fromisoformat(first_seen),
        datetime.fromisoformat(last_seen),
        facts_of(board, firmware),
        alias,
        secret,
    )


def firmware_change(device_id: str, state: FirmwareState) -> tuple[str, tuple[object, ...]]:
    """Statement and values that make this state the remembered one."""
    if state == UNTOUCHED:
        return "DELETE FROM firmware WHERE device_id = ?", (device_id,)
    values = (device_id, state.version, state.digest, state.offers, int(state.held), state.force)
    return "INSERT OR REPLACE INTO firmware VALUES (?, ?, ?, ?, ?, ?)", values


def firmware_of(row: tuple[str, str, str, int, int, str]) -> tuple[str, FirmwareState]:
    device_id, version, digest, offers, held, force = row
    return device_id, FirmwareState(version, digest, offers, bool(held), force)


_SENTENCES = {
    "SQLITE_FULL": "the disk is full: free some space; known devices still work, new ones are not let in",
    "SQLITE_READONLY": "it cannot be written: give this user the right to write it and its directory",
    "SQLITE_CANTOPEN": "it cannot be opened: give this user the right to write the directory",
    "SQLITE_NOTADB": "it is no device registry: move it away, or restore a copy",
    "SQLITE_CORRUPT": "it is damaged: restore a copy, or move it away and enrol the devices again",
    "SQLITE_BUSY": "another program holds it: is this server running twice on the same data_dir?",
}


def sentence(path: Path, error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    known = next((text for prefix, text in _SENTENCES.items() if name.startswith(prefix)), None)
    return f"device registry {path}: {known or str(error)}"
