"""The doctor against a real bridge with scripted engines, over loopback."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.doctor.examination import examine_here, ota_url_of
from bridge.doctor.findings import Finding, Level
from bridge.doctor.wire import WireExamination, check_refusal
from bridge.errors import OperatorError
from bridge.release import release
from providers.base import ProviderUnavailable
from settings.load import load
from tests.bridge.running_bridge import running_bridge
from tests.scripted import ScriptedTts

TOKEN = "let-me-in"
EVERY_CHECK = {"http", "version", "ota", "clock", "mqtt address", "mqtt refusal", "credentials", "hello", "udp address", "udp", "clean-up"}


async def examined(url: str, **options: Any) -> dict[str, Finding]:
    walk = WireExamination(url, own_version=release(), alert_wait_s=0.2, reply_timeout_s=10, **options).findings()
    async with aclosing(walk):
        return {finding.check: finding async for finding in walk}


async def known_devices(port: int) -> list[Any]:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/api/devices", headers={"Authorization": f"Bearer {TOKEN}"})
    return list(answer.json()["devices"])


async def test_a_healthy_server_and_no_trace_afterwards(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, {"admin.token": TOKEN}) as facts:
        found = await examined(facts.ota_url)
        assert await known_devices(facts.http_port) == []
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://127.0.0.1:{facts.http_port}/metrics")).text
    assert {check: str(finding.level) for check, finding in found.items()} == dict.fromkeys(EVERY_CHECK, "ok"), found
    assert "xiaozhi_bridge_devices_connected 0.0" in metrics
    assert "xiaozhi_ota_left_total 1.0" in metrics


async def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = await examined(f"http://127.0.0.1:{taken.getsockname()[1]}/xiaozhi/ota/")
    assert found["http"].level is Level.FAILURE
    assert {finding.level for check, finding in found.items() if check != "http"} == {Level.LEFT_OUT}


async def test_enrolment_by_code_needs_the_admin_api(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, {"admin.token": TOKEN, "enrolment": "code"}) as facts:
        found = await examined(facts.ota_url)
        assert found["ota"].level is Level.LEFT_OUT
        assert "data_dir" in found["ota"].fix
        tree = load(None, overrides={"data_dir": tmp_path, "advertise.host": "127.0.0.1"}).tree
        async with aclosing(examine_here(tree)) as here:
            found = {finding.check: finding async for finding in here}
        assert {str(found[check].level) for check in EVERY_CHECK} == {"ok"}, found
        assert all(device["status"] == "pending" for device in await known_devices(facts.http_port))


async def test_closed_enrolment_is_no_failure(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, {"enrolment": "closed"}) as facts:
        found = await examined(facts.ota_url)
    assert found["ota"].level is Level.LEFT_OUT
    assert "closed" in found["ota"].detail


async def test_audio_that_goes_astray(tmp_path: Path) -> None:
    """A wrong advertised UDP port: the sentence can never be sent, since no audio has come."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        async with running_bridge(tmp_path, {"advertise.udp_port": elsewhere.getsockname()[1]}) as facts:
            walk = WireExamination(facts.ota_url, own_version=release()).findings()
            async with aclosing(walk):
                found = {finding.check: finding async for finding in walk}
    assert found["udp"].level is Level.FAILURE
    assert "does not receive audio" in found["udp"].detail
    assert "advertise.udp_port" in found["udp"].fix
    assert found["clean-up"].level is Level.OK


async def test_a_server_without_a_voice_is_not_blamed_on_the_network(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tts=ScriptedTts(error=ProviderUnavailable("broken"))) as facts:
        found = await examined(facts.ota_url)
    assert found["udp"].level is Level.LEFT_OUT
    assert "could not speak" in found["udp"].detail


async def test_something_else_on_the_mqtt_port(tmp_path: Path) -> None:
    """A server that lets everybody in, one that hangs up, one that is no MQTT server."""
    answers = iter([b"\x20\x02\x00\x00", b"", b"\xff" * 40])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(next(answers))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    from bridge.device.ota_client import MqttSettings

    settings = MqttSettings(
        host="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        client_id="GID_default@@@02_00_00_00_00_01@@@x",
        username="u",
        password="p",
        publish_topic="device-server",
        subscribe_topic="null",
        keepalive_s=30,
    )
    async with server:
        assert [(await check_refusal(settings)).level for _ in range(3)] == [Level.FAILURE, Level.WARNING, Level.WARNING]
    assert (await check_refusal(settings)).level is Level.FAILURE


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("192.168.1.10", "http://192.168.1.10:8003/xiaozhi/ota/"),
        ("192.168.1.10:9000", "http://192.168.1.10:9000/xiaozhi/ota/"),
        ("https://bridge.example", "https://bridge.example:443/xiaozhi/ota/"),
        ("http://bridge.example/xiaozhi/ota", "http://bridge.example/xiaozhi/ota"),
    ],
)
def test_addresses_that_people_type(typed: str, url: str) -> None:
    assert ota_url_of(typed) == url


@pytest.mark.parametrize("typed", ["", "ftp://x", "http://", "host:port"])
def test_addresses_that_are_none(typed: str) -> None:
    with pytest.raises(OperatorError):
        ota_url_of(typed)
