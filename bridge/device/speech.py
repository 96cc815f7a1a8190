"""What a person says: WAV files and samples turned into microphone packets ahead of time, so that many devices can share them."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import soxr

from bridge.device.codec import MICROPHONE_RATE_HZ, SPEAKER_RATE_HZ, Encoder, Pcm
from bridge.device.errors import SpeechError

_BLOCK_MS: Final = 20
_MIN_VOICED_RMS: Final = 100.0
_VOICED_SHARE: Final = 0.05
_SILENCE_S: Final = 6.0


@dataclass(frozen=True, slots=True)
class Speech:
    """Opus packets of one saying, and where in it the voice begins and ends (seconds from its start)."""

    frames: tuple[bytes, ...]
    frame_ms: int
    voiced_from_s: float
    voiced_until_s: float

    @property
    def duration_s(self) -> float:
        return len(self.frames) * self.frame_ms / 1000


Utterance: TypeAlias = Speech | Pcm | Path | str
"""Packets, 16 kHz mono samples, or the path of a WAV file."""


def encode_speech(samples: Pcm, *, frame_ms: int = 60) -> Speech:
    """Packets of 16 kHz mono samples; the last frame is filled up with silence. CPU-bound: ~0.1 ms a frame."""
    encoder = Encoder(frame_ms)
    size = encoder.frame_samples
    padded = np.pad(samples, (0, -len(samples) % size))
    frames = tuple(encoder.encode(padded[start : start + size]) for start in range(0, len(padded), size))
    voiced_from_s, voiced_until_s = _voiced_span(samples)
    return Speech(frames, frame_ms, voiced_from_s, voiced_until_s)


def load_speech(utterance: Utterance, *, frame_ms: int = 60) -> Speech:
    """Packets of whatever was given. Raises :class:`SpeechError` for a file that is no PCM WAV, or for another frame duration."""
    if isinstance(utterance, Speech):
        if utterance.frame_ms != frame_ms:
            raise SpeechError(f"The packets last {utterance.frame_ms} ms, this device sends {frame_ms} ms.")
        return utterance
    samples = read_wav(Path(utterance)) if isinstance(utterance, str | Path) else utterance
    if len(samples) == 0:
        raise SpeechError("There is nothing to say: the recording is empty.")
    return encode_speech(samples, frame_ms=frame_ms)


def read_wav(path: Path) -> Pcm:
    """16 kHz mono samples of a PCM WAV file of any rate, width and channel count."""
    try:
        with wave.open(str(path), "rb") as recording:
            rate_hz, width, channels = recording.getframerate(), recording.getsampwidth(), recording.getnchannels()
            raw = recording.readframes(recording.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise SpeechError(f"{path} cannot be read as a PCM WAV file: {error}.") from error
    samples = _to_float(raw, width).reshape(-1, channels).mean(axis=1)
    if rate_hz != MICROPHONE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, MICROPHONE_RATE_HZ)
    pcm: Pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    return pcm


def write_wav(path: Path, samples: Pcm, *, sample_rate_hz: int = SPEAKER_RATE_HZ) -> None:
    """Mono 16-bit WAV."""
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(sample_rate_hz)
        recording.writeframes(samples.astype("<i2").tobytes())


@lru_cache(maxsize=4)
def silence(frame_ms: int) -> tuple[bytes, ...]:
    """What a microphone sends in a quiet room, to be repeated: after the first frames DTX leaves packets of 1 or 2 bytes."""
    encoder = Encoder(frame_ms)
    still = np.zeros(encoder.frame_samples, dtype=np.int16)
    return tuple(encoder.encode(still) for _ in range(int(_SILENCE_S * 1000 / frame_ms)))


def _to_float(raw: bytes, width: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Samples in -1..1. WAV is little endian; 8-bit samples are unsigned."""
    if width == 1:
        return ((np.frombuffer(raw, dtype=np.uint8).astype(np.float32) - 128) / 128).astype(np.float32)
    octets = np.frombuffer(raw[: len(raw) - len(raw) % width], dtype=np.uint8).reshape(-1, width)
    aligned = np.zeros((len(octets), 4), dtype=np.uint8)
    aligned[:, 4 - width :] = octets
    return (aligned.view("<i4").reshape(-1) / np.float64(2**31)).astype(np.float32)


def _voiced_span(samples: Pcm) -> tuple[float, float]:
    """First and last moment louder than a twentieth of the loudest block; the whole when it is silent."""
    block = MICROPHONE_RATE_HZ * _BLOCK_MS // 1000
    whole_s = len(samples) / MICROPHONE_RATE_HZ
    blocks = samples[: len(samples) // block * block].astype(np.float64).reshape(-1, block)
    if not len(blocks):
        return 0.0, whole_s
    level = np.sqrt((blocks**2).mean(axis=1))
    voiced = np.flatnonzero(level > max(_MIN_VOICED_RMS, _VOICED_SHARE * float(level.max())))
    if not len(voiced):
        return 0.0, whole_s
    return float(voiced[0]) * _BLOCK_MS / 1000, float(voiced[-1] + 1) * _BLOCK_MS / 1000
