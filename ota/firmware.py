"""Which firmware there is, and which of it a device is offered. Pure.

Devices download and flash what is offered without asking anybody, at every boot at which they find it newer. So an offer is made
only when all that is known speaks for it, and not again and again:

- the version is newer by the firmware's own comparison, and both versions are such that the comparison does not crash;
- the image is for the device's chip, fits its partition, and is not 2.x for the partition table of 1.x;
- the same file was not offered :data:`MAX_OFFERS` times already while the device came back with the old version;
- ``force`` (install whatever the versions are) goes out once, to one device, when an operator has asked for it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ota.manifest import is_safe_version

MAX_OFFERS: Final = 3
MAX_BOARD_CHARS: Final = 64

URL_PREFIX: Final = "/xiaozhi/firmware/"

_NO_NAME = re.compile(r"[^a-z0-9._-]+", re.ASCII)


def board_key(name: str) -> str:
    """The name by which a board's directory is found: lower case, everything unusual a dash. Empty when nothing is left.

    ``Waveshare/ESP32-S3 1.8`` becomes ``waveshare-esp32-s3-1.8``. Never a path.
    """
    return _NO_NAME.sub("-", name.lower()).strip(".-")[:MAX_BOARD_CHARS]


def version_key(version: str) -> tuple[int, ...]:
    """Compares as the firmware compares: segment by segment; of equal beginnings the longer is newer. Raises ValueError."""
    if not is_safe_version(version):
        raise ValueError(f"{version[:40]!r} is no version of numbers and dots")
    return tuple(int(segment) for segment in version.split("."))


@dataclass(frozen=True, slots=True)
class FirmwareFile:
    """One image that may be offered. ``board`` is a :func:`board_key`; ``digest`` names the content: 32 hex digits of its SHA-256."""

    board: str
    version: str
    digest: str
    size_bytes: int
    chip: str = ""
    project: str = ""

    @property
    def url_path(self) -> str:
        """Where it is downloaded. Who does not know the content cannot guess it; another content has another address."""
        return f"{URL_PREFIX}{self.digest}/{self.version}.bin"


class FirmwareIndex:
    """All files, by board and by digest."""

    def __init__(self, files: Iterable[FirmwareFile] = ()) -> None:
        self.files = tuple(sorted(files, key=lambda file: (file.board, version_key(file.version))))
        self._boards: defaultdict[str, list[FirmwareFile]] = defaultdict(list)
        for file in reversed(self.files):
            self._boards[file.board].append(file)

    def of(self, boards: Sequence[str]) -> Sequence[FirmwareFile]:
        """What there is for the first of these boards that has anything, newest first."""
        return next((found for name in boards if (found := self._boards.get(board_key(name)))), ())


@dataclass(frozen=True, slots=True)
class DeviceBuild:
    """What runs on a device, as far as it told: names of the board (the most exact first), version, chip, flash."""

    boards: tuple[str, ...]
    version: str
    chip: str = ""
    app_slot_bytes: int = 0
    """Largest partition for applications; 0: unknown."""
    partitions: frozenset[str] = frozenset()
    """Their labels; empty: unknown."""


@dataclass(frozen=True, slots=True)
class FirmwareState:
    """What is remembered of a device. ``version`` and ``digest`` are of the file that it was offered last."""

    version: str = ""
    digest: str = ""
    offers: int = 0
    held: bool = False
    """The file is not offered again."""
    force: str = ""
    """The version to be installed by force at the next visit."""


@dataclass(frozen=True, slots=True)
class Decision:
    """``state`` must be kept before ``file`` is offered. ``note`` is for the operator; empty when all is as usual."""

    state: FirmwareState
    file: FirmwareFile | None = None
    force: bool = False
    note: str = ""


def decide(index: FirmwareIndex, build: DeviceBuild, state: FirmwareState) -> Decision:
    """What this device, which asks now, is offered."""
    if not is_safe_version(build.version):
        return Decision(state, note="its own version cannot be compared, so it is offered nothing" if state.force else "")
    files = index.of(build.boards)
    return _forced(files, build, state) if state.force else _newest(files, build, state)


def _newest(files: Sequence[FirmwareFile], build: DeviceBuild, state: FirmwareState) -> Decision:
    running = version_key(build.version)
    newer = [file for file in files if version_key(file.version) > running]
    fitting = next((file for file in newer if not _misfit(file, build)), None)
    note = f"{newer[0].version} is not offered: {_misfit(newer[0], build)}" if newer and newer[0] is not fitting else ""
    if fitting is None:  # a file that has gone for a moment must not make its offers forgotten
        has_it = bool(state.version) and version_key(state.version) <= running
        return Decision(FirmwareState() if has_it else state, note=note)
    if state.digest != fitting.digest:
        return Decision(FirmwareState(fitting.version, fitting.digest, 1), fitting, note=note)
    if state.held:
        return Decision(state, note=note)
    if state.offers < MAX_OFFERS:
        return Decision(replace(state, offers=state.offers + 1), fitting, note=note)
    held = (
        f"{fitting.version} was offered {state.offers} times and the device still comes with {build.version}: "
        "it is not offered again until the file changes"
    )
    return Decision(replace(state, held=True), note=held)


def _forced(files: Sequence[FirmwareFile], build: DeviceBuild, state: FirmwareState) -> Decision:
    wanted = version_key(state.force)
    chosen = next((file for file in files if version_key(file.version) == wanted), None)
    reason = _misfit(chosen, build) if chosen else "there is no such file for its board"
    if chosen is None or reason:
        return Decision(replace(state, force=""), note=f"{state.force} is not forced: {reason}")
    newest = next(file for file in files if not _misfit(file, build))
    if version_key(newest.version) > wanted:  # else the next visit would undo what the operator asked for
        after = FirmwareState(newest.version, newest.digest, MAX_OFFERS, held=True)
    else:
        after = FirmwareState(chosen.version, chosen.digest, 1)
    return Decision(after, chosen, force=True, note=f"{chosen.version} goes out by force, once, over {build.version}")


def _misfit(file: FirmwareFile, build: DeviceBuild) -> str:
    """Why the device could not run this file; empty when nothing is known against it."""
    if file.chip and build.chip and file.chip != build.chip:
        return f"the image is for {file.chip}, the device has {build.chip}"
    if build.app_slot_bytes and file.size_bytes > build.app_slot_bytes:
        return f"the image has {file.size_bytes} bytes, the device's partition {build.app_slot_bytes}"
    if file.project == "xiaozhi" and version_key(file.version)[0] >= 2:
        has_assets = "assets" in build.partitions if build.partitions else version_key(build.version)[0] >= 2
        if not has_assets:
            return "2.x needs another partition table than 1.x has: flash the device once over USB"
    return ""
