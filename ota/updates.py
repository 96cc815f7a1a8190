"""What a device is offered at check-version: the files, the decision and the device's record brought together."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from ota.devices import DeviceStore, StoreError
from ota.downloads import Downloads
from ota.firmware import DeviceBuild, FirmwareFile, decide
from ota.manifest import FirmwareOffer
from ota.shelf import FirmwareShelf

_log = structlog.get_logger(__name__)

MAX_NOTES = 1000
"""Remembered, so that each is logged once."""


@dataclass(slots=True)
class UpdateStats:
    offered: int = 0
    forced: int = 0
    held: int = 0
    """Devices that came back with the old version too often."""
    deferred: int = 0
    """Not offered because every download slot was taken."""


class Updates:
    """``downloads`` are told about here only to offer nothing while they are full."""

    def __init__(self, shelf: FirmwareShelf, store: DeviceStore, downloads: Downloads) -> None:
        self.stats = UpdateStats()
        self.shelf = shelf
        self.downloads = downloads
        self._store = store
        self._notes: OrderedDict[tuple[str, str], None] = OrderedDict()

    @property
    def parts(self) -> dict[str, Any]:
        """What has counters, by name."""
        return {"firmware": self, "downloads": self.downloads}

    async def look_through(self) -> None:
        """What is wrong with a file shall stand in the log before a device asks."""
        await self.shelf.index()

    async def offer(self, device_id: str, build: DeviceBuild, *, http_base: str) -> FirmwareOffer | None:
        """What an approved device is told to install; None: nothing. The offer is written down before it is made.

        When it cannot be written, none is made: the guard against endless updates would be blind.
        """
        index = await self.shelf.index()
        if self.downloads.busy:
            self.stats.deferred += 1
            return None
        before = self._store.firmware_state(device_id)
        try:
            decision = await self._store.settle_firmware(device_id, partial(decide, index, build))
        except StoreError as error:
            _log.error("no firmware is offered, because the offer cannot be noted", device_id=device_id, reason=str(error))
            return None
        if decision.note:
            self._tell(device_id, decision.note, always=decision.state != before)
        self.stats.held += decision.state.held and not before.held and not decision.force
        if decision.file is None:
            return None
        self.stats.offered += 1
        self.stats.forced += decision.force
        offered = decision.file.version
        _log.info(
            "firmware was offered to a device", device_id=device_id, board=decision.file.board, running=build.version, offered=offered
        )
        return FirmwareOffer(decision.file.version, f"{http_base}{decision.file.url_path}", decision.force)

    async def force(self, device_id: str, board: str, version: str) -> FirmwareFile | None:
        """Have the version installed at the next visit, whatever runs there, once; the file, or None when there is none for the board.

        A board that has no files of its own may turn out to belong to a type that has: then any file of that version will do for
        now, and the visit decides. Raises StoreError.
        """
        index = await self.shelf.index(refresh_s=0)
        files = index.of((board,)) or index.files
        found = next((file for file in files if file.version == version), None)
        if found is not None:
            await self._store.force_firmware(device_id, version)
        return found

    def _tell(self, device_id: str, note: str, *, always: bool) -> None:
        key = (device_id, note)
        if key not in self._notes or always:
            _log.warning("firmware decision", device_id=device_id, note=note)
        self._notes[key] = None
        if len(self._notes) > MAX_NOTES:
            self._notes.popitem(last=False)
