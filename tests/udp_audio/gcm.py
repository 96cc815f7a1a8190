"""AES-128-GCM from single AES blocks, after NIST SP 800-38D §6.3-§7.1: slow, and nothing in common with the library's."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_R = 0xE1 << 120


def _block(key: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data)  # noqa: S305 - the building block


def _times(x: int, y: int) -> int:
    """Multiplication in GF(2**128), §6.3."""
    z, v = 0, y
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= v
        v = v >> 1 ^ (_R if v & 1 else 0)
    return z


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def _keystream(key: bytes, nonce: bytes, size: int) -> bytes:
    return b"".join(_block(key, nonce + number.to_bytes(4, "big")) for number in range(2, 2 + (size + 15) // 16))[:size]


def _tag(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    h = int.from_bytes(_block(key, bytes(16)), "big")
    text = _padded(associated) + _padded(ciphertext) + (len(associated) * 8).to_bytes(8, "big") + (len(ciphertext) * 8).to_bytes(8, "big")
    y = 0
    for start in range(0, len(text), 16):
        y = _times(y ^ int.from_bytes(text[start : start + 16], "big"), h)
    mask = int.from_bytes(_block(key, nonce + bytes.fromhex("00000001")), "big")
    return (y ^ mask).to_bytes(16, "big")


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Ciphertext and tag; the nonce has 12 bytes."""
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, _keystream(key, nonce, len(plaintext)), strict=True))
    return ciphertext + _tag(key, nonce, ciphertext, associated)


def unseal(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The plaintext; AssertionError when the tag does not fit."""
    ciphertext = sealed[:-16]
    assert sealed[-16:] == _tag(key, nonce, ciphertext, associated)
    return bytes(a ^ b for a, b in zip(ciphertext, _keystream(key, nonce, len(ciphertext)), strict=True))
