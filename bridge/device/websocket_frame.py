"""The device's side of the binary WebSocket messages (pure), as its three structs. On purpose not from the server's framing.

::

    version 2   uint16 version, type; uint32 reserved, timestamp, payload_size; then the payload   (big endian)
    version 3   uint8 type, reserved; uint16 payload_size; then the payload
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from bridge.device.datagram import Received

Rejected: TypeAlias = Literal["short", "type", "length"]

_V2_HEADER_BYTES: Final = 16
_V3_HEADER_BYTES: Final = 4


def pack(opus: bytes, *, version: int, timestamp: int = 0) -> bytes:
    """What the device sends for one microphone packet; other versions than 2 and 3 are raw Opus, as in the firmware."""
    size = len(opus)
    if version == 2:
        return b"\x00\x02\x00\x00\x00\x00\x00\x00" + timestamp.to_bytes(4, "big") + size.to_bytes(4, "big") + opus
    if version == 3:
        return b"\x00\x00" + size.to_bytes(2, "big") + opus
    return opus


def unpack(message: bytes, *, version: int, sequence: int) -> Received | Rejected:
    """The packet in a message, or why hardware would be in trouble: it reads ``payload_size`` bytes whatever has come."""
    if version not in {2, 3}:
        return Received(message, 0, sequence)
    header_bytes = _V2_HEADER_BYTES if version == 2 else _V3_HEADER_BYTES
    if len(message) < header_bytes:
        return "short"
    kind = int.from_bytes(message[2:4], "big") if version == 2 else message[0]
    size = int.from_bytes(message[header_bytes - (4 if version == 2 else 2) : header_bytes], "big")
    if kind != 0:
        return "type"
    if size != len(message) - header_bytes:
        return "length"
    timestamp = int.from_bytes(message[8:12], "big") if version == 2 else 0
    return Received(message[header_bytes:], timestamp, sequence)
