"""check-version and activation as the firmware does them, with its crashes turned into errors."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import httpx

from bridge.device.errors import FirmwareCrashError, OtaError
from bridge.device.hello import is_number
from bridge.device.profiles import Profile

_MAX_KEY_CHARACTERS: Final = 15
_MAX_VALUE_BYTES: Final = 3999
_TIMEOUT_S: Final = 30.0
_MAX_CHECKS: Final = 50
_STOI: Final = re.compile(r"\s*[+-]?\d")
"""What ``std::stoi`` accepts the beginning of; anything else throws, uncaught."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """The ``mqtt`` section as stored. ``repr`` keeps credentials out of logs."""

    host: str
    port: int
    client_id: str
    username: str
    password: str
    publish_topic: str
    subscribe_topic: str
    keepalive_s: int

    @property
    def tls(self) -> bool:
        """Only port 8883 is TLS, which is also the port when none is named."""
        return self.port == 8883

    def __repr__(self) -> str:
        return f"MqttSettings(host={self.host!r}, port={self.port}, publish_topic={self.publish_topic!r}, keepalive_s={self.keepalive_s})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketSettings:
    """The ``websocket`` section as stored. ``repr`` keeps the token out of logs."""

    url: str
    token: str = field(repr=False)
    version: int


Transport: TypeAlias = Literal["auto", "mqtt", "websocket"]
"""``auto`` is the firmware's choice: MQTT when it is offered, else WebSocket when that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Who asks. ``serial_number`` and ``hmac_key`` stand for the eFuse block of retail devices."""

    device_id: str
    client_id: str
    board: str = "simulated"
    language: str = "en-US"
    serial_number: str = ""
    hmac_key: bytes = b""

    @classmethod
    def of(cls, device_id: str, client_id: str = "") -> Hardware:
        """The device of this MAC. Without a client id it gets a UUID v4 that is the same at every boot, as kept in flash."""
        kept = uuid.UUID(bytes=hashlib.sha256(device_id.encode()).digest()[:16], version=4)
        return cls(device_id=device_id, client_id=client_id or str(kept))

    def system_info(self, profile: Profile) -> dict[str, Any]:
        """The check-version body, complete with what servers usually ignore."""
        assets = {"label": "assets", "type": 1, "subtype": 130, "address": 8_388_608, "size": 8_388_608}
        return {
            "version": 2,
            "language": self.language,
            "flash_size": 16_777_216,
            "minimum_free_heap_size": "123456",
            "mac_address": self.device_id,
            "uuid": self.client_id,
            "chip_model_name": "esp32s3",
            "chip_info": {"model": 9, "cores": 2, "revision": 2, "features": 18},
            "application": {
                "name": "xiaozhi",
                "version": profile.firmware_version,
                "compile_time": "Jan  1 2026T00:00:00Z",
                "idf_version": "v5.5.2",
                "elf_sha256": hashlib.sha256(profile.firmware_version.encode()).hexdigest(),
            },
            "partition_table": [
                {"label": "nvs", "type": 1, "subtype": 2, "address": 36_864, "size": 16_384},
                {"label": "ota_0", "type": 0, "subtype": 16, "address": 131_072, "size": 4_128_768},
                {"label": "ota_1", "type": 0, "subtype": 17, "address": 4_259_840, "size": 4_128_768},
                *([assets] if profile.firmware_version >= "2" else []),
            ],
            "ota": {"label": "ota_0"},
            "display": {"monochrome": False, "width": 320, "height": 240},
            "board": {
                "type": self.board,
                "name": self.board,
                "manufacturer": "simulated",
                "ssid": "simulated",
                "rssi": -50,
                "channel": 1,
                "ip": "127.0.0.1",
                "mac": self.device_id,
            },
        }

    def headers(self, profile: Profile) -> dict[str, str]:
        headers = {
            "Device-Id": self.device_id,
            "Client-Id": self.client_id,
            "Activation-Version": "2" if self.serial_number else profile.activation_version,
            "User-Agent": f"{self.board}/{profile.firmware_version}",
            "Accept-Language": self.language,
            "Content-Type": "application/json",
            "Connection": "close",
        }
        if self.serial_number:
            headers["Serial-Number"] = self.serial_number
        return headers


@dataclass(frozen=True, slots=True, kw_only=True)
class OtaTiming:
    """The firmware's waits; tests shorten them."""

    attempts: int = 1
    """The firmware tries ten times; a person at a terminal wants to know at once."""
    retry_s: float = 10.0
    """Doubles from attempt to attempt."""
    pending_s: float = 3.0
    refused_s: float = 10.0
    polls: int = 10


class OtaClient:
    """One boot's conversation with the OTA address."""

    def __init__(
        self,
        url: str,
        *,
        hardware: Hardware,
        profile: Profile,
        on_activation: Callable[[str, str], None] = lambda _code, _message: None,
        timing: OtaTiming | None = None,
    ) -> None:
        self._url = url
        self._hardware = hardware
        self._profile = profile
        self._on_activation = on_activation
        self._timing = timing or OtaTiming()
        self.answer: dict[str, Any] = {}
        """The last answer of check-version, whole."""

    async def fetch(self) -> MqttSettings:
        """The MQTT settings of :meth:`check`. Raises as that."""
        return read_mqtt_section(await self.check())

    async def check(self) -> dict[str, Any]:
        """Check the version, and activate as long as the server asks for it; the last answer.

        Raises :class:`OtaError` (unreachable, not usable) or :class:`FirmwareCrashError`. Cancellation leaves nothing behind.
        """
        if len(self._url) < 10 or urlsplit(self._url).scheme not in {"http", "https"}:
            raise OtaError(f"{self._url!r} is no OTA address: it must begin with http:// or https://.")
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False, headers=self._hardware.headers(self._profile)) as http:
            for _ in range(_MAX_CHECKS):
                self.answer = await self._check_version(http)
                activation = self.answer.get("activation")
                if not isinstance(activation, dict) or not ({"code", "challenge"} & activation.keys()):
                    return self.answer
                await self._activate(http, activation)
        raise OtaError("The server asked for activation again and again, even after it had confirmed it.")

    async def _check_version(self, http: httpx.AsyncClient) -> dict[str, Any]:
        wait_s = self._timing.retry_s
        for attempt in range(1, self._timing.attempts + 1):
            try:
                response = await http.post(self._url, json=self._hardware.system_info(self._profile))
                return _read_answer(self._url, response)
            except httpx.HTTPError as error:
                fault = OtaError(f"The OTA address {self._url} cannot be reached ({type(error).__name__}): is the server running there?")
            except OtaError as error:
                fault = error
            if attempt < self._timing.attempts:
                await asyncio.sleep(wait_s)
                wait_s *= 2
        raise fault

    async def _activate(self, http: httpx.AsyncClient, activation: dict[str, Any]) -> None:
        """Show the code and poll until the server has confirmed, or the polls are used up."""
        code, challenge = activation.get("code"), activation.get("challenge")
        self._on_activation(code if isinstance(code, str) else "", str(activation.get("message", "")))
        url = self._url + ("" if self._url.endswith("/") else "/") + "activate"
        for _ in range(self._timing.polls):
            if not isinstance(challenge, str):
                await asyncio.sleep(self._timing.refused_s)  # without a challenge firmware only waits
                continue
            try:
                response = await http.post(url, json=self._activation_body(challenge))
            except httpx.HTTPError as error:
                raise OtaError(f"The activation address {url} cannot be reached ({type(error).__name__}).") from error
            if response.status_code == 200:
                return
            await asyncio.sleep(self._timing.pending_s if response.status_code == 202 else self._timing.refused_s)

    def _activation_body(self, challenge: str) -> dict[str, Any]:
        if not self._hardware.serial_number and not self._profile.wraps_activation:
            return {}
        body = {
            "algorithm": "hmac-sha256",
            "serial_number": self._hardware.serial_number,
            "challenge": challenge,
            "hmac": hmac.new(self._hardware.hmac_key, challenge.encode(), hashlib.sha256).hexdigest(),
        }
        return {"Payload": body} if self._profile.wraps_activation else body


def read_settings(answer: dict[str, Any], transport: Transport) -> MqttSettings | WebSocketSettings:
    """What the device connects to, after a check-version answer. Raises :class:`OtaError`."""
    if transport == "auto":
        transport = "websocket" if "mqtt" not in answer and "websocket" in answer else "mqtt"
    return read_websocket_section(answer) if transport == "websocket" else read_mqtt_section(answer)


def read_websocket_section(answer: dict[str, Any]) -> WebSocketSettings:
    """The WebSocket settings of a check-version answer, after the same traps."""
    section = answer.get("websocket")
    if not isinstance(section, dict):
        raise OtaError("The OTA answer has no websocket section: is websocket.enabled set on the server?")
    _check_traps(answer, "websocket", section)
    url, token, version = section.get("url"), section.get("token"), section.get("version", 1)
    if not isinstance(url, str) or urlsplit(url).scheme not in {"ws", "wss"}:
        raise OtaError("The OTA answer has no usable websocket.url.")
    return WebSocketSettings(url=url, token=token if isinstance(token, str) else "", version=int(version) if is_number(version) else 1)


def read_mqtt_section(answer: dict[str, Any]) -> MqttSettings:
    """The MQTT settings of a check-version answer, after the traps that put hardware into a boot loop."""
    mqtt = answer.get("mqtt")
    if not isinstance(mqtt, dict):
        mqtt = {}
    _check_traps(answer, "mqtt", mqtt)
    if not mqtt:
        other = "only a websocket section: this device speaks MQTT and UDP" if "websocket" in answer else "no mqtt section"
        raise OtaError(f"The OTA answer has {other}.")

    def text(name: str) -> str:
        value = mqtt.get(name)
        return value if isinstance(value, str) else ""

    host, port = split_endpoint(text("endpoint"))
    if not text("publish_topic"):
        raise OtaError("The OTA answer has no mqtt.publish_topic: a device could not send anything.")
    keepalive = mqtt.get("keepalive")
    return MqttSettings(
        host=host,
        port=port,
        client_id=text("client_id"),
        username=text("username"),
        password=text("password"),
        publish_topic=text("publish_topic"),
        subscribe_topic=text("subscribe_topic"),
        keepalive_s=int(keepalive) if is_number(keepalive) else 240,
    )


def _check_traps(answer: dict[str, Any], name: str, section: dict[str, Any]) -> None:
    """Raise :class:`FirmwareCrashError` for what would abort stock firmware: it stores the section as it is."""
    firmware = answer.get("firmware")
    if isinstance(firmware, dict):
        _check_version_number(firmware.get("version"), has_url=isinstance(firmware.get("url"), str))
    for key, value in section.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool) and len(key) > _MAX_KEY_CHARACTERS:
            raise FirmwareCrashError(f"The OTA answer would crash devices: the key {name}.{key} is longer than 15 characters.")
        if isinstance(value, str) and len(value.encode()) > _MAX_VALUE_BYTES:
            raise FirmwareCrashError(f"The OTA answer would crash devices: {name}.{key} is longer than 3999 bytes.")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """``host`` or ``host:port``, cut at the first colon as firmware does; without a port it is 8883."""
    if not endpoint:
        raise OtaError("The OTA answer has no mqtt.endpoint.")
    host, colon, port = endpoint.partition(":")
    if not colon:
        return host, 8883
    if not _STOI.match(port):
        raise FirmwareCrashError(f"The OTA answer would crash devices: mqtt.endpoint {endpoint!r} is not host or host:port.")
    number = int(re.match(r"\s*[+-]?\d+", port)[0])  # type: ignore[index]  # _STOI has matched
    if not 1 <= number <= 65_535:
        raise OtaError(f"mqtt.endpoint {endpoint!r} has no usable port.")
    return host, number


def _check_version_number(version: object, *, has_url: bool) -> None:
    if not isinstance(version, str) or not has_url or not version:
        return
    if not all(_STOI.match(segment) for segment in version.split(".")):
        raise FirmwareCrashError(f"The OTA answer would crash devices: firmware.version {version[:40]!r} is not numbers and dots.")


def _read_answer(url: str, response: httpx.Response) -> dict[str, Any]:
    if response.status_code != 200:
        error = OtaError(f"The OTA address {url} answered {response.status_code} where devices expect 200.")
        error.status_code = response.status_code
        raise error
    try:
        answer = response.json()
    except (ValueError, RecursionError) as error:
        raise OtaError(f"The OTA address {url} did not answer with JSON: is it the right path?") from error
    if not isinstance(answer, dict):
        raise OtaError(f"The OTA address {url} did not answer with a JSON object.")
    return answer
