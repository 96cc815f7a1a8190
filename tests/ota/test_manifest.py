"""What the firmware cannot stand is refused before it is sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.credentials import Credentials
from ota.manifest import ActivationNotice, Endpoints, FirmwareOffer, ManifestError, WebSocketOffer, build_manifest, is_safe_version

ENDPOINTS = Endpoints("h", 1883, "http://h")
CREDENTIALS = Credentials("GID@@@02_00_00_00_00_01@@@c", "dXNlcg==", "cGFzcw==")


def manifest(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "endpoints": ENDPOINTS,
        "credentials": CREDENTIALS,
        "activation": None,
        "device_version": "1.2.3",
        "now_ms": 1760000000000,
        "timezone_offset_min": 480,
        "keepalive_s": 240,
    }
    return build_manifest(**(facts | changes))


def test_whole() -> None:
    assert manifest() == {
        "server_time": {"timestamp": 1760000000000, "timezone_offset": 480},
        "firmware": {"version": "1.2.3", "url": ""},
        "mqtt": {
            "endpoint": "h:1883",
            "client_id": "GID@@@02_00_00_00_00_01@@@c",
            "username": "dXNlcg==",
            "password": "cGFzcw==",
            "publish_topic": "device-server",
            "subscribe_topic": "null",
            "keepalive": 240,
        },
    }


def test_websocket() -> None:
    offer = WebSocketOffer("wss://h/xiaozhi/v1/", "secret-token", 3)
    assert "secret-token" not in repr(offer)
    section = {"url": "wss://h/xiaozhi/v1/", "token": "secret-token", "version": 3}
    both, alone = manifest(websocket=offer), manifest(websocket=offer, credentials=None)
    assert both["websocket"] == alone["websocket"] == section
    assert "mqtt" in both
    assert "mqtt" not in alone


@pytest.mark.parametrize("url", ["ws://192.168.1.10:8003/xiaozhi/v1/", "ws://h", "wss://voice.example.org", "wss://h/a?b=c"])
def test_websocket_addresses(url: str) -> None:
    assert WebSocketOffer(url, "t", 1).url == url


@pytest.mark.parametrize(
    ("url", "version"),
    [
        ("http://h/", 3),
        ("ws://", 3),
        ("ws://[::1]/", 3),
        ("ws://h:port/", 3),
        ("ws://h/a b", 3),
        ("h", 3),
        ("", 3),
        ("ws://h", 0),
        ("ws://h", 4),
    ],
)
def test_websocket_offers_that_are_none(url: str, version: int) -> None:
    with pytest.raises(ManifestError):
        WebSocketOffer(url, "t", version)


def test_firmware() -> None:
    offer, forced = FirmwareOffer("1.2.4", "http://h:8003/x.bin"), FirmwareOffer("1.0", "http://h/x.bin", force=True)
    assert manifest(firmware=offer)["firmware"] == {"version": "1.2.4", "url": "http://h:8003/x.bin"}
    assert manifest(firmware=forced)["firmware"] == {"version": "1.0", "url": "http://h/x.bin", "force": 1}
    assert manifest()["firmware"] == {"version": "1.2.3", "url": ""}
    for version in ("", "v1", "1..2", "latest"):  # the device would compare, and crash
        assert "firmware" not in manifest(firmware=offer, device_version=version)


@pytest.mark.parametrize(
    ("version", "url"),
    [
        ("v1.2.4", "http://h/x.bin"),
        ("", "http://h/x.bin"),
        ("1.2.4", ""),
        ("1.2.4", "/x.bin"),
        ("1.2.4", "http://h"),
        ("1.2.4", "http://[::1]/x"),
        ("1.2.4", "http://h/a b"),
    ],
)
def test_firmware_offers_that_are_none(version: str, url: str) -> None:
    with pytest.raises(ManifestError):
        FirmwareOffer(version, url)


def test_activation() -> None:
    notice = ActivationNotice("123456", "http://h\n123456", "c" * 64, 5000)
    made = manifest(credentials=None, activation=notice)
    assert "mqtt" not in made
    assert made["activation"] == {"code": "123456", "message": "http://h\n123456", "challenge": "c" * 64, "timeout_ms": 5000}


@pytest.mark.parametrize(
    "changes",
    [
        {"credentials": Credentials("", "u", "p")},
        {"credentials": Credentials("i", "u" * 4000, "p")},
        {"credentials": Credentials("i", "u", "é" * 2000)},
        {"keepalive_s": -1},
        {"keepalive_s": 2**31},
        {"activation": ActivationNotice("12345x", "12345x", "c")},
        {"activation": ActivationNotice("123456", "code?", "c")},
        {"activation": ActivationNotice("123456", "123456", "")},
    ],
)
def test_harmful_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        manifest(**changes)


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_ports_that_are_none(port: int) -> None:
    with pytest.raises(ManifestError):
        Endpoints("h", port, "http://h")


@given(st.one_of(st.text(max_size=40), st.from_regex(r"[0-9]+(\.[0-9]+)*", fullmatch=True)))
def test_no_version_crashes_a_device(version: str) -> None:
    """The device parses its own version and ours when a firmware section comes: std::stoi must take every segment."""
    if "firmware" not in manifest(device_version=version):
        assert not is_safe_version(version)
        return
    for segment in version.split("."):
        assert segment
        assert set(segment) <= set("0123456789")
        assert int(segment) < 2**31
