"""ESP32 images, put together byte by byte from the published format of application images."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

ESP32, ESP32S3 = 0, 9


def image(
    version: str = "2.5.0",
    *,
    project: str = "xiaozhi",
    chip_id: int = ESP32S3,
    filling: int = 1000,
    hashed: bool = True,
    description: bool = True,
) -> bytes:
    """A whole image of two segments; the first begins with the application's description."""
    described = struct.pack("<IIII", 0xABCD5432, 0, 0, 0) + version.encode().ljust(32, b"\0") + project.encode().ljust(32, b"\0")
    first = (described if description else b"\x50" * len(described)).ljust(256, b"\0") + bytes(filling)
    header = struct.pack("<BBBBI", 0xE9, 2, 2, 0x4F, 0x40376AC4) + b"\xee\0\0\0" + struct.pack("<H", chip_id) + bytes(9) + bytes([hashed])
    data = header
    for address, content in ((0x3C000020, first), (0x40374000, b"\x11" * 64)):
        data += struct.pack("<II", address, len(content)) + content
    data += bytes(15 - len(data) % 16) + b"\xef"
    return data + hashlib.sha256(data).digest() if hashed else data


def put(directory: Path, board: str, version: str, data: bytes | None = None) -> Path:
    """The image as the operator would place it; by default one of that version."""
    path = directory / "firmware" / board / f"{version}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image(version) if data is None else data)
    return path
