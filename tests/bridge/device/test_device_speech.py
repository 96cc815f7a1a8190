"""Recordings become microphone packets."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from bridge.device.codec import Decoder, packet_ms
from bridge.device.errors import SpeechError
from bridge.device.speech import encode_speech, load_speech, read_wav, silence, write_wav


def write(path: Path, octets: bytes, *, rate_hz: int, width: int, channels: int) -> None:
    with wave.open(str(path), "wb") as recording:
        recording.setparams((channels, width, rate_hz, 0, "NONE", ""))
        recording.writeframes(octets)


@pytest.mark.parametrize(
    ("width", "half"),
    [(1, bytes([192])), (2, b"\x00\x40"), (3, b"\x00\x00\x40"), (4, b"\x00\x00\x00\x40")],
)
def test_every_sample_width(tmp_path: Path, width: int, half: bytes) -> None:
    path = tmp_path / "half.wav"
    write(path, half * 160, rate_hz=16000, width=width, channels=1)
    samples = read_wav(path)
    assert len(samples) == 160
    assert set(samples) == {16384}


def test_stereo_is_mixed_and_other_rates_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    frames = np.column_stack([np.full(44100, 8000), np.zeros(44100)]).astype("<i2")
    write(path, frames.tobytes(), rate_hz=44100, width=2, channels=2)
    samples = read_wav(path)
    assert len(samples) == 16000
    assert abs(int(np.median(samples)) - 4000) < 5


def test_unusable_files(tmp_path: Path) -> None:
    path = tmp_path / "not.wav"
    path.write_bytes(b"no")
    for wrong in (path, tmp_path / "missing.wav"):
        with pytest.raises(SpeechError, match="cannot be read as a PCM WAV file"):
            read_wav(wrong)
    write(path, b"", rate_hz=16000, width=2, channels=1)
    with pytest.raises(SpeechError, match="empty"):
        load_speech(path)


def test_speech_knows_where_its_voice_is() -> None:
    samples = np.zeros(32000, dtype=np.int16)
    samples[8000:16000] = 5000
    speech = encode_speech(samples, frame_ms=60)
    assert len(speech.frames) == 34
    assert all(packet_ms(frame) == 60 for frame in speech.frames if len(frame) > 2)
    assert (speech.voiced_from_s, speech.voiced_until_s) == (0.5, 1.0)
    assert encode_speech(np.zeros(160, dtype=np.int16)).voiced_until_s == 0.01
    assert encode_speech(np.zeros(16000, dtype=np.int16)).voiced_until_s == 1.0


def test_packets_are_shared_not_copied() -> None:
    speech = encode_speech(np.zeros(960, dtype=np.int16), frame_ms=20)
    assert load_speech(speech, frame_ms=20) is speech
    with pytest.raises(SpeechError, match="20 ms"):
        load_speech(speech, frame_ms=60)


@pytest.mark.parametrize("frame_ms", [20, 60])
def test_silence_is_discontinuous(frame_ms: int) -> None:
    frames = silence(frame_ms)
    assert sum(len(frame) <= 2 for frame in frames) > len(frames) * 0.8
    decoder = Decoder()
    assert all(len(decoder.decode(frame)) == 24 * frame_ms for frame in frames)


def test_wav_round_trip(tmp_path: Path) -> None:
    samples = np.arange(-100, 100, dtype=np.int16)
    write_wav(tmp_path / "out.wav", samples, sample_rate_hz=16000)
    assert np.array_equal(read_wav(tmp_path / "out.wav"), samples)
