"""TLS: the certificate in force, its renewal while the server runs, and a bridge without a plain port."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from bridge.certificate import ServerCertificate
from bridge.device import Device, DeviceOptions
from bridge.device.errors import MqttError
from bridge.errors import OperatorError
from bridge.scope import task_scope
from mqtt_control.codec import Connack, Connect, Pingreq, Pingresp, encode
from mqtt_control.front import Front
from mqtt_control.identity import DeviceIdentity, parse_client_id
from mqtt_control.messages import Inbound, Outbound
from settings.model import Mqtt
from tests.bridge.certificates import write_certificate
from tests.bridge.running_bridge import running_bridge

STOCK_TLS_PORT = 8883


def replace(where: Path, by: tuple[Path, Path]) -> None:
    for source, suffix in zip(by, (".pem", ".key"), strict=True):
        shutil.copy(source, where.with_suffix(suffix))


async def serial_served(port: int, *trusted: Path, name: str | None) -> int:
    """Shake hands as ``name`` (no server name for None) and return the serial number of what was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = name is not None
    for path in trusted:
        context.load_verify_locations(path)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    shown: Any = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return int(shown["serialNumber"], 16)


async def renewal(directory: Path) -> None:
    live = directory / "live"
    first = write_certificate(directory / "first", names=["bridge.example", "127.0.0.1"], serial=101)
    second = write_certificate(directory / "second", names=["bridge.example", "127.0.0.1"], serial=102)
    replace(live, first)
    certificate = ServerCertificate(live.with_suffix(".pem"), live.with_suffix(".key"))
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context)
    port = server.sockets[0].getsockname()[1]

    async def served() -> set[int]:
        return {await serial_served(port, first[0], second[0], name=name) for name in ("bridge.example", "127.0.0.1", None)}

    async with server:
        assert await served() == {101}
        assert not certificate.refresh()
        replace(live, second)
        assert certificate.refresh()
        assert await served() == {102}
        live.with_suffix(".pem").write_bytes(first[0].read_bytes())  # half of the next pair: its key is still missing
        with capture_logs() as logs:
            assert not certificate.refresh()
            assert not certificate.refresh()
        assert [entry["event"] for entry in logs] == ["the renewed certificate cannot be used, the old one stays in force"]
        assert await served() == {102}
        live.with_suffix(".key").write_text("nonsense")
        assert not certificate.refresh()
        live.with_suffix(".key").unlink()
        assert not certificate.refresh()
        assert await served() == {102}
        replace(live, first)
        assert certificate.refresh()
        assert await served() == {101}
    assert certificate.reloads == 2


async def test_renewal_while_running(tmp_path: Path) -> None:
    await renewal(tmp_path)


def test_renewal_on_uvloop(tmp_path: Path) -> None:
    uvloop.run(renewal(tmp_path))


async def let_in(device: DeviceIdentity, port: int, *trusted: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """An MQTT connection over TLS, and the serial number of the certificate that it was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in trusted:
        context.load_verify_locations(path)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(encode(Connect(device.mqtt_client_id, 240, True, "user", b"password")))
    assert await reader.readexactly(4) == encode(Connack(0))
    shown: Any = writer.get_extra_info("ssl_object").getpeercert()
    return reader, writer, int(shown["serialNumber"], 16)


class Deaf:
    """A listener that does nothing."""

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None: ...

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None: ...

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None: ...

    def device_disconnected(self, identity: DeviceIdentity) -> None: ...


async def outliving(directory: Path) -> None:
    """Devices that are connected go on with the certificate they know; those that come see the new one."""
    live = directory / "live"
    first, second = (write_certificate(directory / f"{serial}", names=["127.0.0.1"], serial=serial) for serial in (101, 102))
    replace(live, first)
    certificate = ServerCertificate(live.with_suffix(".pem"), live.with_suffix(".key"))
    front = Front(Mqtt(), authenticate=lambda client_id, *_: parse_client_id(client_id), listener=Deaf())
    port = await front.start(host="127.0.0.1", port=0, ssl=certificate.context)
    async with asyncio.timeout(20):
        old, old_writer, serial = await let_in(DeviceIdentity("02:00:00:00:00:01", "a"), port, first[0], second[0])
        assert serial == 101
        replace(live, second)
        assert certificate.refresh()
        new, new_writer, serial = await let_in(DeviceIdentity("02:00:00:00:00:02", "b"), port, first[0], second[0])
        assert serial == 102
        for reader, writer in ((old, old_writer), (new, new_writer)):
            writer.write(encode(Pingreq()))
            assert await reader.readexactly(2) == encode(Pingresp())
            writer.close()
    assert front.stats.tls_failures == 0
    await front.aclose()


async def test_connections_outlive_the_renewal(tmp_path: Path) -> None:
    await outliving(tmp_path)


def test_connections_outlive_the_renewal_on_uvloop(tmp_path: Path) -> None:
    uvloop.run(outliving(tmp_path))


async def test_the_files_are_watched(tmp_path: Path) -> None:
    live = tmp_path / "live"
    replace(live, write_certificate(tmp_path / "first", names=["a"]))
    certificate = ServerCertificate(live.with_suffix(".pem"), live.with_suffix(".key"))
    replace(live, write_certificate(tmp_path / "second", names=["a"]))
    async with task_scope() as tasks, asyncio.timeout(10):
        tasks.create_task(certificate.watch(period_s=0.01))
        while not certificate.reloads:
            await asyncio.sleep(0.01)


def test_files_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    good = write_certificate(tmp_path / "good", names=["a"])
    other = write_certificate(tmp_path / "other", names=["a"])
    for pair in ((good[0], other[1]), (tmp_path / "none.pem", good[1]), (good[1], good[1])):
        with pytest.raises(OperatorError, match="cannot be used"):
            ServerCertificate(*pair)


async def test_only_tls_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"mqtt\.plain is false"):
        async with running_bridge(tmp_path, {"mqtt.plain": False}):
            pass
    with pytest.raises(OperatorError, match="both certificate and private_key"):
        async with running_bridge(tmp_path, {"mqtt.tls.certificate": tmp_path / "a.pem"}):
            pass


async def test_a_port_that_stock_devices_do_not_use_for_tls_is_told(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path / "own", names=["127.0.0.1"])
    files = {"mqtt.tls.certificate": certificate, "mqtt.tls.private_key": key, "mqtt.tls.port": 0}
    with capture_logs() as logs:
        async with running_bridge(tmp_path, files | {"mqtt.plain": False}) as facts:
            assert facts.mqtt_port is None
            assert facts.mqtt_tls_port
    assert [entry["told_port"] for entry in logs if "stock devices" in entry["event"]] == [facts.mqtt_tls_port]
    with capture_logs() as logs:
        async with running_bridge(tmp_path, files | {"advertise.mqtt_port": STOCK_TLS_PORT}):
            pass
        async with running_bridge(tmp_path, files):
            pass
    assert [entry for entry in logs if "stock devices" in entry["event"]] == []


def own_loopback_address() -> str:
    """One of 127/8 whose port 8883 is free: stock devices use TLS on that port alone. Skips the test where there is none."""
    for _ in range(20):
        address = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.{random.randint(1, 250)}"
        with socket.socket() as probe:
            try:
                probe.bind((address, STOCK_TLS_PORT))
            except OSError:
                continue
            return address
    pytest.skip("no loopback address with a free port 8883")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho lets go of a socket whose handshake failed
async def test_a_device_over_tls(tmp_path: Path) -> None:
    address = own_loopback_address()
    certificate, key = write_certificate(tmp_path / "own", names=[address])
    settings = {
        "mqtt.host": address,
        "advertise.host": address,
        "http.host": address,
        "udp.host": address,
        "mqtt.plain": False,
        "mqtt.tls.port": STOCK_TLS_PORT,
        "mqtt.tls.certificate": certificate,
        "mqtt.tls.private_key": key,
    }
    trust = ssl.create_default_context(cafile=str(certificate))
    async with running_bridge(tmp_path, settings) as facts:
        async with Device(DeviceOptions(ota_url=facts.ota_url, tls=trust)) as device:
            await device.boot()
            assert device.mqtt is not None
            assert (device.mqtt.host, device.mqtt.port, device.mqtt.tls) == (address, STOCK_TLS_PORT, True)
            await device.open_channel()
            assert device.grant is not None
        async with Device(DeviceOptions(ota_url=facts.ota_url)) as stranger:
            with pytest.raises(MqttError, match="TLS handshake"):
                await stranger.boot()
