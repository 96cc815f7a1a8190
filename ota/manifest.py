"""The answer to a device's check-version request, from facts.

Pure. A mistake here sends devices into a boot loop, so what the firmware cannot stand is refused at this place:

- every member of ``mqtt`` and ``websocket`` is written to flash (NVS): a key of more than 15 characters or a value of more than 3999 bytes
  aborts the device;
- ``endpoint`` is split at its first colon: no scheme, no IPv6; port 8883 means TLS, every other port plain TCP;
- a device takes MQTT whenever ``mqtt`` is there: WebSocket devices get ``websocket`` alone;
- ``firmware.version`` *and the device's own version* go through ``std::stoi``, segment by segment, as soon as there is a
  ``firmware`` with a version: a segment that is no 32-bit number crashes the device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mqtt_control.credentials import Credentials

MAX_NVS_KEY_CHARS = 15
MAX_NVS_VALUE_BYTES = 3999
MAX_STOI = 2**31 - 1
MAX_VERSION_CHARS = 32  # what ESP-IDF keeps of a version

PUBLISH_TOPIC = "device-server"
SUBSCRIBE_TOPIC = "null"
"""Firmware before 1.0.1 and desktop clients subscribe unless it is this word; we deliver without."""

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})", re.ASCII)
_WEBSOCKET_URL = re.compile(r"wss?://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?(?:/[!-~]*)?", re.ASCII)
_HTTP_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/[!-~]{1,500}", re.ASCII)
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)


class ManifestError(ValueError):
    """What was to be sent would harm the device. A mistake of the caller or the configuration."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where devices are sent: an IPv4 address or a name, the MQTT port, and the base of our HTTP addresses.

    Raises ManifestError for a host that the firmware cannot use.
    """

    mqtt_host: str
    mqtt_port: int
    http_base: str
    offers_mqtt: bool = True
    websocket_url: str = ""
    """Empty: WebSocket is not offered."""

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.mqtt_host):
            raise ManifestError(f"devices cannot connect to {self.mqtt_host[:80]!r}: give a name or an IPv4 address, without a scheme")
        if not 1 <= self.mqtt_port <= 65535:
            raise ManifestError(f"devices cannot connect to port {self.mqtt_port}")

    @property
    def mqtt(self) -> str:
        """``host:port``."""
        return f"{self.mqtt_host}:{self.mqtt_port}"


@dataclass(frozen=True, slots=True)
class WebSocketOffer:
    """What a device needs for WebSocket. ``version``: of the binary messages, 1, 2 or 3. The token does not show in the representation."""

    url: str
    token: str = field(repr=False)
    version: int

    def __post_init__(self) -> None:
        if not _WEBSOCKET_URL.fullmatch(self.url):
            raise ManifestError(f"devices cannot connect to {self.url[:80]!r}: give ws://host[:port]/path or wss://host/path")
        if self.version not in {1, 2, 3}:
            raise ManifestError(f"there is no version {self.version} of the binary messages")


@dataclass(frozen=True, slots=True)
class FirmwareOffer:
    """Firmware that the device downloads and flashes when it is newer; with ``force`` whatever it runs."""

    version: str
    url: str
    force: bool = False

    def __post_init__(self) -> None:
        if not is_safe_version(self.version):
            raise ManifestError(f"the version {self.version[:40]!r} would crash devices: only numbers and dots")
        if not _HTTP_URL.fullmatch(self.url):
            raise ManifestError(f"devices cannot download from {self.url[:80]!r}: give http://host[:port]/path or https://host/path")


@dataclass(frozen=True, slots=True)
class ActivationNotice:
    """What an unknown device shows and speaks. ``message`` is shown and must contain the code; its digits are spoken."""

    code: str
    message: str
    challenge: str
    timeout_ms: int = 30_000


def build_manifest(
    *,
    endpoints: Endpoints,
    credentials: Credentials | None,
    activation: ActivationNotice | None,
    device_version: str,
    now_ms: int,
    timezone_offset_min: int,
    keepalive_s: int,
    websocket: WebSocketOffer | None = None,
    firmware: FirmwareOffer | None = None,
    publish_topic: str = PUBLISH_TOPIC,
    subscribe_topic: str = SUBSCRIBE_TOPIC,
) -> dict[str, Any]:
    """The JSON object. ``mqtt`` is in it only with credentials, ``websocket`` only with an offer.

    The topics matter at a broker alone. Raises ManifestError.
    """
    manifest: dict[str, Any] = {"server_time": {"timestamp": now_ms, "timezone_offset": timezone_offset_min}}
    if is_safe_version(device_version):
        # Without an offer equal to what runs, so never newer. A device whose own version stoi cannot read must not be made to
        # compare: nothing is sent.
        manifest["firmware"] = _firmware(firmware) if firmware else {"version": device_version, "url": ""}
    if credentials is not None:
        manifest["mqtt"] = _stored_in_flash(
            {
                "endpoint": endpoints.mqtt,
                "client_id": credentials.client_id,
                "username": credentials.username,
                "password": credentials.password,
                "publish_topic": publish_topic,
                "subscribe_topic": subscribe_topic,
                "keepalive": keepalive_s,
            }
        )
    if websocket is not None:
        manifest["websocket"] = _stored_in_flash({"url": websocket.url, "token": websocket.token, "version": websocket.version})
    if activation is not None:
        if not activation.challenge or activation.code not in activation.message or not re.fullmatch("[0-9]+", activation.code):
            raise ManifestError("an activation needs a code of digits, a message that contains it, and a challenge")
        manifest["activation"] = {
            "code": activation.code,
            "message": activation.message,
            "challenge": activation.challenge,
            "timeout_ms": activation.timeout_ms,
        }
    return manifest


def _firmware(offer: FirmwareOffer) -> dict[str, str | int]:
    section: dict[str, str | int] = {"version": offer.version, "url": offer.url}
    return section | {"force": 1} if offer.force else section


def is_safe_version(version: str) -> bool:
    """True for ``1.2.3`` and the like whose every segment fits ``std::stoi``."""
    if len(version) > MAX_VERSION_CHARS or not _VERSION.fullmatch(version):
        return False
    return all(int(segment) <= MAX_STOI for segment in version.split("."))


def _stored_in_flash(section: dict[str, str | int]) -> dict[str, str | int]:
    for key, value in section.items():
        if len(key) > MAX_NVS_KEY_CHARS:
            raise ManifestError(f"the key {key!r} is longer than {MAX_NVS_KEY_CHARS} characters")
        if isinstance(value, str) and not 0 < len(value.encode()) <= MAX_NVS_VALUE_BYTES:
            raise ManifestError(f"the value of {key!r} is empty or longer than {MAX_NVS_VALUE_BYTES} bytes")
        if isinstance(value, int) and not 0 <= value <= MAX_STOI:
            raise ManifestError(f"the value of {key!r} is no positive 32-bit number")
    return section
