"""The binary messages of the WebSocket transport, in their three versions (device protocol §13). Pure.

::

    version 1   Opus packet, nothing else
    version 2   version BE16 = 2 | type BE16 | reserved BE32 | timestamp BE32 | size BE32 | payload
    version 3   type 8 | reserved 8 | size BE16 | payload

One message carries one packet. Type 0 is Opus and the only one that devices send. Devices do not check ``size`` against what
they received, so what goes out is exact; what comes in must be exact, too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeGuard

FrameVersion: TypeAlias = Literal[1, 2, 3]

MAX_MESSAGE_BYTES: Final = 65536
"""Devices send messages below this, in one WebSocket frame."""
MAX_PAYLOAD_BYTES: Final = 1384
"""Largest packet to a device, as over UDP."""
TYPE_OPUS: Final = 0

_V2: Final = struct.Struct(">HHIII")
_V3: Final = struct.Struct(">BBH")
_UINT32: Final = 0xFFFFFFFF


class FrameError(ValueError):
    """A binary message is not what its version says. The sentence holds nothing of the message's content."""


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """One Opus packet. ``timestamp_ms`` is 0 where the version has none."""

    opus: bytes
    timestamp_ms: int = 0


def is_frame_version(number: int) -> TypeGuard[FrameVersion]:
    """Whether there is such a version."""
    return number in {1, 2, 3}


def encode(opus: bytes, *, version: FrameVersion, timestamp_ms: int = 0) -> bytes:
    """The message for one packet. Raises ValueError if the packet is empty or over 1384 bytes."""
    if not 0 < len(opus) <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"a binary message to a device cannot carry {len(opus)} bytes")
    match version:
        case 1:
            return opus
        case 2:
            return _V2.pack(2, TYPE_OPUS, 0, timestamp_ms & _UINT32, len(opus)) + opus
        case 3:
            return _V3.pack(TYPE_OPUS, 0, len(opus)) + opus


def decode(message: bytes, *, version: FrameVersion) -> AudioFrame:
    """The packet in one message; it may be any bytes, though not none. Raises FrameError and nothing else."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise FrameError(f"{len(message)} bytes are more than a device sends")
    match version:
        case 1:
            frame = AudioFrame(message)
        case 2:
            frame = _decode_v2(message)
        case 3:
            frame = _decode_v3(message)
    if not frame.opus:
        raise FrameError("there is no payload")
    return frame


def _decode_v2(message: bytes) -> AudioFrame:
    if len(message) < _V2.size:
        raise FrameError(f"{len(message)} bytes are less than a header of version 2")
    version, kind, _, timestamp_ms, size = _V2.unpack_from(message)
    if version != 2:
        raise FrameError(f"the header says version {version}, not 2")
    return AudioFrame(_payload(message, _V2.size, kind, size), timestamp_ms)


def _decode_v3(message: bytes) -> AudioFrame:
    if len(message) < _V3.size:
        raise FrameError(f"{len(message)} bytes are less than a header of version 3")
    kind, _, size = _V3.unpack_from(message)
    return AudioFrame(_payload(message, _V3.size, kind, size))


def _payload(message: bytes, header_bytes: int, kind: int, size: int) -> bytes:
    if kind != TYPE_OPUS:
        raise FrameError(f"type {kind} is not audio")
    if size != len(message) - header_bytes:
        raise FrameError(f"the header says {size} bytes, {len(message) - header_bytes} follow")
    return message[header_bytes:]
