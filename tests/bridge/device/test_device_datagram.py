"""Audio datagrams against bytes made by hand and the counter-mode vectors of NIST SP 800-38A F.5.1."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from bridge.device.datagram import Downlink, Received, Uplink
from tests.bridge.device.gateway import ctr

# NIST SP 800-38A, F.5.1 CTR-AES128.Encrypt
NIST_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAIN = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
NIST_CIPHER = bytes.fromhex("874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff")
KEY = bytes(range(16))
NONCE = bytes.fromhex("01070000a1b2c3d41122334400000000")


def test_the_tests_own_counter_mode_is_that_of_nist() -> None:
    assert ctr(NIST_KEY, NIST_COUNTER, NIST_PLAIN) == NIST_CIPHER


def test_downlink_opens_the_nist_vector() -> None:
    """The initial counter block is the header as received, whatever stands in it."""
    assert Downlink(NIST_KEY, checks=False).open(NIST_COUNTER + NIST_CIPHER) == Received(NIST_PLAIN, 0xF8F9FAFB, 0xFCFDFEFF)


def test_uplink_header_takes_type_flags_and_ssrc_from_the_nonce() -> None:
    uplink = Uplink(KEY, NONCE)
    first, second = uplink.seal(b"abcde"), uplink.seal(b"x", timestamp=0x01020304)
    assert first[:16] == bytes.fromhex("01070005a1b2c3d40000000000000001")
    assert second[:16] == bytes.fromhex("01070001a1b2c3d40102030400000002")
    assert ctr(KEY, first[:16], first[16:]) == b"abcde"


def test_old_clients_keep_nonce_bytes() -> None:
    assert Uplink(KEY, NONCE, keeps_nonce_timestamp=True).seal(b"x", timestamp=9)[8:12] == bytes.fromhex("11223344")


def packet(sequence: int, *, kind: int = 1, length: int | None = None, payload: bytes = b"opus") -> bytes:
    header = struct.pack(">BBHIII", kind, 0x80, len(payload) if length is None else length, 0, 0, sequence)
    return header + ctr(KEY, header, payload)


def test_downlink_order() -> None:
    downlink = Downlink(KEY)
    assert downlink.open(packet(0)) == "sequence", "the first sequence is at least 1"
    assert downlink.open(packet(2)) == Received(b"opus", 0, 2)
    assert downlink.open(packet(2)) == "sequence"
    assert downlink.open(packet(5)) == Received(b"opus", 0, 5)
    assert downlink.lost == 3
    assert Downlink(KEY, equal_sequence_accepted=True).open(packet(0)) == Received(b"opus", 0, 0)


def test_a_datagram_above_the_receive_buffer_is_cut_and_so_has_a_wrong_length() -> None:
    assert Downlink(KEY).open(packet(1, payload=bytes(1485))) == "length"
    assert isinstance(Downlink(KEY).open(packet(1, payload=bytes(1484))), Received)


def test_a_wrong_key_is_not_noticed_and_advances_the_sequence() -> None:
    downlink = Downlink(NIST_KEY)
    opened = downlink.open(packet(9))
    assert isinstance(opened, Received)
    assert opened.opus != b"opus"
    assert downlink.open(packet(8)) == "sequence"


@given(st.lists(st.binary(max_size=1600), max_size=20))
def test_any_bytes_are_survived(datagrams: list[bytes]) -> None:
    downlink = Downlink(KEY)
    for datagram in datagrams:
        downlink.open(datagram)
