"""ESP32 application images: what their first bytes tell, and whether they are whole. Pure.

::

    0   image header, 24 bytes: magic E9, number of segments, ..., chip id (u16 at 12), ..., hash appended (u8 at 23)
    24  first segment: load address (u32), length (u32), data; an application's begins with its description:
    32    magic ABCD5432 (u32), ..., version (32 bytes at 48), project name (32 bytes at 80)
    ..  further segments; zeros and a checksum byte up to a multiple of 16; SHA-256 of all before, when byte 23 says so

All numbers are little-endian. Devices check the whole image after the download and before they boot it, so a damaged one costs
a download. The dangerous mistake is another one: a *merged* image begins with a bootloader, which is valid by itself.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MAX_IMAGE_BYTES: Final = 16 * 1024 * 1024
MAX_SEGMENTS: Final = 16

CHIPS: Final = MappingProxyType(
    {
        0x0000: "esp32",
        0x0002: "esp32s2",
        0x0005: "esp32c3",
        0x0009: "esp32s3",
        0x000C: "esp32c2",
        0x000D: "esp32c6",
        0x0010: "esp32h2",
        0x0012: "esp32p4",
        0x0014: "esp32c61",
        0x0017: "esp32c5",
    }
)
"""Chip id of the header: the name of the chip, as devices tell theirs."""

_HEADER = struct.Struct("<BB10xH9xB")
_SEGMENT = struct.Struct("<II")
_DESCRIPTION = struct.Struct("<I12x32s32s")
_IMAGE_MAGIC = 0xE9
_DESCRIPTION_MAGIC = 0xABCD5432
_HASH_BYTES = 32


class ImageError(ValueError):
    """The file is nothing to be installed. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says of itself. ``chip`` is empty for a chip id that is not in :data:`CHIPS`."""

    version: str
    project: str
    chip: str


def inspect_image(data: bytes) -> Image:
    """The description of a whole application image. Raises ImageError."""
    if not data or data[0] != _IMAGE_MAGIC:
        raise ImageError("it is no ESP32 image: its first byte is not E9")
    if len(data) < _HEADER.size + _SEGMENT.size + _DESCRIPTION.size:
        raise ImageError("it is cut off in the header")
    magic, version, project = _DESCRIPTION.unpack_from(data, _HEADER.size + _SEGMENT.size)
    if magic != _DESCRIPTION_MAGIC:
        raise ImageError(
            "it is an ESP32 image without an application at its start, such as a bootloader or a merged image: "
            "take the application alone (xiaozhi.bin of the build, not merged-binary.bin)"
        )
    _, _, chip_id, _ = _HEADER.unpack_from(data)
    _check_whole(data)
    return Image(_text(version), _text(project), CHIPS.get(chip_id, ""))


def _check_whole(data: bytes) -> None:
    _, segments, _, hashed = _HEADER.unpack_from(data)
    if not 1 <= segments <= MAX_SEGMENTS:
        raise ImageError(f"its header is damaged: it tells of {segments} segments")
    end = _HEADER.size
    for _ in range(segments):
        if end + _SEGMENT.size > len(data):
            raise ImageError("it is cut off: is it still being copied?")
        end += _SEGMENT.size + _SEGMENT.unpack_from(data, end)[1]
    end += 16 - end % 16  # the checksum is the last byte of the last sixteen
    if end + (_HASH_BYTES if hashed else 0) > len(data):
        raise ImageError("it is cut off: is it still being copied?")
    if hashed and hashlib.sha256(memoryview(data)[:end]).digest() != data[end : end + _HASH_BYTES]:
        raise ImageError("it is damaged: its SHA-256 does not fit; copy it again")


def _text(field: bytes) -> str:
    return "".join(chr(byte) for byte in field.partition(b"\0")[0] if 32 <= byte < 127)
