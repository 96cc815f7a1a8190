"""Downloads by devices: status 200, the length, the bytes. No header is needed, none but the length is heeded.

The firmware follows no redirect, takes nothing chunked, and resumes nothing: a download that ends early is a failed update. At
most ``slots`` run at once; whoever comes then waits a while for one. Each holds one piece of its file in memory.

=============================================== =============================================================
``GET /xiaozhi/firmware/<digest>/<version>.bin``  an image of the index
``GET /xiaozhi/assets/<name>``                    a file of that name directly in the assets directory
=============================================== =============================================================
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ota.device_request import read_source
from ota.firmware import URL_PREFIX
from ota.shelf import FirmwareShelf, OpenFile

_log = structlog.get_logger(__name__)

ASSETS_PREFIX: Final = "/xiaozhi/assets/"
SLOTS: Final = 64
WAIT_S: Final = 15.0
"""For a slot. Devices give up after 30 s without an answer."""
STALL_S: Final = 30.0
"""Without any progress a download is given up."""
WHOLE_S: Final = 900.0
PIECE_BYTES: Final = 64 * 1024
MIN_ASSETS_BYTES: Final = 12

_ASSETS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(slots=True)
class DownloadStats:
    started: int = 0
    completed: int = 0
    broken: int = 0
    """Given up by the device, stalled, or cut off by the disk."""
    refused: int = 0
    """There was no slot."""
    unknown: int = 0
    """There is no such file."""
    open: int = 0
    """Now."""


class Downloads:
    """The routes. ``limit`` raises HTTPException for a source that asks too often."""

    def __init__(
        self, shelf: FirmwareShelf, *, assets: Path | None = None, slots: int = SLOTS, wait_s: float = WAIT_S, stall_s: float = STALL_S
    ) -> None:
        self.stats = DownloadStats()
        self._shelf = shelf
        self._assets = assets
        self._slots = slots
        self._free = asyncio.Semaphore(slots)
        self._wait_s = wait_s
        self._stall_s = stall_s

    @property
    def busy(self) -> bool:
        """No slot is free: a device that is told to download now might wait in vain."""
        return self._free.locked()

    def routes(self, limit: Callable[[Request], None]) -> list[Route]:
        async def firmware(request: Request) -> Response:
            limit(request)
            digest, name = request.path_params["digest"], request.path_params["name"]
            return await self._serve(request, await self._shelf.open(digest, name))

        async def assets(request: Request) -> Response:
            limit(request)
            return await self._serve(request, await self._open_assets(request.path_params["name"]))

        return [Route(f"{URL_PREFIX}{{digest}}/{{name}}", firmware), Route(f"{ASSETS_PREFIX}{{name}}", assets)]

    async def _open_assets(self, name: str) -> OpenFile | None:
        if self._assets is None or not _ASSETS_NAME.fullmatch(name):
            return None
        return await asyncio.get_running_loop().run_in_executor(self._shelf.executor, _open_regular, self._assets / name)

    async def _serve(self, request: Request, file: OpenFile | None) -> Response:
        if file is None:
            self.stats.unknown += 1
            raise HTTPException(404, "there is no such file")
        if request.method == "HEAD":
            os.close(file.descriptor)
            return _Announcement(file.size_bytes)
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError as error:
            os.close(file.descriptor)
            self.stats.refused += 1
            _log.warning("too many downloads at once, one was refused", slots=self._slots, source=read_source(request))
            raise HTTPException(503, "too many downloads at once", headers={"Retry-After": "30"}) from error
        except BaseException:
            os.close(file.descriptor)
            raise
        self.stats.started += 1
        self.stats.open += 1
        return _Download(self, request, file)

    async def send(self, request: Request, file: OpenFile, send: Send) -> None:
        """The body, piece by piece; less of it when the device has gone, stalls, or the file shrinks."""
        loop, sent = asyncio.get_running_loop(), 0
        try:
            async with asyncio.timeout(WHOLE_S):
                while sent < file.size_bytes and not await request.is_disconnected():
                    wanted = min(PIECE_BYTES, file.size_bytes - sent)
                    piece = await loop.run_in_executor(self._shelf.executor, os.pread, file.descriptor, wanted, sent)
                    if not piece:
                        break
                    sent += len(piece)
                    async with asyncio.timeout(self._stall_s):
                        await send({"type": "http.response.body", "body": piece, "more_body": sent < file.size_bytes})
        except (OSError, TimeoutError) as error:
            _log.warning("a download makes no progress", file=file.label, reason=type(error).__name__)
        finally:
            whole = sent == file.size_bytes
            self.stats.completed += whole
            self.stats.broken += not whole
        outcome = "downloaded" if whole else "a download ended early"
        _log.info(outcome, file=file.label, source=read_source(request), sent=sent, bytes=file.size_bytes)

    def release(self, file: OpenFile) -> None:
        """The download is over."""
        os.close(file.descriptor)
        self.stats.open -= 1
        self._free.release()


class _Announcement(Response):
    """The answer to HEAD."""

    media_type = "application/octet-stream"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(headers={"Content-Length": str(size_bytes)})


class _Download(_Announcement):
    """The answer to GET. Holds a slot and a descriptor from its making to the end of its call; nothing is awaited between."""

    def __init__(self, downloads: Downloads, request: Request, file: OpenFile) -> None:
        super().__init__(file.size_bytes)
        self._downloads = downloads
        self._request = request
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._downloads.send(self._request, self._file, send)
        finally:
            self._downloads.release(self._file)


def _open_regular(path: Path) -> OpenFile | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size < MIN_ASSETS_BYTES:
        os.close(descriptor)
        return None
    return OpenFile(descriptor, status.st_size, f"assets/{path.name}")
