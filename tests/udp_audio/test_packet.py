from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udp_audio.packet import Header, downlink_header, parse, uplink_nonce

# type 1, flags 0, 4 bytes of payload, ssrc 89abcdef, timestamp 0x000004d2, sequence 7
BY_HAND = bytes.fromhex("01 00 0004 89abcdef 000004d2 00000007") + b"\xaa\xbb\xcc\xdd"


def test_header_by_hand() -> None:
    assert parse(BY_HAND) == Header(type=1, flags=0, length=4, ssrc=0x89ABCDEF, timestamp=1234, sequence=7)
    assert Header(type=1, flags=0, length=4, ssrc=0x89ABCDEF, timestamp=1234, sequence=7).to_bytes() == BY_HAND[:16]


def test_check_033_nonce_by_hand() -> None:
    assert uplink_nonce(0x89ABCDEF) == bytes.fromhex("01000000 89abcdef 00000000 00000000")


def test_check_075_downlink_header_by_hand() -> None:
    header = downlink_header(length=300, counter=0x1_0000_0002, timestamp_ms=2**32 + 5, sequence=1)
    assert header == bytes.fromhex("01 80 012c 00000002 00000005 00000001")


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x01",
        BY_HAND[:15],
        bytes.fromhex("01 00 0000 89abcdef 00000000 00000007"),  # no payload
        b"\x02" + BY_HAND[1:],
        BY_HAND + b"\x00",
        BY_HAND[:-1],
        bytes.fromhex("01 00 07f1 89abcdef 00000000 00000007") + bytes(2033),  # 2049 bytes
    ],
)
def test_check_071_malformed_datagrams(datagram: bytes) -> None:
    assert parse(datagram) is None


def test_largest_datagram() -> None:
    header = parse(bytes.fromhex("01 00 07f0 89abcdef 00000000 00000007") + bytes(2032))
    assert header is not None
    assert header.length == 2032


@settings(deadline=None)
@given(st.binary(max_size=2100))
def test_parse_never_raises_and_never_invents(datagram: bytes) -> None:
    header = parse(datagram)
    if header is not None:
        assert header.to_bytes() == datagram[:16]
        assert header.length == len(datagram) - 16


WORD = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=1300), st.integers(0, 255), WORD, WORD, WORD)
def test_parse_reads_every_field(payload: bytes, flags: int, ssrc: int, timestamp: int, sequence: int) -> None:
    datagram = bytes([1, flags]) + len(payload).to_bytes(2, "big")
    datagram += ssrc.to_bytes(4, "big") + timestamp.to_bytes(4, "big") + sequence.to_bytes(4, "big") + payload
    assert parse(datagram) == (1, flags, len(payload), ssrc, timestamp, sequence)
