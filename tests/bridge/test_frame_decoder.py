"""How the ear's decoder replaces what is missing. Packets come from the firmware's encoder settings or from one with error correction."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.device.codec import Encoder
from bridge.ear import FrameDecoder
from providers.base import Pcm
from udp_audio.channel import UplinkFrame
from udp_audio.opus import OpusEncoder, carries_fec


def voice(frames: int) -> Pcm:
    t = np.arange(frames * 960)
    pitch = 150 + 50 * np.sin(t / 1900)
    return np.asarray(np.sign(np.sin(np.cumsum(2 * np.pi * pitch / 16000))) * 4000, np.int16)


def packets(*, fec: bool, frames: int = 30) -> list[bytes]:
    encode = OpusEncoder(sample_rate_hz=16000, frame_ms=60, bitrate_bps=24000, fec=True).encode if fec else Encoder(60).encode
    return [encode(frame) for frame in voice(frames).reshape(-1, 960)]


def frame(sequence: int, opus: bytes) -> UplinkFrame:
    return UplinkFrame(opus, sequence, 0, lost=not opus, received_at=0.0)


def test_a_loss_is_recovered_only_if_the_next_packet_carries_it() -> None:
    for fec in (False, True):
        sent = packets(fec=fec)
        assert any(map(carries_fec, sent)) is fec
        decoder = FrameDecoder(frame_ms=60)
        for number in range(1, len(sent)):
            if number % 4:
                samples = decoder.decode(frame(number, sent[number - 1]))
            else:
                samples = decoder.decode(frame(number, b""), frame(number + 1, sent[number]))
            assert samples.shape == (960,)
        carried = sum(carries_fec(sent[number]) for number in range(4, len(sent), 4))
        lost = (len(sent) - 1) // 4
        assert (decoder.stats.recovered, decoder.stats.concealed) == (carried, lost - carried)
        assert decoder.stats.resets == decoder.stats.undecodable == 0


def test_of_a_longer_loss_only_the_last_frame_can_be_recovered() -> None:
    sent = packets(fec=True)
    following = next(number for number in range(10, 30) if carries_fec(sent[number - 1]))
    decoder = FrameDecoder(frame_ms=60)
    for number in range(1, following - 2):
        decoder.decode(frame(number, sent[number - 1]))
    decoder.decode(frame(following - 2, b""), frame(following - 1, b""))
    decoder.decode(frame(following - 1, b""), frame(following, sent[following - 1]))
    assert (decoder.stats.concealed, decoder.stats.recovered) == (1, 1)


def test_a_jump_resets_the_decoder() -> None:
    sent = packets(fec=False)
    decoder, fresh = FrameDecoder(frame_ms=60), FrameDecoder(frame_ms=60)
    for number in range(1, 11):
        decoder.decode(frame(number, sent[number - 1]))
    after_jump = decoder.decode(frame(200, sent[20]))
    assert decoder.stats.resets == 1
    assert np.array_equal(after_jump, fresh.decode(frame(200, sent[20])))
    decoder.decode(frame(201, sent[21]))
    assert decoder.stats.resets == 1


@pytest.mark.parametrize("opus", [b"\x58", b"\x58\x00"])
def test_discontinuous_transmission_is_silence(opus: bytes) -> None:
    assert not FrameDecoder(frame_ms=60).decode(frame(1, opus)).any()


def test_what_libopus_refuses_is_silence_and_counted() -> None:
    decoder = FrameDecoder(frame_ms=60)
    assert not decoder.decode(frame(1, bytes.fromhex("4b830505aa"))).any()
    assert decoder.stats.undecodable == 1
