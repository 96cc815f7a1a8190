"""The device's own framing, with vectors from the firmware's structs (device protocol §13)."""

from __future__ import annotations

import pytest

from bridge.device.datagram import Received
from bridge.device.websocket_frame import pack, unpack


@pytest.mark.parametrize(
    ("version", "message", "timestamp"),
    [
        (1, "f8fffe", 0),
        (2, "0002 0000 00000000 000003e8 00000003 f8fffe", 1000),
        (3, "00 00 0003 f8fffe", 0),
    ],
)
def test_vectors(version: int, message: str, timestamp: int) -> None:
    opus = bytes.fromhex("f8fffe")
    assert pack(opus, version=version, timestamp=1000) == bytes.fromhex(message)
    assert unpack(bytes.fromhex(message), version=version, sequence=4) == Received(opus, timestamp, 4)


@pytest.mark.parametrize(
    ("version", "message", "reason"),
    [
        (2, "000200", "short"),
        (2, "0002 0001 00000000 00000000 00000001 00", "type"),
        (2, "0002 0000 00000000 00000000 00000002 00", "length"),
        (3, "000000", "short"),
        (3, "01 00 0001 00", "type"),
        (3, "00 00 0002 00", "length"),
    ],
)
def test_what_hardware_would_misread(version: int, message: str, reason: str) -> None:
    assert unpack(bytes.fromhex(message), version=version, sequence=1) == reason
