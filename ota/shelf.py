"""The firmware files on disk: ``firmware/<board>/<version>.bin`` in the data directory.

Looked through again when somebody asks and the last look is :data:`REFRESH_S` old; a file is read again only when it changed. What
cannot be offered is named in the log once, with the reason. The event loop waits for no disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from ota.firmware import FirmwareFile, FirmwareIndex, board_key
from ota.image import MAX_IMAGE_BYTES, Image, ImageError, inspect_image
from ota.manifest import is_safe_version

_log = structlog.get_logger(__name__)

DIRECTORY: Final = "firmware"
REFRESH_S: Final = 2.0
MISS_REFRESH_S: Final = 0.2
"""The same when a file is asked for that is not known: another worker may have seen it already."""
LOOK_SHARE: Final = 1 / 20
"""Of the time at most is spent looking, however many files there are."""
MAX_BOARDS: Final = 500
MAX_FILES_A_BOARD: Final = 100
MAX_COMPLAINTS: Final = 100
THREADS: Final = 2
DIGEST_CHARS: Final = 32

Stamp: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and time of change: equal as long as nobody touched the file."""


_NO_STAMP: Final = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """One directory entry at the last look: a file, or why it is none that can be offered."""

    stamp: Stamp
    file: FirmwareFile | None
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the directory found. ``complaints``: paths below it, and what is wrong with them."""

    seen: Mapping[Path, Seen] = field(default_factory=dict)
    complaints: Mapping[str, str] = field(default_factory=dict)
    index: FirmwareIndex = field(default_factory=FirmwareIndex)
    by_digest: Mapping[str, tuple[Path, Seen]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is open for reading; who has it closes the descriptor."""

    descriptor: int
    size_bytes: int
    label: str
    """For the log."""


class FirmwareShelf:
    """See the module. All methods belong to the event loop."""

    def __init__(self, directory: Path, *, refresh_s: float = REFRESH_S) -> None:
        self._directory = directory
        self._refresh_s = refresh_s
        self._look = Look()
        self._looked_at_s: float | None = None
        self._took_s = 0.0
        self._looking = asyncio.Lock()
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="firmware")

    @property
    def complaints(self) -> Mapping[str, str]:
        """What is not offered, and why, as of the last look."""
        return self._look.complaints

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The threads that wait for the disk."""
        return self._executor

    async def index(self, *, refresh_s: float | None = None) -> FirmwareIndex:
        """The files as of :data:`REFRESH_S` ago or, while somebody else looks, of the look before; as of ``refresh_s`` ago, if given.

        0 is now. Otherwise it is longer ago when looking takes long.

        Cancellation leaves the last look in force.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        oldest = self._refresh_s if refresh_s is None else refresh_s
        if oldest:
            oldest = max(oldest, self._took_s / LOOK_SHARE)
        under_way = refresh_s is None and self._looking.locked()
        if self._looked_at_s is not None and (under_way or now - self._looked_at_s < oldest):
            return self._look.index
        async with self._looking:
            if self._looked_at_s is None or self._looked_at_s + oldest <= now:
                begun_s = loop.time()
                look = await loop.run_in_executor(self._executor, look_at, self._directory, self._look.seen)
                self._tell(look)
                self._look, self._looked_at_s, self._took_s = look, now, loop.time() - begun_s
        return self._look.index

    async def open(self, digest: str, name: str) -> OpenFile | None:
        """The file of this digest and ``<version>.bin``, opened, when it is still the one that was looked at."""
        if digest not in self._look.by_digest:
            await self.index(refresh_s=min(self._refresh_s, MISS_REFRESH_S))
        path, seen = self._look.by_digest.get(digest, (None, None))
        if path is None or seen is None or path.name != name:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._executor, _open, path, seen.stamp)

    def close(self) -> None:
        """End the threads, without waiting for the disk. Idempotent."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _tell(self, look: Look) -> None:
        for name, complaint in look.complaints.items():
            if self._look.complaints.get(name) != complaint:
                _log.warning("a firmware file is not offered", file=name, reason=complaint)
        for file in sorted(set(look.index.files) - set(self._look.index.files), key=lambda file: file.url_path):
            _log.info("firmware was found", board=file.board, version=file.version, chip=file.chip, bytes=file.size_bytes)


def look_at(directory: Path, known: Mapping[Path, Seen]) -> Look:
    """Everything below ``directory``; files that are ``known`` and unchanged are not read. Blocks; raises nothing for what it finds."""
    seen: dict[Path, Seen] = {}
    complaints: dict[str, str] = {}
    taken: dict[tuple[str, str], Path] = {}
    for path, board in _candidates(directory, complaints):
        one = _see(path, board, known.get(path))
        if one is None:
            continue
        if one.file is not None and (twin := taken.setdefault((board, one.file.version), path)) != path:
            one = Seen(one.stamp, None, f"{twin.relative_to(directory)} is for the same board")
        seen[path] = one
        if one.complaint:
            complaints[_shown(path.relative_to(directory))] = one.complaint
    complaints = dict(list(complaints.items())[:MAX_COMPLAINTS])
    by_digest = {one.file.digest: (path, one) for path, one in seen.items() if one.file is not None}
    return Look(seen, complaints, FirmwareIndex(one.file for one in seen.values() if one.file is not None), by_digest)


def read_image(path: Path) -> tuple[Image, str, int]:
    """Description, digest and size of an image file. Blocks. Raises ImageError, OSError."""
    size = path.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise ImageError(f"it has {size} bytes: no device takes more than {MAX_IMAGE_BYTES}")
    data = path.read_bytes()
    return inspect_image(data), hashlib.sha256(data).hexdigest()[:DIGEST_CHARS], len(data)


def place(directory: Path, source: Path, board: str) -> Path:
    """Put an image where devices of this board are offered it; the path. Blocks. Raises ImageError, OSError.

    It is there whole or not at all: a server that looks meanwhile sees no half of it.
    """
    key = board_key(board)
    if not key:
        raise ImageError(f"{board[:80]!r} is no name of a board: take the one that `devices list` shows")
    image, _, _ = read_image(source)
    if not is_safe_version(image.version):
        raise ImageError(misnamed("", image.version))
    existing = [folder for folder in _entries(directory, {}, directory) if board_key(folder.name) == key and _is_folder(folder)]
    folder = existing[0] if existing else directory / key
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{image.version}.bin"
    scratch = folder / f".{path.name}.{os.getpid()}.part"
    try:
        shutil.copyfile(source, scratch)
        read_image(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _candidates(directory: Path, complaints: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Files that might be firmware, with their boards."""
    for number, folder in enumerate(_entries(directory, complaints, directory)):
        board = board_key(folder.name)
        if number >= MAX_BOARDS:
            complaints["."] = f"there are more than {MAX_BOARDS} boards: the rest is not looked at"
            return
        if not board or not _is_folder(folder):
            complaints[_shown(folder.relative_to(directory))] = "not of the form <board>/<version>.bin"
            continue
        for count, path in enumerate(_entries(folder, complaints, directory)):
            if count >= MAX_FILES_A_BOARD:
                complaints[_shown(folder.relative_to(directory))] = f"more than {MAX_FILES_A_BOARD} files: the rest is not looked at"
                break
            yield path, board


def _entries(folder: Path, complaints: dict[str, str], directory: Path) -> list[Path]:
    """What is not hidden, in order of names; nothing when there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        complaints[_shown(folder.relative_to(directory))] = f"it cannot be read: {error.strerror}"
        return []


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no right to look, a link that leads nowhere sensible
        return False


def _see(path: Path, board: str, known: Seen | None) -> Seen | None:
    """The entry; None when it has gone meanwhile."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return Seen(_NO_STAMP, None, "the link leads nowhere") if path.is_symlink() else None
    except OSError as error:
        return Seen(_NO_STAMP, None, f"it cannot be read: {error.strerror}")
    stamp = _stamp(status)
    if known is not None and known.stamp == stamp:
        return known
    if not stat.S_ISREG(status.st_mode) or path.suffix != ".bin" or not is_safe_version(path.stem):
        return Seen(stamp, None, "the name is not <version>.bin with a version of numbers and dots, such as 2.4.2.bin")
    try:
        return Seen(stamp, _inspect(path, board))
    except (ImageError, OSError) as error:
        return Seen(stamp, None, str(error) if isinstance(error, ImageError) else f"it cannot be read: {error.strerror}")


def _inspect(path: Path, board: str) -> FirmwareFile:
    """The file as it is offered. Raises ImageError, OSError."""
    image, digest, size = read_image(path)
    if image.version != path.stem:
        raise ImageError(misnamed(path.stem, image.version))
    return FirmwareFile(board, path.stem, digest, size, image.chip, image.project)


def misnamed(named: str, version: str) -> str:
    """Why an image of another version than it is named is not offered."""
    if not is_safe_version(version):
        return f"the image calls itself version {version[:40]!r}, which devices cannot compare: build it with numbers and dots"
    return f"it is named {named}, but the image is {version}: devices would install it again and again; name it {version}.bin"


def _open(path: Path, stamp: Stamp) -> OpenFile | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if _stamp(status) != stamp:
        os.close(descriptor)
        return None
    return OpenFile(descriptor, status.st_size, f"{path.parent.name}/{path.name}")


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _shown(path: Path) -> str:
    """A name of a file, fit for a log."""
    return "".join(character if character.isprintable() else "?" for character in str(path))[:200]
