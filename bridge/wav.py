"""WAV files as mono 16-bit samples."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridge.errors import OperatorError
from providers.base import Pcm


def read_wav(path: Path, *, sample_rate_hz: int) -> Pcm:
    """The file's samples, mixed to mono and brought to ``sample_rate_hz``.

    Raises OperatorError for what is no 16-bit PCM WAV file, OSError when it cannot be read.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate_hz = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise _not_wav(path) from error
    if width != 2:
        raise _not_wav(path)
    whole = len(data) // (2 * channels) * channels
    samples = np.frombuffer(data, dtype="<i2", count=whole).reshape(-1, channels)
    mono = samples[:, 0] if channels == 1 else samples.mean(axis=1).astype(np.int16)
    if rate_hz == sample_rate_hz:
        return np.ascontiguousarray(mono, dtype=np.int16)
    import soxr

    return np.asarray(soxr.resample(mono, rate_hz, sample_rate_hz), dtype=np.int16)


def write_wav(path: Path, pieces: Sequence[Pcm], *, sample_rate_hz: int) -> None:
    """Write the pieces as one mono 16-bit file. Raises OSError."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(b"".join(piece.astype("<i2").tobytes() for piece in pieces))


def _not_wav(path: Path) -> OperatorError:
    advice = "Convert it: ffmpeg -i INPUT -ar 16000 -ac 1 -c:a pcm_s16le OUTPUT.wav"
    return OperatorError(f"{path}: this is not a WAV file with 16-bit PCM samples", advice=advice)
