"""Tool names of devices and the names that language models accept (P).

Device names have dots (``self.audio_speaker.set_volume``); models accept ``^[A-Za-z0-9_-]{1,64}$``. The table maps both ways
exactly: two device names never share a model name, and the same device name keeps its model name for as long as the table lives.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

NAME_LIMIT: Final = 64
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_CHARS: Final = 8


class NameTable:
    """Device name <-> model name. ``reserved`` names are never given out."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._reserved = frozenset(reserved)
        self._safe: dict[str, str] = {}
        self._device: dict[str, str] = {}

    def safe(self, device_name: str) -> str:
        """The model name of a device name; a new name is entered."""
        known = self._safe.get(device_name)
        if known is not None:
            return known
        name = self._free_name(device_name)
        self._safe[device_name] = name
        self._device[name] = device_name
        return name

    def device(self, safe_name: str) -> str | None:
        """The device name behind a model name, None for a name that was never given out."""
        return self._device.get(safe_name)

    def _free_name(self, device_name: str) -> str:
        plain = _FOREIGN.sub("_", device_name) or "_"
        candidate = plain
        salt = 0
        while len(candidate) > NAME_LIMIT or candidate in self._reserved or candidate in self._device:
            digest = hashlib.blake2b(f"{salt}:{device_name}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST_CHARS // 2).hexdigest()
            candidate = f"{plain[: NAME_LIMIT - _DIGEST_CHARS - 1]}_{digest}"
            salt += 1
        return candidate
