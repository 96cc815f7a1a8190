"""check-version and activation against a scripted HTTP server, and the traps of the answer."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from bridge.device.errors import FirmwareCrashError, OtaError
from bridge.device.ota_client import Hardware, OtaClient, OtaTiming, read_mqtt_section, split_endpoint
from bridge.device.profiles import PROFILES
from tests.bridge.device.gateway import Gateway

TIMING = OtaTiming(attempts=2, retry_s=0.01, pending_s=0.01, refused_s=0.01, polls=3)


@pytest.fixture
async def gateway() -> AsyncGenerator[Gateway]:
    async with Gateway() as server:
        yield server


def client(gateway: Gateway, *, hardware: Hardware | None = None, profile: str = "2.4", shown: list[str] | None = None) -> OtaClient:
    return OtaClient(
        gateway.ota_url,
        hardware=hardware or Hardware.of("02:00:00:00:00:09"),
        profile=PROFILES[profile],
        timing=TIMING,
        on_activation=lambda code, _message: None if shown is None else shown.append(code),
    )


def answer(**members: Any) -> bytes:
    return json.dumps(members).encode()


def unbound(**members: Any) -> bytes:
    return answer(activation={"code": "123456", "message": "host\n123456", "challenge": "c"} | members)


async def test_activation_polls_until_confirmed(gateway: Gateway) -> None:
    shown: list[str] = []
    gateway.answers = [(200, unbound())]
    gateway.activation_answers = [202, 404, 200]
    settings = await client(gateway, shown=shown).fetch()
    assert settings.host == "127.0.0.1"
    assert shown == ["123456"]
    posts = [(line, json.loads(body)) for line, _, body in gateway.requests if "activate" in line]
    assert posts == [("POST /xiaozhi/ota/activate HTTP/1.1", {})] * 3


async def test_a_serial_number_signs_the_challenge(gateway: Gateway) -> None:
    hardware = Hardware(device_id="02:00:00:00:00:09", client_id="c", serial_number="S" * 32, hmac_key=b"k" * 32)
    gateway.answers = [(200, unbound(challenge="nonce"))]
    gateway.activation_answers = [200]
    await client(gateway, hardware=hardware).fetch()
    _, headers, body = gateway.requests[1]
    assert (headers["activation-version"], headers["serial-number"]) == ("2", "S" * 32)
    assert json.loads(body) == {
        "algorithm": "hmac-sha256",
        "serial_number": "S" * 32,
        "challenge": "nonce",
        "hmac": hmac.new(b"k" * 32, b"nonce", hashlib.sha256).hexdigest(),
    }


async def test_py_xiaozhi_wraps_the_activation(gateway: Gateway) -> None:
    gateway.answers = [(200, unbound())]
    gateway.activation_answers = [200]
    await client(gateway, profile="py-xiaozhi").fetch()
    assert set(json.loads(gateway.requests[1][2])) == {"Payload"}


async def test_without_a_challenge_nothing_is_posted(gateway: Gateway) -> None:
    gateway.answers = [(200, answer(activation={"code": "1"}))]
    await client(gateway).fetch()
    assert not [line for line, _, _ in gateway.requests if "activate" in line]


async def test_a_failed_check_is_repeated(gateway: Gateway) -> None:
    gateway.answers = [(503, b"")]
    assert (await client(gateway).fetch()).publish_topic == "device-server"
    gateway.answers = [(200, b"<html>")] * 2
    with pytest.raises(OtaError, match="did not answer with JSON"):
        await client(gateway).fetch()
    gateway.answers = [(404, b"")] * 2
    with pytest.raises(OtaError, match="answered 404"):
        await client(gateway).fetch()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/ota", "http://x", "not a url at all"])
async def test_unusable_addresses(url: str) -> None:
    with pytest.raises(OtaError, match="no OTA address"):
        await OtaClient(url, hardware=Hardware.of("02:00:00:00:00:09"), profile=PROFILES["2.4"]).fetch()


MQTT: dict[str, Any] = {"endpoint": "h:1883", "client_id": "c", "username": "u", "password": "p", "publish_topic": "t", "keepalive": 60}


def test_settings() -> None:
    settings = read_mqtt_section({"mqtt": MQTT})
    assert (settings.host, settings.port, settings.keepalive_s, settings.tls) == ("h", 1883, 60, False)
    assert "'p'" not in repr(settings)
    assert read_mqtt_section({"mqtt": MQTT | {"keepalive": "60"}}).keepalive_s == 240


@pytest.mark.parametrize(
    "members",
    [
        {"mqtt": MQTT | {"subscribe_topic1": "x"}},
        {"mqtt": MQTT | {"password": "x" * 4000}},
        {"mqtt": MQTT | {"endpoint": "mqtt://h:1883"}},
        {"mqtt": MQTT, "firmware": {"version": "v2.5.0", "url": ""}},
        {"mqtt": MQTT, "firmware": {"version": "1..2", "url": ""}},
        {"mqtt": MQTT, "firmware": {"version": "latest", "url": "http://x"}},
    ],
)
def test_what_would_put_hardware_into_a_boot_loop(members: dict[str, Any]) -> None:
    with pytest.raises(FirmwareCrashError):
        read_mqtt_section(members)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"websocket": {"url": "ws://x"}},
        {"mqtt": []},
        {"mqtt": MQTT | {"endpoint": ""}},
        {"mqtt": MQTT | {"publish_topic": ""}},
        {"mqtt": MQTT | {"endpoint": "h:70000"}},
    ],
)
def test_what_leaves_a_device_without_a_server(members: dict[str, Any]) -> None:
    with pytest.raises(OtaError):
        read_mqtt_section(members)


def test_harmless_versions() -> None:
    for firmware in ({"version": "2.4.2", "url": ""}, {"version": "0-beta", "url": ""}, {"version": "", "url": ""}, {"version": "v1"}):
        read_mqtt_section({"mqtt": MQTT, "firmware": firmware})


def test_endpoints() -> None:
    assert split_endpoint("host") == ("host", 8883)
    assert split_endpoint("host:1883") == ("host", 1883)
    assert split_endpoint("host:1883/x") == ("host", 1883)


def test_the_client_id_is_kept() -> None:
    one, again, other = Hardware.of("02:00:00:00:00:01"), Hardware.of("02:00:00:00:00:01"), Hardware.of("02:00:00:00:00:02")
    assert one.client_id == again.client_id != other.client_id
    assert one.client_id[14] == "4"
    assert Hardware.of("02:00:00:00:00:01", "mine").client_id == "mine"
