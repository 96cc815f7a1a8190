"""What devices and mosquitto are told when control messages go through the user's own broker."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import pytest

from mqtt_control.credentials import CredentialsError, mint_for_broker, verify
from mqtt_control.identity import DeviceIdentity
from ota.broker import BrokerHandOff, hash_password, is_hash_of, password_file, write_password_file
from ota.devices import Device, DeviceFacts, DeviceStore, StoreError, read_registry
from ota.manifest import Endpoints, ManifestError, build_manifest
from tests.mosquitto import Mosquitto, needs_mosquitto

MAC = "02:00:00:00:00:0a"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# written by `mosquitto_passwd -b` of mosquitto 2.0.11 for user "u", password "correct horse"
FROM_MOSQUITTO = "$7$101$ezYYJ6m3tT5bi7xX$o0svS/yJc5ffDlcbUhAi+5OHqwGLqELqMqX0fDI1e+5nK8AY8GsNwponOeeEuRrAOjVhljhCC3vvURWWGV+xvA=="
PASSWD = shutil.which("mosquitto_passwd")


def device(mac: str = MAC, *, secret: bytes = b"secret", board: str = "", status: str = "approved") -> Device:
    assert status in {"approved", "pending"}
    return Device(DeviceIdentity(mac, "c"), "approved" if status == "approved" else "pending", NOW, NOW, DeviceFacts(board), "", secret)


# -- credentials and addresses -----------------------------------------------------------------------------------------
def test_credentials_at_the_broker() -> None:
    credentials = mint_for_broker(b"secret", DeviceIdentity(MAC, "c"))
    # HMAC-SHA256("secret", "GID_default@@@02_00_00_00_00_0a@@@c|02000000000a"), computed with OpenSSL
    assert credentials.username == "02000000000a"
    assert credentials.client_id == "GID_default@@@02_00_00_00_00_0a@@@c"
    assert credentials.password == "5e2RfZnBVwsWmObrDqW8axMwz5HPCzbvegl9F3wj0OI="
    assert verify(b"secret", client_id=credentials.client_id, username=credentials.username, password=credentials.password)
    assert credentials.password not in repr(credentials)
    with pytest.raises(CredentialsError):
        mint_for_broker(b"", DeviceIdentity(MAC, "c"))


def test_what_a_device_is_told() -> None:
    broker = BrokerHandOff(host="mqtt.example.org", port=8883, topic_root="xiaozhi")
    one = device()
    manifest = build_manifest(
        endpoints=broker.endpoints(Endpoints("192.0.2.1", 1883, "http://192.0.2.1:8003")),
        credentials=broker.credentials(one),
        activation=None,
        device_version="2.4.2",
        now_ms=0,
        timezone_offset_min=0,
        keepalive_s=240,
        publish_topic=broker.topics(one)["publish_topic"],
        subscribe_topic=broker.topics(one)["subscribe_topic"],
    )
    mqtt = manifest["mqtt"]
    assert mqtt["endpoint"] == "mqtt.example.org:8883"
    assert mqtt["publish_topic"] == "xiaozhi/02000000000a/up"
    assert mqtt["subscribe_topic"] == "xiaozhi/02000000000a/down"
    assert mqtt["username"] == "02000000000a"
    assert all(len(name) <= 15 for name in mqtt)
    with pytest.raises(ManifestError):
        BrokerHandOff(host="mqtt://x", port=1883, topic_root="xiaozhi").endpoints(Endpoints("192.0.2.1", 1883, ""))


@pytest.mark.parametrize(
    ("only", "served"),
    [((), True), ((MAC,), True), (("02:00:00:00:00:*",), True), (("py-*",), True), (("PY-XIAOZHI",), True), (("esp*", "aa:*"), False)],
)
def test_who_is_sent_to_the_broker(only: tuple[str, ...], served: bool) -> None:
    assert BrokerHandOff(host="h", port=1, topic_root="x", only=only).serves(device(board="Py-Xiaozhi")) is served


# -- mosquitto's password file -----------------------------------------------------------------------------------------
def test_hashes_are_those_of_mosquitto_passwd() -> None:
    assert is_hash_of(FROM_MOSQUITTO, "correct horse")
    assert not is_hash_of(FROM_MOSQUITTO, "correct horse ")
    assert is_hash_of(hash_password("x"), "x")
    assert hash_password("x") != hash_password("x"), "a new salt each time"
    for other in ("", "plain", "$6$c2FsdA==$aGFzaA==", "$7$101$!$x", "$7$1000$c2FsdA==$x", "$7$101$\u0661$x"):
        assert not is_hash_of(other, "x")


@pytest.mark.skipif(PASSWD is None, reason="no mosquitto_passwd on this machine: apt-get install mosquitto")
def test_mosquitto_passwd_and_we_understand_each_other(tmp_path: Path) -> None:
    assert PASSWD is not None
    path = tmp_path / "passwords"
    subprocess.run([PASSWD, "-b", "-c", str(path), "home", "pässword"], check=True, capture_output=True)
    assert is_hash_of(path.read_text().strip().partition(":")[2], "pässword")
    assert write_password_file(path, [device()])
    subprocess.run([PASSWD, "-b", str(path), "other", "x"], check=True, capture_output=True)
    assert [line.partition(":")[0] for line in path.read_text().splitlines()] == ["home", "02000000000a", "other"]
    assert not write_password_file(path, [device()])


def test_the_file_keeps_what_is_right() -> None:
    first = password_file("# people\nhome:$7$x\n", [device(), device("02:00:00:00:00:0b")])
    lines = first.splitlines()
    assert lines[:2] == ["# people", "home:$7$x"]
    assert [line.partition(":")[0] for line in lines[2:]] == ["02000000000a", "02000000000b"]
    assert password_file(first, [device(), device("02:00:00:00:00:0b")]) == first
    rotated = password_file(first, [device(secret=b"another"), device("02:00:00:00:00:0b")]).splitlines()
    assert rotated[2] != lines[2]
    assert rotated[3] == lines[3]
    assert password_file(first, [device(), device("02:00:00:00:00:0b", status="pending")]).splitlines() == lines[:3]
    assert password_file(f"{first}{lines[2]}\n", [device()]).splitlines() == lines[:3], "a user stands in it once"
    assert password_file("", []) == ""


def test_the_file_is_written_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    assert write_password_file(path, [device()])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    before = path.stat().st_mtime_ns
    assert not write_password_file(path, [device()])
    assert path.stat().st_mtime_ns == before
    assert write_password_file(path, [device(secret=b"another")])
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="directory"):
        write_password_file(tmp_path / "nowhere" / "passwords", [])


async def test_the_registry_is_read_beside_the_running_server(tmp_path: Path) -> None:
    path = tmp_path / "devices.sqlite3"
    with pytest.raises(StoreError, match="there is none"):
        read_registry(path)
    store = DeviceStore()
    await store.open(path)
    enrolled = (await store.enrol(MAC, "c", DeviceFacts("board", "2.4.2"))).device
    assert enrolled is not None
    assert store.approved(MAC) == enrolled.identity
    assert store.approved("02:00:00:00:00:0b") is None
    (found,) = read_registry(path)
    assert (found.identity, found.secret) == (enrolled.identity, enrolled.secret)
    await store.aclose()
    assert [one.device_id for one in read_registry(path)] == [MAC]
    path.write_bytes(b"no database, but long enough to be looked at as one" * 100)
    with pytest.raises(StoreError, match="no device registry"):
        read_registry(path)


@needs_mosquitto
async def test_a_real_mosquitto_takes_the_file(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    assert write_password_file(mosquitto.passwords, [device()])
    credentials = mint_for_broker(b"secret", DeviceIdentity(MAC, "c"))
    async with mosquitto:
        async with mosquitto.client((credentials.username, credentials.password), identifier=credentials.client_id):
            pass
        with pytest.raises(aiomqtt.MqttError):
            async with mosquitto.client((credentials.username, "another")):
                pytest.fail("let in")
