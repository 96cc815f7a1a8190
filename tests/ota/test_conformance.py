"""The checklist for OTA and activation, item by item, against the running server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from ota.activation import Activations
from ota.manifest import Endpoints, ManifestError
from tests.ota.conftest import CLIENT_ID, MAC, Site, bearer, headers, running, stock_body

VERSIONS = ["2.4.2", "0.9.9", "1", "1.2.3.4.5", "007.1", "2147483647.0"]
GARBAGE = [
    "v2.5.0",
    "latest",
    "1..2",
    "",
    ".",
    "1.",
    "2.5.0-beta",
    "0-beta",
    "99999999999999999999.1",
    "2147483648",
    "١.٢",
    "1.2\n",
    "-1",
    " 1",
    "1" * 300,
]


def strings(section: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in section.items() if isinstance(value, str)}


async def test_check_001_stock_request_gets_an_object_with_its_length(site: Site) -> None:
    answer = await site.check()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize("body", [b"", b"{", b'{"board":{"ssid":"my "home""}}', b"[1]", b"null", b"\xff\xfe", b"[" * 60000, b'"x"'])
async def test_check_002_unparsable_body_is_answered_from_the_headers(site: Site, body: bytes) -> None:
    answer = await site.http.post("/xiaozhi/ota/", headers=headers(), content=body)
    assert answer.status_code == 200
    assert answer.json()["mqtt"]["client_id"].endswith(CLIENT_ID)
    assert answer.json()["firmware"] == {"version": "2.4.2", "url": ""}  # from User-Agent


@pytest.mark.parametrize(
    "mac", [None, "", "02:00:00:00:00", "02:00:00:00:00:0g", "02:00:00:00:00:01:02", "../../etc", "020000000001", "x" * 5000]
)
async def test_check_003_bad_device_id_gets_no_credentials(site: Site, mac: str | None) -> None:
    sent = headers() | ({"Device-Id": mac} if mac is not None else {})
    if mac is None:
        del sent["Device-Id"]
    answer = await site.http.post("/xiaozhi/ota/", headers=sent, json=stock_body())
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert site.store.all() == []


@pytest.mark.parametrize("client_id", ["", "a@@@b", "x" * 65, "a b"])
async def test_check_003_bad_client_id_gets_no_credentials(site: Site, client_id: str) -> None:
    answer = await site.http.post("/xiaozhi/ota/", headers=headers() | {"Client-Id": client_id}, json=stock_body())
    assert answer.status_code == 400
    assert site.store.all() == []


async def test_check_006_firmware_before_1_1_has_no_client_id(site: Site) -> None:
    sent = headers()
    del sent["Client-Id"]
    answer = await site.http.post("/xiaozhi/ota/", headers=sent, json=stock_body("0.9.9"))
    mqtt = answer.json()["mqtt"]
    assert mqtt["client_id"] == "GID_default@@@02_00_00_00_00_01@@@none"
    assert site.store.authenticate(mqtt["client_id"], mqtt["username"], mqtt["password"].encode()) is not None


async def test_check_006_who_tells_no_client_id_gets_nothing_of_a_device_that_has_one(site: Site) -> None:
    await site.check()
    sent = headers()
    del sent["Client-Id"]
    answer = (await site.http.post("/xiaozhi/ota/", headers=sent, json=stock_body())).json()
    assert "mqtt" not in answer
    assert "activation" in answer


async def test_check_004_mqtt_section_fits_the_flash(site: Site) -> None:
    mqtt = (await site.check()).json()["mqtt"]
    assert {"endpoint", "client_id", "username", "password", "publish_topic"} <= mqtt.keys()
    assert all(len(key) <= 15 for key in mqtt)
    assert all(0 < len(value.encode()) <= 3999 for value in strings(mqtt).values())
    assert all(isinstance(value, str | int) and not isinstance(value, bool) for value in mqtt.values())
    assert mqtt["keepalive"] == 240
    assert mqtt["publish_topic"] == "device-server"
    assert mqtt["subscribe_topic"] == "null"


async def test_check_005_endpoint_is_host_and_port_and_follows_changes(site: Site) -> None:
    assert (await site.check()).json()["mqtt"]["endpoint"] == "192.168.1.10:1883"
    site.endpoints = Endpoints("voice.example.org", 8883, "https://voice.example.org")
    assert (await site.check()).json()["mqtt"]["endpoint"] == "voice.example.org:8883"


@pytest.mark.parametrize("host", ["mqtt://h", "::1", "[::1]", "h:1", "", "h/", "a b", "-h", "x" * 300])
def test_check_005_endpoint_that_devices_cannot_use(host: str) -> None:
    with pytest.raises(ManifestError):
        Endpoints(host, 1883, "http://h")


async def test_check_006_client_id_has_three_parts(site: Site) -> None:
    mqtt = (await site.check(mac="02-00-00-00-00-0A")).json()["mqtt"]
    assert mqtt["client_id"].split("@@@") == ["GID_default", "02_00_00_00_00_0a", CLIENT_ID]


async def test_check_006_password_seals_client_id_and_user_name(site: Site) -> None:
    mqtt = (await site.check()).json()["mqtt"]
    device = site.store.get(MAC)
    assert device is not None
    sealed = hmac.digest(device.secret, f"{mqtt['client_id']}|{mqtt['username']}".encode(), hashlib.sha256)
    assert base64.b64decode(mqtt["password"]) == sealed
    assert isinstance(json.loads(base64.b64decode(mqtt["username"])), dict)


@pytest.mark.parametrize("version", VERSIONS)
async def test_check_007_good_version_is_echoed(site: Site, version: str) -> None:
    assert (await site.check(version=version)).json()["firmware"] == {"version": version, "url": ""}


@pytest.mark.parametrize("version", GARBAGE)
async def test_check_007_version_that_would_crash_the_device_is_never_sent(site: Site, version: str) -> None:
    answer = await site.check(version=version)
    assert answer.status_code == 200
    assert "mqtt" in answer.json()
    assert "firmware" not in answer.json()


@pytest.mark.parametrize("version", [*VERSIONS, *(version for version in GARBAGE if version.isascii() and "\n" not in version)])
async def test_check_007_version_from_the_user_agent(site: Site, version: str) -> None:
    answer = await site.http.post("/xiaozhi/ota/", headers=headers() | {"User-Agent": f"board/{version}"}, content=b"{")
    if firmware := answer.json().get("firmware"):
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)*", firmware["version"])
        assert all(int(segment) < 2**31 for segment in firmware["version"].split("."))


async def test_check_008_without_files_no_update_is_offered(site: Site) -> None:
    firmware = (await site.check()).json()["firmware"]
    assert firmware["version"] == "2.4.2"  # equal is not newer
    assert firmware["url"] == ""


async def test_check_009_nothing_is_forced_unasked(site: Site) -> None:
    for _ in range(2):
        assert "force" not in (await site.check()).json()["firmware"]


async def test_check_010_time_of_the_server(site: Site) -> None:
    told = (await site.check()).json()["server_time"]
    assert abs(told["timestamp"] - datetime.now(UTC).timestamp() * 1000) < 2000
    assert isinstance(told["timestamp"], int)
    assert told["timezone_offset"] == 330


async def test_check_011_unbound_device_gets_a_code(code_site: Site) -> None:
    answer = (await code_site.check()).json()
    activation = answer["activation"]
    assert re.fullmatch("[0-9]{6}", activation["code"])
    assert activation["code"] in activation["message"]
    assert len(activation["challenge"]) >= 32
    assert isinstance(activation["timeout_ms"], int)
    assert "mqtt" not in answer
    assert (await code_site.check()).json()["activation"] == activation


def v2_body(challenge: str) -> dict[str, str]:
    proof = hmac.digest(b"key burnt into the chip", challenge.encode(), hashlib.sha256).hex()
    return {"algorithm": "hmac-sha256", "serial_number": "S" * 32, "challenge": challenge, "hmac": proof}


@pytest.mark.parametrize("form", ["v1", "v2", "wrapped"])
async def test_check_012_activate_waits_for_the_code(code_site: Site, form: str) -> None:
    activation = (await code_site.check()).json()["activation"]
    v2 = v2_body(activation["challenge"])
    forms: dict[str, dict[str, Any]] = {"v1": {}, "v2": v2, "wrapped": {"Payload": v2}}
    body = forms[form]
    waiting = await code_site.activate(body)
    assert (waiting.status_code, int(waiting.headers["content-length"])) == (202, len(waiting.content))
    assert (await code_site.approve(activation["code"])).status_code == 200
    assert (await code_site.activate(body)).status_code == 200
    assert (await code_site.http.post("/xiaozhi/ota/activate/", headers=headers(), json=body)).status_code == 200


async def test_check_013_activated_device_gets_credentials_and_no_code(code_site: Site) -> None:
    code = (await code_site.check()).json()["activation"]["code"]
    await code_site.approve(code)
    answer = (await code_site.check()).json()
    assert "activation" not in answer
    mqtt = answer["mqtt"]
    assert code_site.store.authenticate(mqtt["client_id"], mqtt["username"], mqtt["password"].encode())


@pytest.mark.parametrize("path", ["/xiaozhi/ota", "/xiaozhi/ota/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_check_014_both_forms_of_the_address(site: Site, path: str, method: str) -> None:
    answer = await site.http.request(method, path, headers=headers())
    assert answer.status_code == 200
    assert "mqtt" in answer.json()


@pytest.mark.parametrize("address", ["/xiaozhi/ota/?home=1", "/xiaozhi/ota?home=1"])
async def test_check_014_an_address_with_a_query_has_activate_behind_it(code_site: Site, address: str) -> None:
    activation = (await code_site.check(path=address)).json()["activation"]
    asked = f"{address}/activate"  # as the firmware puts it together
    assert (await code_site.http.post(asked, headers=headers(), json={})).status_code == 202
    assert (await code_site.approve(activation["code"])).status_code == 200
    answer = await code_site.http.post(asked, headers=headers(), json={})
    assert (answer.status_code, answer.json()) == (200, {"status": "activated"})


async def test_check_015_proof_is_recorded(code_site: Site) -> None:
    activation = (await code_site.check()).json()["activation"]
    await code_site.activate(v2_body(activation["challenge"]))
    [device] = (await code_site.http.get("/api/devices", headers=bearer())).json()["devices"]
    assert device["serial_number"] == "S" * 32


async def test_check_015_wrong_challenge(code_site: Site) -> None:
    activation = (await code_site.check()).json()["activation"]
    for approved in (False, True):
        if approved:
            await code_site.approve(activation["code"])
        for challenge in ("", "0" * 64, activation["challenge"][:-1], 7, None if not approved else "x"):
            body = v2_body(activation["challenge"]) | {"challenge": challenge}
            status = (await code_site.activate(body)).status_code
            assert status == (202 if challenge is None else 403)


async def test_check_015_expired_challenge(tmp_path: Path) -> None:
    async with running(tmp_path, enrolment="code", activations=Activations(lifetime_s=0.2)) as site:
        old = (await site.check()).json()["activation"]
        await asyncio.sleep(0.3)
        assert (await site.activate(v2_body(old["challenge"]))).status_code == 403
        assert (await site.approve(old["code"])).status_code == 404
        assert (await site.check()).json()["activation"]["challenge"] != old["challenge"]


async def test_check_016_concurrent_activations_do_not_mix(code_site: Site) -> None:
    macs = [f"02:00:00:00:01:{n:02x}" for n in range(20)]
    answers: dict[str, httpx.Response] = {}

    async def ask(mac: str) -> None:
        answers[mac] = await code_site.check(mac=mac, client_id=f"client-{mac[-2:]}")

    async with asyncio.TaskGroup() as group:
        for mac in macs:
            group.create_task(ask(mac))
    codes = {mac: answers[mac].json()["activation"]["code"] for mac in macs}
    assert len(set(codes.values())) == 20
    await code_site.approve(codes[macs[3]])
    for mac in macs:
        status = (await code_site.activate({}, mac=mac, client_id=f"client-{mac[-2:]}")).status_code
        assert status == (200 if mac == macs[3] else 202)


async def test_check_016_guessing_is_limited(code_site: Site) -> None:
    code = (await code_site.check()).json()["activation"]["code"]
    wrong = next(guess for guess in ("000000", "111111") if guess != code)
    statuses = [(await code_site.approve(wrong)).status_code for _ in range(12)]
    assert statuses[:10] == [404] * 10
    assert statuses[10:] == [429] * 2
    assert (await code_site.approve(code)).status_code == 429
    assert "activation" in (await code_site.check()).json()
