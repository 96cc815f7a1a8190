"""The two ciphers of a datagram: AES-128-CTR, which every device speaks, and AES-128-GCM for those that ask for it."""

from __future__ import annotations

from typing import Final, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from udp_audio.packet import HEADER_BYTES

KEY_BYTES = 16
TAG_BYTES: Final = 16

Encryption = Literal["aes-128-ctr", "aes-128-gcm"]
"""What ``udp.encryption`` of the hello reply says."""
AEAD: Final[tuple[Encryption, ...]] = ("aes-128-gcm",)
"""The authenticated ones, best first."""


class DatagramCipher(Protocol):
    """Both directions of one session's key."""

    @property
    def authenticated(self) -> bool:
        """Whether what :meth:`decrypt` returns is known to come from the device."""

    @property
    def overhead_bytes(self) -> int:
        """How much longer than the plaintext the payload is; the header's length counts it."""

    def decrypt(self, datagram: bytes) -> bytes | None:
        """The plaintext behind the 16 bytes of header; None when it is forged or damaged, as far as that can be told."""

    def encrypt(self, header: bytes, payload: bytes) -> bytes:
        """The whole datagram: the 16 bytes of ``header`` in clear, then the enciphered ``payload``."""


def datagram_cipher(encryption: Encryption, key: bytes) -> DatagramCipher:
    """``key``: 16 bytes, else ValueError."""
    return GcmCipher(key) if encryption == "aes-128-gcm" else SessionCipher(key)


class SessionCipher:
    """AES-128-CTR, the header as it is transmitted being the initial counter block.

    Two cipher contexts are kept and only get a new nonce a packet: a new context for each costs ten times as much. They
    are never finalized. The protocol has no integrity check: what :meth:`decrypt` returns for a forged packet is noise.
    """

    __slots__ = ("_decryptor", "_encryptor")

    authenticated = False
    overhead_bytes = 0

    def __init__(self, key: bytes) -> None:
        """``key``: 16 bytes, else ValueError."""
        _check_key(key)
        algorithm = algorithms.AES(key)
        self._encryptor = Cipher(algorithm, modes.CTR(bytes(16))).encryptor()
        self._decryptor = Cipher(algorithm, modes.CTR(bytes(16))).decryptor()

    def decrypt(self, datagram: bytes) -> bytes:
        """The plaintext behind the header. ``datagram`` has at least 16 bytes (:func:`udp_audio.packet.parse` saw to it)."""
        self._decryptor.reset_nonce(datagram[:HEADER_BYTES])
        return self._decryptor.update(datagram[HEADER_BYTES:])

    def encrypt(self, header: bytes, payload: bytes) -> bytes:
        """The whole datagram: the 16 bytes of ``header`` in clear, then the enciphered ``payload``."""
        self._encryptor.reset_nonce(header)
        return header + self._encryptor.update(payload)


class GcmCipher:
    """AES-128-GCM (NIST SP 800-38D); docs/wire-aead.md is the specification.

    The header is associated data, the tag follows the ciphertext. The nonce is header bytes 0..1, two zeros, bytes 4..7 and
    bytes 12..15: type and flags keep the directions apart, the sequence number keeps the packets of a direction apart.
    """

    __slots__ = ("_gcm",)

    authenticated = True
    overhead_bytes = TAG_BYTES

    def __init__(self, key: bytes) -> None:
        """``key``: 16 bytes, else ValueError."""
        _check_key(key)
        self._gcm = AESGCM(key)

    def decrypt(self, datagram: bytes) -> bytes | None:
        """The plaintext, or None when the tag does not fit: a bit of header, payload or tag is not what was sent."""
        if len(datagram) < HEADER_BYTES + TAG_BYTES:
            return None
        header = datagram[:HEADER_BYTES]
        try:
            return self._gcm.decrypt(_nonce(header), datagram[HEADER_BYTES:], header)
        except InvalidTag:
            return None

    def encrypt(self, header: bytes, payload: bytes) -> bytes:
        """The whole datagram: header, ciphertext, tag. No two calls may have a header with the same sequence and flags."""
        return header + self._gcm.encrypt(_nonce(header), payload, header)


def _nonce(header: bytes) -> bytes:
    return header[0:2] + b"\0\0" + header[4:8] + header[12:16]


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"the session key has {len(key)} bytes instead of {KEY_BYTES}")
