"""Resampling and encoding of a sentence."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import numpy as np
import pytest

from bridge.codec_pool import CodecPool
from bridge.voice import VoiceEncoder, packets
from providers.base import PcmFrame
from settings.model import Audio
from tests.scripted import tone
from tests.virtual_time import InlineExecutor
from udp_audio.opus import OpusDecoder, packet_duration_ms


def decoded(encoded: list[bytes], rate_hz: int) -> np.ndarray:
    decoder = OpusDecoder(sample_rate_hz=rate_hz)
    return np.concatenate([decoder.decode(packet) for packet in encoded])


def loudest_hz(samples: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * rate_hz / len(samples)


@pytest.mark.parametrize("input_hz", [16000, 22050, 24000, 44100])
@pytest.mark.parametrize("frame_ms", [20, 60])
def test_check_064_every_packet_lasts_one_frame_and_the_pitch_stays(input_hz: int, frame_ms: int) -> None:
    encoder = VoiceEncoder(Audio.model_validate({"frame_ms": frame_ms}))
    sound = tone(1.0, rate_hz=input_hz, hz=440)
    encoded = encoder.push(sound, input_hz) + encoder.finish()
    assert {packet_duration_ms(packet) for packet in encoded} == {frame_ms}
    heard = decoded(encoded, 24000)
    assert len(heard) == pytest.approx(24000, abs=2 * 24 * frame_ms)
    assert loudest_hz(heard[4800:19200], 24000) == pytest.approx(440, abs=5)
    level = float(np.sqrt(np.mean(heard[4800:19200].astype(float) ** 2)))
    assert level == pytest.approx(8000 / np.sqrt(2), rel=0.15)


def test_pieces_do_not_change_what_is_heard() -> None:
    sound = tone(0.5, rate_hz=22050)
    whole, pieces = VoiceEncoder(Audio()), VoiceEncoder(Audio())
    one = whole.push(sound, 22050) + whole.finish()
    many = [packet for start in range(0, len(sound), 777) for packet in pieces.push(sound[start : start + 777], 22050)] + pieces.finish()
    assert len(one) == len(many)
    difference = decoded(one, 24000).astype(float) - decoded(many, 24000).astype(float)
    assert np.sqrt(np.mean(difference**2)) < 400


def test_a_second_sentence_begins_with_its_own_packet() -> None:
    encoder = VoiceEncoder(Audio())
    first = encoder.push(tone(0.07, rate_hz=24000), 24000) + encoder.finish()
    assert len(first) == 2
    assert encoder.push(tone(0.06, rate_hz=24000), 24000) + encoder.finish() != first
    assert encoder.finish() == []


async def test_the_source_is_closed_when_nobody_listens_any_more() -> None:
    closed = []

    async def speech() -> AsyncGenerator[PcmFrame, None]:
        try:
            while True:
                yield PcmFrame(tone(0.3, rate_hz=24000), 24000)
        finally:
            closed.append(True)

    stream = packets(speech(), VoiceEncoder(Audio()), CodecPool(InlineExecutor(), at_once=1), due=lambda: 0.0)
    await anext(stream)
    await stream.aclose()
    assert closed == [True]
