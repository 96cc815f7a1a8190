"""The authenticated mode. What the device sends is sealed by tests/udp_audio/gcm.py, which shares nothing with our own code."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.udp_audio import gcm
from tests.udp_audio.stand_in import SILENCE_60_MS
from udp_audio.address import Address
from udp_audio.channel import ChannelCore
from udp_audio.cipher import GcmCipher, datagram_cipher
from udp_audio.packet import parse

KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
SSRC = 0x89ABCDEF
HOME, AWAY, ELSEWHERE = ("192.0.2.7", 4000), ("198.51.100.9", 4000), ("203.0.113.5", 4000)


def test_the_stand_in_by_the_vector_of_the_gcm_specification() -> None:
    # McGrew and Viega, The Galois/Counter Mode of Operation, appendix B, test case 4
    key, nonce = bytes.fromhex("feffe9928665731c6d6a8f9467308308"), bytes.fromhex("cafebabefacedbaddecaf888")
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    assert gcm.seal(key, nonce, plaintext, associated).hex() == (
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        "5bc94fbc3221a5db94fae95ae7121a47"
    )


def channel() -> ChannelCore:
    return ChannelCore(ssrc=SSRC, key=KEY, frame_ms=60, mqtt_ip=None, counter_start=0xFFFF_FFFE, now=0.0, encryption="aes-128-gcm")


def sealed(sequence: int, opus: bytes = SILENCE_60_MS, *, timestamp: int = 0, key: bytes = KEY) -> bytes:
    """As docs/wire-aead.md says, by hand."""
    header = bytes.fromhex("0100") + (len(opus) + 16).to_bytes(2, "big") + bytes.fromhex("89abcdef")
    header += timestamp.to_bytes(4, "big") + sequence.to_bytes(4, "big")
    nonce = bytes.fromhex("0100 0000 89abcdef") + sequence.to_bytes(4, "big")
    return header + gcm.seal(key, nonce, opus, header)


def deliver(core: ChannelCore, datagram: bytes, address: Address = HOME, now: float = 0.0) -> None:
    header = parse(datagram)
    if header is not None:
        core.receive(header, datagram, address, now)


def state(core: ChannelCore) -> object:
    """Everything that a packet may change, but for the counters."""
    return (
        core._replay.highest,
        core._replay._bitmap,
        core.address.current,
        core.address._guessed,
        core.address._blocked_until,
        core.last_received_at,
        core.has_frames,
        core.deadline,
        dataclasses.asdict(core.stats.reception),
        dict(core._runs),
    )


def test_uplink_by_hand() -> None:
    core = channel()
    deliver(core, sealed(1, timestamp=420), now=1.5)
    (frame,) = core.take()
    assert (frame.opus, frame.sequence, frame.timestamp_ms) == (SILENCE_60_MS, 1, 420)
    assert core.address.peer == HOME


def test_downlink_by_hand() -> None:
    core = channel()
    deliver(core, sealed(1))
    first, second, third = (core.send(b"opus", timestamp_ms=60 * number) for number in (1, 2, 3))
    assert first is not None
    assert second is not None
    assert third is not None
    # type, flags, length with the tag, counter, timestamp, sequence
    assert first[:16].hex() == "01800014ffffffff0000003c00000001"
    assert second[:16].hex() == "01800014000000000000007800000002"
    for datagram in (first, second, third):
        nonce = datagram[0:2] + bytes(2) + datagram[4:8] + datagram[12:16]
        assert gcm.unseal(KEY, nonce, datagram[16:], datagram[:16]) == b"opus"


def test_no_nonce_is_used_twice() -> None:
    core = channel()
    deliver(core, sealed(1))
    datagrams = [core.send(b"same", timestamp_ms=0) for _ in range(2000)] + [sealed(number) for number in range(1, 50)]
    nonces = {datagram[0:2] + datagram[4:8] + datagram[12:16] for datagram in datagrams if datagram}
    assert len(nonces) == len(datagrams)


def test_every_bit_is_protected() -> None:
    core = channel()
    deliver(core, sealed(1))
    core.take()
    before = state(core)
    genuine = sealed(2)
    for bit in range(len(genuine) * 8):
        damaged = bytearray(genuine)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        for address in (HOME, AWAY):
            deliver(core, bytes(damaged), address)
            assert state(core) == before, bit
    assert core.stats.forged == (36 * 8 - 24 - 1) * 2  # type and length are looked at before; one bit makes it number 0
    deliver(core, genuine)
    assert [frame.sequence for frame in core.take()] == [2]


@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=1, max_size=80), st.integers(0, 2**32 - 1))
def test_noise_changes_nothing(body: bytes, sequence: int) -> None:
    core = channel()
    deliver(core, sealed(1))
    before = state(core)
    header = bytes.fromhex("0100") + len(body).to_bytes(2, "big") + bytes.fromhex("89abcdef00000000") + sequence.to_bytes(4, "big")
    deliver(core, header + body, AWAY)
    assert state(core) == before


def test_a_cut_or_foreign_packet_is_forged() -> None:
    core = channel()
    deliver(core, bytes.fromhex("0100 000f 89abcdef 00000000 00000001") + bytes(15))
    deliver(core, bytes.fromhex("0100 0010 89abcdef 00000000 00000001") + bytes(16))
    deliver(core, sealed(1, key=bytes(16)))
    assert core.stats.forged == 3
    assert core.address.peer is None


def test_the_replay_window_stands() -> None:
    core = channel()
    for sequence in (1, 2, 4):
        deliver(core, sealed(sequence))
    before = state(core)
    for sequence in (1, 2, 4):
        deliver(core, sealed(sequence), AWAY)
    assert state(core) == before
    assert core.stats.duplicates == 3
    deliver(core, sealed(3))
    assert [frame.sequence for frame in core.take()] == [1, 2, 3, 4]


def test_an_address_moves_with_one_packet_whatever_was_tried_before() -> None:
    core = channel()
    deliver(core, sealed(1))
    for number in range(100):
        deliver(core, sealed(2, key=bytes(16)), ("203.0.113.9", number))
    for sequence, address in ((2, AWAY), (3, ELSEWHERE), (4, HOME)):
        deliver(core, sealed(sequence), address, now=0.01)
        assert core.address.peer == address
    deliver(core, sealed(6), AWAY)
    deliver(core, sealed(5), HOME)  # overtaken: no news of where the device is
    assert core.address.peer == AWAY
    assert core.stats.address_moves == 4


def test_a_jump_is_believed_at_once() -> None:
    core = channel()
    deliver(core, sealed(1))
    deliver(core, sealed(50_000), now=0.1)
    core.poll(1.0)
    assert [frame.sequence for frame in core.take()] == [1, 50_000]


def test_authentic_but_not_opus_as_announced() -> None:
    core = channel()
    deliver(core, sealed(1))
    deliver(core, sealed(2, b"\xff" * 20), AWAY)
    assert [frame.sequence for frame in core.take()] == [1]
    assert core.stats.implausible == 1
    assert core.address.peer == AWAY  # it came from the device all the same


@pytest.mark.parametrize(("size", "fits"), [(1368, True), (1369, False)])
def test_check_065_the_tag_counts(size: int, fits: bool) -> None:
    core = channel()
    deliver(core, sealed(1))
    if fits:
        datagram = core.send(bytes(size), timestamp_ms=0)
        assert datagram is not None
        assert len(datagram) == 1400
    else:
        with pytest.raises(ValueError, match="cannot carry"):
            core.send(bytes(size), timestamp_ms=0)


@pytest.mark.parametrize("encryption", ["aes-128-ctr", "aes-128-gcm"])
def test_keys_have_16_bytes(encryption: str) -> None:
    with pytest.raises(ValueError, match="instead of 16"):
        datagram_cipher(encryption, bytes(15))  # type: ignore[arg-type]
    assert GcmCipher(KEY).authenticated
