"""The way that a device goes, with a throw-away simulated one: HTTP, MQTT, hello, audio both ways.

The device has a random locally administered MAC address. What it leaves behind on the server it takes away itself at
the end (``DELETE`` on the OTA address, with its own MQTT credentials), so that needs no token and works from any machine.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpx

from bridge.device import Device, DeviceError, DeviceOptions, TurnRecord, is_message
from bridge.device.errors import HelloError, MqttError, OtaError
from bridge.device.ota_client import MqttSettings
from bridge.doctor.findings import Finding, failure, left_out, ok, warning
from bridge.doctor.judgement import judge_clock, judge_given_host, judge_version
from bridge.doctor.probe import PROBE_TEXT
from bridge.errors import OperatorError
from mqtt_control.codec import Connack, Connect, Decoder, MalformedPacket, PacketTooLarge, encode

HTTP_TIMEOUT_S: Final = 10.0
MQTT_TIMEOUT_S: Final = 10.0
ALERT_WAIT_S: Final = 3.5
"""The server tells a listening device after 3 s that nothing arrives from it."""
REPLY_TIMEOUT_S: Final = 30.0
_AFTER_OTA = ("clock", "mqtt address", "mqtt refusal", "credentials", "hello", "udp")

Approve = Callable[[str], object]
"""Lets in the device that shows this code. Raises OperatorError."""


class _NeedsApproval(DeviceError):
    """The server asked for a person."""

    def __init__(self, code: str) -> None:
        super().__init__("The server lets in new devices only when a person confirms their code.")
        self.code = code


@dataclass(slots=True)
class WireExamination:
    """One walk over the wire; :meth:`findings` yields as it goes. ``approve`` is used when enrolment is by code."""

    ota_url: str
    own_version: str
    approve: Approve | None = None
    tls: ssl.SSLContext | None = None
    alert_wait_s: float = ALERT_WAIT_S
    reply_timeout_s: float = REPLY_TIMEOUT_S
    device_id: str = field(default_factory=lambda: "02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5)))

    async def findings(self) -> AsyncGenerator[Finding, None]:
        """Consume under ``aclosing``: the device is taken off the server in any case."""
        http = await self._check_http()
        for finding in http:
            yield finding
        if any(finding.level == "failure" for finding in http):
            for check in ("ota", *_AFTER_OTA):
                yield left_out(check, "the server cannot be reached over HTTP")
            return
        device = Device(self._options())
        walked: list[Finding] = []
        async with device:
            try:
                await self._walk(device, walked)
            finally:
                walked += await self._take_away(device)
        for finding in walked:
            yield finding

    def _options(self) -> DeviceOptions:
        def activation(code: str, _message: str) -> None:
            raise _NeedsApproval(code)

        return DeviceOptions(ota_url=self.ota_url, device_id=self.device_id, on_activation=activation, tls=self.tls, decode=False)

    # -- HTTP ----------------------------------------------------------------------------------------------------------
    async def _check_http(self) -> list[Finding]:
        parts = urlsplit(self.ota_url)
        root = f"{parts.scheme}://{parts.netloc}/"
        try:
            async with httpx.AsyncClient(timeout=HTTP_TIMEOUT_S, trust_env=False) as http:
                answer = await http.get(root)
                about = answer.json() if answer.is_success else None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return [
                failure(
                    "http",
                    f"{root} cannot be reached ({type(error).__name__})",
                    "Start the server; if it runs, check the address, http.host, and that the firewall lets this TCP port in.",
                )
            ]
        except ValueError:
            about = None
        if not isinstance(about, dict) or about.get("service") != "xiaozhi-bridge":
            return [ok("http", root), left_out("version", "another kind of server answers there")]
        return [ok("http", root), judge_version(own=self.own_version, server=str(about.get("version") or "")[:40])]

    # -- the device ----------------------------------------------------------------------------------------------------
    async def _walk(self, device: Device, found: list[Finding]) -> None:
        remaining = ["ota", *_AFTER_OTA]

        def note(finding: Finding) -> None:
            found.append(finding)
            if finding.check in remaining:
                remaining.remove(finding.check)

        try:
            await self._boot(device, note)
            await self._open(device, note)
            await self._talk(device, note)
        except OtaError as error:
            note(_ota_finding(error))
        except _NeedsApproval as error:
            note(left_out("ota", str(error), "Run it on the server's machine with its data_dir, where it may confirm its own device."))
        except MqttError as error:
            note(failure("credentials", str(error), "Check that this TCP port is let in by the firewall and forwarded to this server."))
        except HelloError as error:
            note(failure("hello", str(error), "Look into the server's log: it says why it refused."))
        found.extend(left_out(check, "an earlier step failed") for check in remaining)

    async def _boot(self, device: Device, note: Callable[[Finding], None]) -> None:
        before_ms = _now_ms()
        try:
            await device.boot()
        except _NeedsApproval as error:
            if self.approve is None:
                raise
            try:
                await asyncio.to_thread(self.approve, error.code)
            except OperatorError as refused:
                note(left_out("ota", f"its code could not be confirmed: {refused.message}"))
                raise _NeedsApproval(error.code) from refused
            await device.boot()
        except MqttError:
            self._after_ota(device, before_ms, note)
            if device.mqtt is not None:
                note(await check_refusal(device.mqtt, tls=self.tls))
            raise
        self._after_ota(device, before_ms, note)
        assert device.mqtt is not None  # noqa: S101 - boot() has set it
        note(await check_refusal(device.mqtt, tls=self.tls))
        note(ok("credentials", "those of the OTA answer are accepted"))

    def _after_ota(self, device: Device, before_ms: int, note: Callable[[Finding], None]) -> None:
        note(ok("ota", self.ota_url))
        server_time = device.ota_answer.get("server_time")
        timestamp = server_time.get("timestamp") if isinstance(server_time, dict) else None
        note(judge_clock(server_ms=timestamp, before_ms=before_ms, after_ms=_now_ms()))
        if device.mqtt is not None:
            note(judge_given_host("mqtt address", device.mqtt.host, urlsplit(self.ota_url).hostname or ""))

    async def _open(self, device: Device, note: Callable[[Finding], None]) -> None:
        await device.open_channel()
        assert device.grant is not None  # noqa: S101 - open_channel() has set it
        note(ok("hello", "answered"))
        note(judge_given_host("udp address", device.grant.server, urlsplit(self.ota_url).hostname or ""))

    async def _talk(self, device: Device, note: Callable[[Finding], None]) -> None:
        """Listen, so that packets go out; have the server say its sentence."""
        assert device.grant is not None  # noqa: S101 - the channel is open
        where = f"{device.grant.server}:{device.grant.port}"
        before = device.snapshot()
        await device.start_listening("auto")
        with suppress(TimeoutError):
            alert = await device.wait_for(is_message("alert"), timeout_s=self.alert_wait_s, since=before.mark)
            note(failure("udp", f"the server does not receive audio sent to {where}: {str(alert.message.get('message'))[:200]}", _UDP_FIX))
            return
        await device.send({"session_id": device.session_id, "type": "listen", "state": "detect", "text": PROBE_TEXT})
        try:
            record = await device.await_reply(before, timeout_s=self.reply_timeout_s)
        except DeviceError as error:
            note(_silence_finding(error.record or TurnRecord(), where, fault=str(error)))
            return
        counters = record.counters
        if not counters.downlink_packets:
            note(_silence_finding(record, where, fault=""))
            return
        note(ok("udp", f"{where}, {counters.uplink_packets} packets sent, {counters.downlink_packets} received"))

    async def _take_away(self, device: Device) -> list[Finding]:
        """Leave no trace. The device has hung up before, so that the server need not."""
        if device.mqtt is None:
            return []
        with suppress(DeviceError):
            await device.goodbye()
        headers = {"Device-Id": device.hardware.device_id, "Client-Id": device.hardware.client_id}
        fix = f"Remove it: xiaozhi-bridge devices forget {self.device_id}"
        try:
            async with httpx.AsyncClient(timeout=HTTP_TIMEOUT_S, trust_env=False) as http:
                answer = await http.delete(self.ota_url, headers=headers, auth=(device.mqtt.username, device.mqtt.password))
        except httpx.HTTPError as error:
            return [warning("clean-up", f"the doctor's device is still registered ({type(error).__name__})", fix)]
        if answer.status_code in {200, 404}:
            return [ok("clean-up", "the doctor's device is gone")]
        return [warning("clean-up", f"the doctor's device is still registered (HTTP {answer.status_code})", fix)]


_UDP_FIX = (
    "Let this UDP port in through the firewall, forward it in routers and container hosts, and check advertise.host and advertise.udp_port."
)


def _ota_finding(error: OtaError) -> Finding:
    if error.status_code == 403:
        return left_out("ota", "the server lets in no new devices (enrolment: closed)", "Set enrolment: open meanwhile to check the rest.")
    return failure("ota", str(error), "Check the path of the OTA address (/xiaozhi/ota/) and the server's log.")


def _silence_finding(record: TurnRecord, where: str, *, fault: str) -> Finding:
    """Why the sentence was not heard, as far as the device can know. ``fault``: what it says itself, if anything."""
    if record.counters.downlink_packets:
        return failure("udp", f"{where}: {fault}", "Look into the server's log.")
    if record.alerts:
        return left_out(
            "udp", f"the server could not speak: {record.alerts[-1][:200]}", "Mend its speech synthesis: xiaozhi-bridge try tts."
        )
    if record.stamps.tts_start is not None:
        return failure("udp", f"the server spoke, but no audio came back from {where}", _UDP_FIX)
    return left_out("udp", "the server did not answer the doctor's question", "Only a server of this project knows it; look into its log.")


async def check_refusal(settings: MqttSettings, *, tls: ssl.SSLContext | None = None) -> Finding:
    """A CONNECT with a wrong password must be answered with CONNACK 4 or 5."""
    check, where = "mqtt refusal", f"{settings.host}:{settings.port}"
    context = (tls or ssl.create_default_context()) if settings.tls else None
    password = base64.b64encode(secrets.token_bytes(32))
    connect = encode(Connect(settings.client_id, keepalive_s=30, username=settings.username, password=password))
    try:
        async with asyncio.timeout(MQTT_TIMEOUT_S):
            code = await _connack(settings.host, settings.port, connect, context)
    except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
        return failure(
            check,
            f"{where} cannot be reached ({str(error) or 'no answer'})",
            "Check that this TCP port is let in by the firewall and forwarded to this server.",
        )
    if code in {4, 5}:
        return ok(check, f"{where} turns a wrong password away")
    if code == 0:
        return failure(check, f"{where} lets in a wrong password", "Something else listens there: advertise the port of this server.")
    told = "closed the connection without a word" if code is None else f"answered CONNACK {code}"
    return warning(check, f"{where} {told}", "If it is this server, it limits this address (limits in its settings): wait a minute.")


async def _connack(host: str, port: int, connect: bytes, context: ssl.SSLContext | None) -> int | None:
    """The return code; None when the connection ended first."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    decoder = Decoder(1024)
    try:
        writer.write(connect)
        while data := await reader.read(1024):
            decoder.write(data)
            packet = decoder.read()
            if packet is not None:
                return packet.return_code if isinstance(packet, Connack) else -1
    except (MalformedPacket, PacketTooLarge):
        return -1
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return None


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
