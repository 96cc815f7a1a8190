"""Frames of the link between supervisor and workers, against bytes written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.workers.messages import Connected, Family, FrameError, Message, Metrics, Ping, Reader, Revoked, Sample, dump

# MessagePack: 0x8n a map of n pairs, 0xan a text of n bytes, small integers are themselves
PING = b"\x00\x00\x00\x0b" + b"\x81\xa4type\xa4Ping"
REVOKED = b"\x00\x00\x00\x1a" + b"\x82\xa4type\xa7Revoked\xa9device_id\xa1x"


def test_bytes_by_hand() -> None:
    assert dump(Ping()) == PING
    assert list(Reader().feed(PING + REVOKED)) == [Ping(), Revoked(device_id="x")]


@given(st.lists(st.integers(1, 7), min_size=1))
def test_pieces_of_any_size(sizes: list[int]) -> None:
    metrics = Metrics(number=7, families=[Family("f", "counter", "help", [Sample("f_total", {"a": "b"}, 1.5)])])
    messages: list[Message] = [Ping(), Connected(device_id="02:00:00:00:00:01", counter=3, at_s=0.5), metrics]
    data = b"".join(map(dump, messages))
    reader, found, position = Reader(), [], 0
    while position < len(data):
        size = sizes[position % len(sizes)]
        found += list(reader.feed(data[position : position + size]))
        position += size
    assert found == messages


@given(st.binary(max_size=200))
def test_anything_else_is_a_frame_error(data: bytes) -> None:
    frame = len(data).to_bytes(4) + data
    try:
        list(Reader().feed(frame))
    except FrameError:
        return
    assert data in {PING[4:], REVOKED[4:], b""} or b"type" in data


def test_a_frame_that_would_fill_the_memory() -> None:
    with pytest.raises(FrameError, match="bytes"):
        list(Reader().feed(b"\xff\xff\xff\xff"))
