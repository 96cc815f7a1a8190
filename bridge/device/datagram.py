"""The device's side of the audio datagram (pure). Written from the wire, on purpose not from the server's packet code.

::

     0      1      2-3        4-7       8-11         12-15       16..
     type=1 flags  len BE16   ssrc BE32 timestamp    sequence    AES-128-CTR(Opus packet)

The 16 header bytes as transmitted are the initial counter block (big endian, NIST SP 800-38A §6.5). A client that has asked for
it uses AES-128-GCM instead (docs/wire-aead.md): the header is associated data, a tag of 16 bytes ends the payload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HEADER_BYTES: Final = 16
MAX_DATAGRAM_BYTES: Final = 1500
"""The receive buffer of the firmware: what is longer arrives cut, hence with a wrong length."""

_HEADER: Final = struct.Struct(">BBHIII")
_UINT32: Final = 0xFFFFFFFF

Rejected: TypeAlias = Literal["short", "type", "length", "sequence", "tag"]
_TAG_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Received:
    """A downlink packet that passed the checks: plaintext (not necessarily Opus: a wrong key gives noise) and header facts."""

    opus: bytes
    timestamp: int
    sequence: int


class Uplink:
    """Seals microphone packets. The sequence starts at 1 and advances even for packets that are never sent."""

    __slots__ = ("_cipher", "_flags", "_gcm", "_nonce_timestamp", "_ssrc", "_type", "sequence")

    def __init__(self, key: bytes, nonce: bytes, *, keeps_nonce_timestamp: bool = False, aead: bool = False) -> None:
        self._gcm = AESGCM(key) if aead else None
        self._type, self._flags, _, self._ssrc, nonce_timestamp, _ = _HEADER.unpack(nonce)
        self._nonce_timestamp = nonce_timestamp if keeps_nonce_timestamp else None
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self.sequence = 0

    def seal(self, opus: bytes, timestamp: int = 0) -> bytes:
        """The datagram for one Opus packet of at most 65,535 bytes."""
        self.sequence = (self.sequence + 1) & _UINT32
        if self._nonce_timestamp is not None:
            timestamp = self._nonce_timestamp
        length = len(opus) + (_TAG_BYTES if self._gcm is not None else 0)
        header = _HEADER.pack(self._type, self._flags, length, self._ssrc, timestamp, self.sequence)
        if self._gcm is not None:
            return header + self._gcm.encrypt(_gcm_nonce(header), opus, header)
        self._cipher.reset_nonce(header)
        return header + self._cipher.update(opus)


class Downlink:
    """Checks and opens what the server sends. ``lost`` counts holes in the sequence, as the firmware logs them."""

    __slots__ = ("_checks", "_cipher", "_equal_accepted", "_gcm", "last_sequence", "lost")

    def __init__(self, key: bytes, *, checks: bool = True, equal_sequence_accepted: bool = False, aead: bool = False) -> None:
        self._gcm = AESGCM(key) if aead else None
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).decryptor()
        self._checks = checks
        self._equal_accepted = equal_sequence_accepted
        self.last_sequence = 0
        self.lost = 0

    def open(self, datagram: bytes) -> Received | Rejected:
        """The packet, or why the firmware drops it. Any accepted sequence becomes the last one: without AEAD nothing is authenticated."""
        if len(datagram) < HEADER_BYTES:
            return "short"
        datagram = datagram[:MAX_DATAGRAM_BYTES]
        kind, _, length, _, timestamp, sequence = _HEADER.unpack_from(datagram)
        if self._checks:
            if kind != 1:
                return "type"
            if length != len(datagram) - HEADER_BYTES:
                return "length"
            if sequence < self.last_sequence or (sequence == self.last_sequence and not self._equal_accepted):
                return "sequence"
        opus = self._plaintext(datagram)
        if opus is None:
            return "tag"
        self.lost += max(sequence - self.last_sequence - 1, 0)
        self.last_sequence = sequence
        return Received(opus, timestamp, sequence)

    def _plaintext(self, datagram: bytes) -> bytes | None:
        header, body = datagram[:HEADER_BYTES], datagram[HEADER_BYTES:]
        if self._gcm is None:
            self._cipher.reset_nonce(header)
            return self._cipher.update(body)
        try:
            return self._gcm.decrypt(_gcm_nonce(header), body, header) if len(body) >= _TAG_BYTES else None
        except InvalidTag:
            return None


def _gcm_nonce(header: bytes) -> bytes:
    """Type, flags, two zeros, ssrc (or the server's counter), sequence."""
    return header[0:2] + bytes(2) + header[4:8] + header[12:16]
