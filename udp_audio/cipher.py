"""AES-128-CTR over one datagram, the header as it is transmitted being the initial counter block."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from udp_audio.packet import HEADER_BYTES

KEY_BYTES = 16


class SessionCipher:
    """Both directions of one session's key.

    Two cipher contexts are kept and only get a new nonce a packet: a new context for each costs ten times as much. They
    are never finalized. The protocol has no integrity check: what :meth:`decrypt` returns for a forged packet is noise.
    """

    __slots__ = ("_decryptor", "_encryptor")

    def __init__(self, key: bytes) -> None:
        """``key``: 16 bytes, else ValueError."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"the session key has {len(key)} bytes instead of {KEY_BYTES}")
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
