"""Raw samples and WAV files cut anywhere. Headers are written by hand from the RIFF specification."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.tts.pcm_stream import PcmStream, UnknownAudioError

SAMPLES = bytes.fromhex("0100 ff7f 0080 fdff")  # 1, 32767, -32768, -3
VALUES = [1, 32767, -32768, -3]
FMT_16K_MONO = bytes.fromhex("666d7420 10000000 0100 0100 803e0000 007d0000 0200 1000")
FMT_44K_STEREO = bytes.fromhex("666d7420 10000000 0100 0200 44ac0000 10b10200 0400 1000")
FMT_EXTENSIBLE = bytes.fromhex(
    "666d7420 28000000 feff 0100 803e0000 007d0000 0200 1000 1600 1000 04000000 0100000000001000800000aa00389b71"
)
FMT_FLOAT = bytes.fromhex("666d7420 10000000 0300 0100 803e0000 00fa0000 0400 2000")
LIST = b"LIST" + (5).to_bytes(4, "little") + b"hello\0"  # odd size: one byte of padding


def wav(fmt: bytes, *, before: bytes = b"", size: int = len(SAMPLES), data: bytes = SAMPLES, after: bytes = b"") -> bytes:
    return b"RIFF" + b"\xff\xff\xff\xff" + b"WAVE" + fmt + before + b"data" + size.to_bytes(4, "little") + data + after


def decoded(data: bytes, cuts: list[int], content_type: str = "") -> tuple[list[int], int]:
    stream = PcmStream(sample_rate_hz=24000, content_type=content_type)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [stream.feed(data[begin:end]) for begin, end in pairwise(edges)]
    return np.concatenate(pieces).tolist(), stream.sample_rate_hz


CUTS = st.lists(st.integers(0, 120), max_size=10)


@settings(deadline=None)  # machines pause
@given(CUTS)
def test_raw_samples(cuts: list[int]) -> None:
    assert decoded(SAMPLES, cuts) == (VALUES, 24000)
    assert decoded(SAMPLES + b"\x01", cuts) == (VALUES, 24000)


@settings(deadline=None)  # machines pause
@given(CUTS)
def test_wav(cuts: list[int]) -> None:
    assert decoded(wav(FMT_16K_MONO), cuts) == (VALUES, 16000)
    assert decoded(wav(FMT_16K_MONO, before=LIST, after=LIST), cuts) == (VALUES, 16000)
    assert decoded(wav(FMT_EXTENSIBLE), cuts) == (VALUES, 16000)


@settings(deadline=None)  # machines pause
@given(CUTS, st.sampled_from([0, 0xFFFFFFFF, 0x7FFFFFFF]))
def test_streamed_wav_of_unknown_length(cuts: list[int], size: int) -> None:
    assert decoded(wav(FMT_16K_MONO, size=size), cuts) == (VALUES, 16000)


@settings(deadline=None)  # machines pause
@given(CUTS)
def test_stereo_is_mixed(cuts: list[int]) -> None:
    assert decoded(wav(FMT_44K_STEREO, data=bytes.fromhex("0a00 1400 ecff 0000"), size=8), cuts) == ([15, -10], 44100)


def test_rate_named_by_the_content_type() -> None:
    assert decoded(SAMPLES, [], "audio/L16; rate=16000; channels=1")[1] == 16000
    assert decoded(SAMPLES, [], "audio/pcm")[1] == 24000


@pytest.mark.parametrize(
    "data",
    [
        b"ID3\x04rest",
        b"OggS\0\2",
        b"fLaC\0",
        b'{"error": 1}',
        b"RIFF\0\0\0\0AVI LIST",
        wav(FMT_FLOAT),
        wav(b""),
        b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0\1\0\1\0data",
        b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x00",
    ],
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(UnknownAudioError):
        decoded(data, [])


@pytest.mark.parametrize("content_type", ["audio/mpeg", "application/json; charset=utf-8", " text/html", "audio/ogg"])
def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnknownAudioError, match="instead of raw PCM"):
        PcmStream(sample_rate_hz=24000, content_type=content_type)


@settings(deadline=None)  # machines pause
@given(st.binary(max_size=200), CUTS, st.booleans())
def test_any_bytes_give_samples_or_the_one_error(data: bytes, cuts: list[int], prefixed: bool) -> None:
    try:
        values, _ = decoded(b"RIFF\0\0\0\0WAVE" + data if prefixed else data, cuts)
    except UnknownAudioError:
        return
    assert all(-32768 <= value <= 32767 for value in values)
