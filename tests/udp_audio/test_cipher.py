from __future__ import annotations

import pytest

from tests.udp_audio.stand_in import aes_ctr
from udp_audio.cipher import SessionCipher

# NIST SP 800-38A, F.5.1 CTR-AES128.Encrypt
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
PLAINTEXT = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51 30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710"
)
CIPHERTEXT = bytes.fromhex(
    "874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff 5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee"
)


def test_nist_vector_both_ways() -> None:
    cipher = SessionCipher(KEY)
    assert cipher.encrypt(COUNTER, PLAINTEXT) == COUNTER + CIPHERTEXT
    assert cipher.decrypt(COUNTER + CIPHERTEXT) == PLAINTEXT


def test_kept_contexts_carry_nothing_over() -> None:
    cipher = SessionCipher(KEY)
    for length in (1, 15, 16, 17, 100, 1384):
        header = bytes([length % 256]) * 16
        assert cipher.encrypt(header, bytes(length)) == header + aes_ctr(KEY, header, bytes(length))
        assert cipher.encrypt(COUNTER, PLAINTEXT[:5]) == COUNTER + CIPHERTEXT[:5]
        assert cipher.decrypt(COUNTER + CIPHERTEXT[:33]) == PLAINTEXT[:33]


def test_wrong_key_length() -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        SessionCipher(bytes(8))
