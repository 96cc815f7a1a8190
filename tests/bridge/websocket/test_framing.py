"""The binary messages, with vectors written by hand from the device protocol §13."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.websocket.framing import (
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    AudioFrame,
    FrameError,
    FrameVersion,
    decode,
    encode,
    is_frame_version,
)

OPUS = bytes.fromhex("580102ff")
VECTORS: dict[FrameVersion, str] = {
    1: "580102ff",
    2: "0002 0000 00000000 0001e240 00000004 580102ff",
    3: "00 00 0004 580102ff",
}
VERSIONS: tuple[FrameVersion, ...] = get_args(FrameVersion)


@pytest.mark.parametrize("version", VERSIONS)
def test_vectors(version: FrameVersion) -> None:
    message = bytes.fromhex(VECTORS[version])
    assert encode(OPUS, version=version, timestamp_ms=123456) == message
    assert decode(message, version=version) == AudioFrame(OPUS, 123456 if version == 2 else 0)


def test_what_is_reserved_may_hold_anything() -> None:
    assert decode(bytes.fromhex("0002 0000 deadbeef 00000000 00000001 58"), version=2) == AudioFrame(b"\x58")
    assert decode(bytes.fromhex("00 ff 0001 58"), version=3) == AudioFrame(b"\x58")


@pytest.mark.parametrize(
    ("version", "message", "reason"),
    [
        (1, "", "no payload"),
        (2, "", "header"),
        (2, "0002 0000 00000000 00000000 000000", "header"),
        (2, "0002 0000 00000000 00000000 00000000", "no payload"),
        (2, "0003 0000 00000000 00000000 00000001 58", "version 3"),
        (2, "0002 0001 00000000 00000000 00000002 7b7d", "type 1"),
        (2, "0002 0000 00000000 00000000 00000002 58", "says 2 bytes, 1 follow"),
        (2, "0002 0000 00000000 00000000 00000001 5858", "says 1 bytes, 2 follow"),
        (2, "0002 0000 00000000 00000000 ffffffff 58", "4294967295"),
        (3, "", "header"),
        (3, "000000", "header"),
        (3, "00000000", "no payload"),
        (3, "01000002 7b7d", "type 1"),
        (3, "00000002 58", "says 2 bytes, 1 follow"),
        (3, "0000ffff 58", "65535"),
        (3, "00000000 58", "says 0 bytes, 1 follow"),
    ],
)
def test_what_is_refused(version: FrameVersion, message: str, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        decode(bytes.fromhex(message), version=version)


@pytest.mark.parametrize("version", VERSIONS)
def test_bounds(version: FrameVersion) -> None:
    with pytest.raises(FrameError, match="more than a device sends"):
        decode(bytes(MAX_MESSAGE_BYTES + 1), version=version)
    assert encode(bytes(MAX_PAYLOAD_BYTES), version=version).endswith(bytes(MAX_PAYLOAD_BYTES))
    for size in (0, MAX_PAYLOAD_BYTES + 1):
        with pytest.raises(ValueError, match=str(size)):
            encode(bytes(size), version=version)


def test_versions() -> None:
    assert [number for number in range(-1, 300) if is_frame_version(number)] == [1, 2, 3]


def test_a_timestamp_wraps() -> None:
    assert decode(encode(OPUS, version=2, timestamp_ms=2**32 + 7), version=2).timestamp_ms == 7


@given(opus=st.binary(min_size=1, max_size=MAX_PAYLOAD_BYTES), timestamp_ms=st.integers(0, 2**32 - 1), version=st.sampled_from(VERSIONS))
def test_there_and_back(opus: bytes, timestamp_ms: int, version: FrameVersion) -> None:
    frame = decode(encode(opus, version=version, timestamp_ms=timestamp_ms), version=version)
    assert frame == AudioFrame(opus, timestamp_ms if version == 2 else 0)


@given(message=st.binary(max_size=200), version=st.sampled_from(VERSIONS))
def test_any_bytes_give_a_frame_or_its_error(message: bytes, version: FrameVersion) -> None:
    try:
        frame = decode(message, version=version)
    except FrameError:
        return
    assert frame.opus
    assert message.endswith(frame.opus)
