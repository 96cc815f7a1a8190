"""Hello replies: what opens a channel and what is ignored (protocol section 5)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.device.errors import FirmwareCrashError
from bridge.device.hello import AudioFormat, Grant, compose_hello, read_hello, read_websocket_hello
from bridge.device.profiles import PROFILES

KEY = "00112233445566778899aAbBcCdDeEfF"
NONCE = "01000000a1b2c3d40000000000000000"


def reply(**udp: Any) -> dict[str, Any]:
    return {
        "type": "hello",
        "transport": "udp",
        "session_id": "s",
        "audio_params": {"sample_rate": 16000, "frame_duration": 20},
        "udp": {"server": "10.0.0.1", "port": 8884, "key": KEY, "nonce": NONCE} | udp,
    }


def test_a_grant() -> None:
    grant = read_hello(reply(), previous=AudioFormat(), strict=True)
    assert grant == Grant("s", "10.0.0.1", 8884, bytes.fromhex(KEY), bytes.fromhex(NONCE), AudioFormat(16000, 20))
    assert KEY.lower() not in repr(grant).lower()


@pytest.mark.parametrize(
    "udp",
    [
        {"server": ""},
        {"server": None},
        {"port": "8884"},
        {"port": 0},
        {"port": 65536},
        {"port": True},
        {"key": KEY[:-1]},
        {"key": KEY + "0"},
        {"key": "g" * 32},
        {"nonce": 5},
        {"nonce": NONCE + "\n"},
    ],
)
def test_one_wrong_member_and_the_reply_is_ignored(udp: dict[str, Any]) -> None:
    assert isinstance(read_hello(reply(**udp), previous=AudioFormat(), strict=True), str)
    with pytest.raises(FirmwareCrashError):
        read_hello(reply(**udp), previous=AudioFormat(), strict=False)


def test_over_a_websocket() -> None:
    message = {"type": "hello", "transport": "websocket", "session_id": "s", "audio_params": {"sample_rate": 16000, "frame_duration": 20}}
    assert read_websocket_hello(message, previous=AudioFormat()) == Grant("s", audio=AudioFormat(16000, 20))
    assert isinstance(read_websocket_hello(message | {"transport": "udp"}, previous=AudioFormat()), str)
    with pytest.raises(FirmwareCrashError):
        read_websocket_hello({"type": "hello", "session_id": "s"}, previous=AudioFormat())
    said = compose_hello(PROFILES["2.4"], websocket_version=2)
    assert (said["transport"], said["version"]) == ("websocket", 2)


@pytest.mark.parametrize("strict", [True, False])
def test_the_transport_must_be_udp(strict: bool) -> None:
    for transport in ("websocket", None, 1):
        assert isinstance(read_hello(reply() | {"transport": transport}, previous=AudioFormat(), strict=strict), str)


def test_missing_audio_parameters_stay_as_they_were() -> None:
    before = AudioFormat(48000, 20)
    message = reply()
    message["audio_params"] = {"sample_rate": "x"}
    grant = read_hello(message, previous=before, strict=True)
    assert isinstance(grant, Grant)
    assert grant.audio == before
    del message["audio_params"], message["session_id"]
    grant = read_hello(message, previous=before, strict=True)
    assert isinstance(grant, Grant)
    assert (grant.audio, grant.session_id) == (before, "")


def test_formats_without_a_decoder() -> None:
    assert AudioFormat().playable
    assert not AudioFormat(44100, 60).playable
    assert not AudioFormat(24000, 30).playable


def test_features_follow_the_firmware() -> None:
    assert compose_hello(PROFILES["2.4"], aec=True)["features"] == {"aec": True, "mcp": True}
    assert "features" not in compose_hello(PROFILES["1.6.2"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["server", "port", "key", "nonce", "sample_rate"]), inner),
    max_leaves=8,
)


@given(JSON, JSON, JSON)
def test_any_reply_is_survived(udp: Any, audio: Any, session_id: Any) -> None:
    message = {"type": "hello", "transport": "udp", "udp": udp, "audio_params": audio, "session_id": session_id}
    read_hello(message, previous=AudioFormat(), strict=True)
