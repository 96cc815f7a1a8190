from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.udp_audio.stand_in import DTX_60_MS, SILENCE_60_MS, aes_ctr, counter_blocks, read_downlink, uplink
from udp_audio.address import Address
from udp_audio.channel import ChannelCore, UplinkFrame
from udp_audio.packet import parse

KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
SSRC = 0x89ABCDEF
NONCE = bytes.fromhex("01000000 89abcdef 00000000 00000000")
HOME, REBOUND = ("192.0.2.7", 4000), ("192.0.2.7", 4999)
AWAY, ELSEWHERE = ("198.51.100.9", 4000), ("203.0.113.5", 4000)
NOT_OPUS = b"\xff" * 20  # stereo


def channel(*, mqtt_ip: str | None = "192.0.2.7", frame_ms: int = 60, counter_start: int = 0xFFFF_FFF0) -> ChannelCore:
    return ChannelCore(ssrc=SSRC, key=KEY, frame_ms=frame_ms, mqtt_ip=mqtt_ip, counter_start=counter_start, now=0.0)


def deliver(core: ChannelCore, datagram: bytes, address: Address = HOME, now: float = 0.0) -> None:
    header = parse(datagram)
    assert header is not None
    core.receive(header, datagram, address, now)


def say(core: ChannelCore, sequence: int, address: Address = HOME, now: float = 0.0, opus: bytes = SILENCE_60_MS) -> None:
    deliver(core, uplink(KEY, NONCE, sequence, opus), address, now)


def heard(core: ChannelCore) -> list[int]:
    return [frame.sequence for frame in core.take() if not frame.lost]


def test_frames_come_out_in_order_and_complete() -> None:
    core = channel()
    deliver(core, uplink(KEY, NONCE, 1, SILENCE_60_MS, timestamp=420), now=1.5)
    assert core.take() == [UplinkFrame(SILENCE_60_MS, 1, 420, lost=False, received_at=1.5)]
    assert core.last_received_at == 1.5
    assert core.address.peer == HOME
    assert not core.has_frames


def test_nonce_is_what_the_device_gets() -> None:
    assert channel().nonce == NONCE


def test_check_072_dtx_is_a_frame_and_noise_is_none() -> None:
    core = channel()
    say(core, 1, opus=DTX_60_MS)
    say(core, 2, opus=bytes.fromhex("4b03"))
    say(core, 3, opus=NOT_OPUS)
    assert heard(core) == [1, 2]
    assert core.stats.implausible == 1


def test_check_076_timestamps_of_server_aec() -> None:
    core = channel()
    say(core, 1)
    datagrams = [core.send(b"opus", timestamp_ms=60 * number) for number in range(1, 4)]
    assert [read_downlink(KEY, datagram).timestamp for datagram in datagrams if datagram] == [60, 120, 180]


def test_check_077_old_firmware_keeps_the_middle_of_the_nonce() -> None:
    core = channel()
    deliver(core, uplink(KEY, NONCE, 1, keep_middle=True))
    assert core.take()[0].timestamp_ms == 0


def test_check_037_other_frame_durations() -> None:
    core = channel(frame_ms=20)
    say(core, 1, opus=b"\x48aa")
    say(core, 2)  # 60 ms were not announced
    assert heard(core) == [1]


def test_check_070_duplicates_and_old_packets() -> None:
    core = channel()
    for sequence in (1, 2, 2, 1, *range(3, 80), 3, 79):
        say(core, sequence)
        core.take()
    assert (core.stats.duplicates, core.stats.old) == (3, 1)
    assert core.stats.reception.received == 79


def test_check_070_reorder_is_healed_and_loss_is_marked() -> None:
    core = channel()
    for sequence in (1, 3, 2, 5):
        say(core, sequence, now=0.1)
    assert heard(core) == [1, 2, 3]
    assert core.deadline == pytest.approx(0.22, abs=0.005)
    core.poll(0.23)
    assert core.take() == [
        UplinkFrame(b"", 4, 0, lost=True, received_at=0.23),
        UplinkFrame(SILENCE_60_MS, 5, 0, lost=False, received_at=0.1),
    ]


def test_check_069_forged_number_does_not_block() -> None:
    core = channel()
    say(core, 1)
    deliver(core, NONCE[:2] + bytes.fromhex("0004 89abcdef 00000000 fffffff0 deadbeef"))
    for _ in range(5):  # even with a right key it is not possible
        say(core, 0xFFFFFFF0)
    say(core, 2)
    assert heard(core) == [1, 2]
    assert core.stats.far_ahead + core.stats.implausible == 6


def test_leap_needs_three_in_a_row_and_loses_none_of_them() -> None:
    core = channel()
    say(core, 1)
    say(core, 500, now=0.1)
    say(core, 2, now=0.1)  # the honest stream goes on
    assert heard(core) == [1, 2]
    for sequence in (600, 601, 603):
        say(core, sequence, now=1.0)
    core.poll(2.0)
    assert heard(core) == [600, 601, 603]
    assert core.stats.reception.discontinuities == 1


def test_long_outage_is_survived() -> None:
    core = channel()
    say(core, 1)
    for sequence in range(2001, 2005):
        say(core, sequence, now=119.0)
    core.poll(120.0)
    assert heard(core) == [1, 2001, 2002, 2003, 2004]


def test_old_packets_from_elsewhere_are_dropped() -> None:
    core = channel()
    say(core, 2)
    say(core, 1, AWAY)
    core.poll(1.0)
    assert heard(core) == [2]
    assert core.stats.distrusted == 1


def test_addresses_on_probation_are_bounded() -> None:
    core = channel()
    say(core, 1)
    for number in range(100):
        say(core, 2 + number % 3, (f"203.0.113.{number}", 4000))
    assert len(core._runs) == 8
    assert core.stats.distrusted == 92
    for sequence in (2, 3, 4):
        say(core, sequence)
    assert heard(core) == [1, 2, 3, 4]


def test_check_067_nat_rebinding_is_followed_at_once() -> None:
    core = channel()
    say(core, 1)
    say(core, 2, REBOUND)
    assert core.address.peer == REBOUND
    assert heard(core) == [1, 2]
    assert core.stats.address_moves == 1


def test_straggler_from_the_old_port_does_not_move_back() -> None:
    core = channel()
    for sequence, address in ((1, HOME), (3, REBOUND), (2, HOME), (4, REBOUND)):
        say(core, sequence, address)
    assert core.address.peer == REBOUND
    assert heard(core) == [1, 2, 3, 4]


def test_first_address_may_be_another_after_three_packets() -> None:
    core = channel()
    for sequence in (1, 2):
        say(core, sequence, AWAY)
    assert core.address.peer is None
    assert not core.has_frames
    say(core, 3, AWAY)
    assert core.address.peer == AWAY
    assert heard(core) == [1, 2, 3]


def test_unknown_mqtt_peer_is_found_after_three_packets() -> None:
    core = channel(mqtt_ip=None)
    for sequence in (1, 2, 3):
        say(core, sequence)
    assert core.address.peer == HOME
    say(core, 4, REBOUND)
    assert core.address.peer == REBOUND


def test_check_068_one_plausible_packet_from_elsewhere_is_not_enough() -> None:
    core = channel()
    say(core, 1)
    say(core, 2, AWAY)
    say(core, 3, ELSEWHERE)
    assert core.address.peer == HOME
    assert core.stats.distrusted == 0  # undecided yet
    for sequence in (2, 3, 4):
        say(core, sequence)
    assert heard(core) == [1, 2, 3, 4]


def test_check_068_repeating_packets_from_elsewhere_moves_nothing() -> None:
    core = channel()
    say(core, 1)
    for sequence in range(2, 30):  # the copy even comes first
        say(core, sequence, AWAY)
        say(core, sequence, HOME)
    assert core.address.peer == HOME
    assert heard(core) == list(range(1, 30))


def test_check_068_noise_between_ends_the_row() -> None:
    core = channel()
    say(core, 1)
    for sequence, opus in ((2, SILENCE_60_MS), (3, SILENCE_60_MS), (4, NOT_OPUS), (5, SILENCE_60_MS), (6, SILENCE_60_MS)):
        say(core, sequence, AWAY, opus=opus)
    assert core.address.peer == HOME


def test_other_network_is_followed_after_three_but_not_often() -> None:
    core = channel()
    say(core, 1)
    say(core, 2, ELSEWHERE)
    for sequence in (2, 3, 4):
        say(core, sequence, AWAY, now=1.0)
    assert core.address.peer == AWAY
    assert core.stats.distrusted == 1  # the row that ELSEWHERE had begun
    for sequence in (5, 6, 7):
        say(core, sequence, ELSEWHERE, now=2.0)
    assert core.address.peer == AWAY
    say(core, 8, HOME, now=2.1)  # where MQTT comes from: at once
    assert core.address.peer == HOME


def test_after_a_wrong_guess_even_the_same_ip_needs_three() -> None:
    core = channel()
    say(core, 1)
    say(core, 2, ("192.0.2.7", 666), opus=NOT_OPUS)
    for sequence in (2, 3):
        say(core, sequence, REBOUND)
    assert core.address.peer == HOME
    say(core, 4, REBOUND)
    assert core.address.peer == REBOUND
    assert heard(core) == [1, 2, 3, 4]


def test_guesses_from_many_ports_move_nothing() -> None:
    core = channel()
    say(core, 1)
    dice = random.Random(68)
    for number in range(2000):
        body = dice.randbytes(60)
        forged = NONCE[:2] + len(body).to_bytes(2, "big") + NONCE[4:12] + (2 + number % 50).to_bytes(4, "big") + body
        deliver(core, forged, ("192.0.2.7", 5000 + number), now=number / 1000)
    assert core.address.peer == HOME
    say(core, 2, now=3.0)
    assert heard(core) == [1, 2]


def test_full_queue_drops_the_oldest() -> None:
    core = channel()
    for sequence in range(1, 56):
        say(core, sequence)
    assert heard(core) == list(range(6, 56))
    assert core.stats.queue_dropped == 5


def test_check_066_frames_wait_for_the_address() -> None:
    core = channel()
    assert [core.send(b"opus%d" % number, timestamp_ms=0) for number in range(42)] == [None] * 42
    assert core.flush() == []
    say(core, 1)
    flushed = [read_downlink(KEY, datagram) for datagram in core.flush()]
    assert [packet.sequence for packet in flushed] == list(range(1, 41))
    assert flushed[39].opus == b"opus39"
    assert core.stats.unsent_refused == 2
    following = core.send(b"next", timestamp_ms=0)
    assert following is not None
    assert read_downlink(KEY, following).sequence == 41
    assert core.flush() == []


def test_check_061_discarded_frames_leave_no_gap() -> None:
    core = channel()
    core.send(b"stale", timestamp_ms=0)
    core.discard_unsent()
    say(core, 1)
    assert core.flush() == []
    fresh = core.send(b"fresh", timestamp_ms=0)
    assert fresh is not None
    assert read_downlink(KEY, fresh).sequence == 1
    assert core.stats.unsent_discarded == 1


@pytest.mark.parametrize("size", [0, 1385])
def test_check_065_size_of_downlink(size: int) -> None:
    core = channel()
    with pytest.raises(ValueError, match="cannot carry"):
        core.send(bytes(size), timestamp_ms=0)


def test_check_074_no_counter_block_is_used_twice() -> None:
    """Same lengths, same (absent) timestamps, same numbers in both directions: the worst case; the block counter wraps too."""
    core = channel(counter_start=0xFFFF_FF80)
    dice = random.Random(74)
    up = [uplink(KEY, NONCE, sequence, b"\x58" + dice.randbytes(dice.choice([100, 150]))) for sequence in range(1, 400)]
    say(core, 1)
    down = [core.send(b"\x58" + dice.randbytes(dice.choice([100, 150, 1383])), timestamp_ms=0) for _ in range(1, 400)]
    sent = [datagram for datagram in down if datagram is not None]
    assert len(sent) == 399
    downlink_blocks = list(itertools.chain.from_iterable(counter_blocks(datagram) for datagram in sent))
    assert len(set(downlink_blocks)) == len(downlink_blocks)
    # the device's own uplink blocks overlap each other, which no server can change; ours meet none of them
    assert set(downlink_blocks).isdisjoint(block for datagram in up for block in counter_blocks(datagram))
    assert {read_downlink(KEY, datagram).flags for datagram in sent} == {0x80}


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=80), st.integers(0, 2**32 - 1), st.sampled_from([HOME, REBOUND, AWAY]))))
def test_check_098_noise_never_raises_and_never_blocks(arrivals: list[tuple[bytes, int, Address]]) -> None:
    core = channel()
    say(core, 1)
    for number, (body, sequence, address) in enumerate(arrivals):
        header = NONCE[:2] + len(body).to_bytes(2, "big") + NONCE[4:12] + sequence.to_bytes(4, "big")
        deliver(core, header + body, address, number / 100)
    core.poll(1000.0)
    core.take()
    highest = core.stats.reception.highest
    for sequence in range(highest + 1, highest + 5):
        say(core, sequence, HOME, 1000.0)
    core.poll(1001.0)
    assert heard(core)[-1] == highest + 4


def test_check_073_one_in_ten_lost() -> None:
    core = channel()
    dice = random.Random(73)
    lost = {sequence for sequence in range(2, 500) if dice.random() < 0.1}
    frames: list[UplinkFrame] = []
    for sequence in range(1, 501):
        core.poll(sequence * 0.06)
        if sequence not in lost:
            say(core, sequence, now=sequence * 0.06)
        frames += core.take()
    assert [frame.sequence for frame in frames] == list(range(1, 501))
    assert {frame.sequence for frame in frames if frame.lost} == lost
    assert core.stats.reception.lost == len(lost)


def test_stand_in_enciphers_as_the_protocol_says() -> None:
    datagram = uplink(KEY, NONCE, 9, b"\x58\x01", timestamp=3)
    assert datagram[:16] == bytes.fromhex("01 00 0002 89abcdef 00000003 00000009")
    assert aes_ctr(KEY, datagram[:16], datagram[16:]) == b"\x58\x01"
