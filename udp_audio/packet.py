"""The 16-byte header in front of every audio datagram.

    0      1      2-3        4-7       8-11         12-15       16..
    type=1 flags  len BE16   ssrc BE32 timestamp    sequence    AES-128-CTR(one Opus packet)

The header travels in clear and is, as transmitted, the initial counter block of the cipher. The device copies bytes 0, 1
and 4..7 of its uplink headers (old firmware also 8..11) from the nonce that the hello reply gave it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

HEADER_BYTES: Final = 16
PACKET_TYPE: Final = 0x01
UPLINK_FLAGS: Final = 0x00
"""Flags of the nonce we issue, hence of every honest uplink packet."""
DOWNLINK_FLAGS: Final = 0x80
"""Never issued in a nonce: the counter blocks of the two directions cannot meet."""

MIN_DATAGRAM_BYTES: Final = HEADER_BYTES + 1
MAX_DATAGRAM_BYTES: Final = 2048
MAX_DOWNLINK_PAYLOAD_BYTES: Final = 1400 - HEADER_BYTES
"""4G modems choke on larger datagrams, and the device's receive buffer is 1500 bytes."""

_HEADER: Final = struct.Struct(">BBHIII")
_MASK_32: Final = 0xFFFF_FFFF


class Header(NamedTuple):
    """One parsed header. A named tuple and not a dataclass: one is made for every datagram."""

    type: int
    flags: int
    length: int
    """Bytes of payload."""
    ssrc: int
    timestamp: int
    """Milliseconds; 0 from most devices."""
    sequence: int
    """1, 2, 3 … in each direction of one session."""

    def to_bytes(self) -> bytes:
        """The 16 bytes on the wire. Raises ``struct.error`` if a field does not fit."""
        return _HEADER.pack(*self)


def parse(datagram: bytes) -> Header | None:
    """The header of a well-formed datagram, else None. Never raises.

    Well-formed: 17..2048 bytes, type 1, and ``length`` counts exactly the bytes after the header.
    """
    size = len(datagram)
    if not MIN_DATAGRAM_BYTES <= size <= MAX_DATAGRAM_BYTES:
        return None
    header = Header._make(_HEADER.unpack_from(datagram))
    if header.type != PACKET_TYPE or header.length != size - HEADER_BYTES:
        return None
    return header


def uplink_nonce(ssrc: int) -> bytes:
    """The nonce for the hello reply: ``01 00 0000 ssrc 00000000 00000000``.

    Zeros in bytes 8..11 make firmware that keeps them equal to firmware that writes a timestamp of 0.
    """
    return _HEADER.pack(PACKET_TYPE, UPLINK_FLAGS, 0, ssrc, 0, 0)


def downlink_header(*, length: int, counter: int, timestamp_ms: int, sequence: int) -> bytes:
    """The header of a packet to the device: ``01 80 len ctr32 ts seq``.

    ``counter`` stands where the uplink has the ssrc (devices ignore it there) and must never repeat under one key: block
    ``i`` of a packet is enciphered with header + i, which stays inside the 64 low bits, so different upper halves
    mean that no two packets share a counter block. ``timestamp_ms`` and ``counter`` wrap at 32 bits.
    """
    return _HEADER.pack(PACKET_TYPE, DOWNLINK_FLAGS, length, counter & _MASK_32, timestamp_ms & _MASK_32, sequence)
