"""An update as the firmware makes it: compare the versions, download with the length known, boot what came.

It asks nobody. What the server offers as newer, or forces, is downloaded with a plain GET; anything but status 200 with a length
is a failed update, after which the device goes on with what it has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import httpx

from bridge.device.errors import DeviceError, FirmwareCrashError

_TIMEOUT_S: Final = 30.0
_STOI = re.compile(r"\s*[+-]?\d+", re.ASCII)
_IMAGE_MAGIC: Final = 0xE9
_DESCRIPTION_AT: Final = 32
_DESCRIPTION_MAGIC: Final = bytes.fromhex("3254cdab")
_VERSION_AT: Final = slice(48, 80)
_HEAD_BYTES: Final = 288


class UpgradeError(DeviceError):
    """The update failed; the device goes on with the firmware that it has."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a check-version answer wants to have installed."""

    version: str
    url: str
    force: bool


@dataclass(frozen=True, slots=True)
class Download:
    """What came: the version that the image calls itself, and its size."""

    version: str
    size_bytes: int


def read_offer(answer: dict[str, Any], running: str) -> Offer | None:
    """The update to make; None when there is none. Raises :class:`FirmwareCrashError` for versions that crash the comparison."""
    firmware = answer.get("firmware")
    if not isinstance(firmware, dict):
        return None
    version, url = firmware.get("version"), firmware.get("url")
    if not isinstance(version, str) or not isinstance(url, str):
        return None
    newer = is_newer(version, running)
    force = firmware.get("force")
    forced = isinstance(force, int | float) and not isinstance(force, bool) and force == 1
    return Offer(version, url, forced) if newer or forced else None


def is_newer(offered: str, running: str) -> bool:
    """As firmware compares; of equal beginnings the longer one is newer."""
    ours, theirs = _numbers(running), _numbers(offered)
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            return other > mine
    return len(theirs) > len(ours)


async def download(url: str) -> Download:
    """Fetch the image. Raises :class:`UpgradeError`, and :class:`FirmwareCrashError` for what would not boot."""
    head, size = b"", 0
    try:
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False, headers={"Accept-Encoding": "identity", "Connection": "close"}) as http,
            http.stream("GET", url) as response,
        ):
            length = response.headers.get("content-length", "")
            if response.status_code != 200 or not length.isdigit() or length == "0":
                raise UpgradeError(f"The download answered {response.status_code} with the length {length or '(none)'}.")
            async for piece in response.aiter_raw():
                size += len(piece)
                head += piece[: _HEAD_BYTES - len(head)]
                if head and head[0] != _IMAGE_MAGIC:
                    raise UpgradeError("What was downloaded is no image: its first byte is not E9.")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UpgradeError(f"The download failed ({type(error).__name__}).") from error
    if size != int(length):
        raise UpgradeError(f"The download ended after {size} of {length} bytes.")
    if head[_DESCRIPTION_AT : _DESCRIPTION_AT + 4] != _DESCRIPTION_MAGIC:
        raise FirmwareCrashError("The device would not boot any more: what was downloaded is no application.")
    return Download(head[_VERSION_AT].partition(b"\0")[0].decode("ascii", "replace"), size)


def _numbers(version: str) -> list[int]:
    """``std::stoi`` of each segment, where it does not throw; nothing follows a last dot."""
    numbers = []
    for segment in version.removesuffix(".").split(".") if version else []:
        found = _STOI.match(segment)
        if found is None or not -(2**31) <= int(found[0]) < 2**31:
            raise FirmwareCrashError(f"The OTA answer would crash devices: the version {version[:40]!r} is compared.")
        numbers.append(int(found[0]))
    return numbers
