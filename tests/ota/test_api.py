"""What the checklist leaves open: other Client-Ids, enrolment modes, limits, health, the admin API."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ota.activation import Activations
from ota.api import LOGGED_REFUSALS_PER_MINUTE
from tests.ota.conftest import CLIENT_ID, MAC, TOKEN, Site, bearer, headers, running

OTHER = "00000000-0000-4000-8000-000000000002"


async def mqtt_of(site: Site, client_id: str = CLIENT_ID) -> dict[str, str]:
    mqtt: dict[str, str] = (await site.check(client_id=client_id)).json()["mqtt"]
    return mqtt


def passes(site: Site, mqtt: dict[str, str]) -> bool:
    return site.store.authenticate(mqtt["client_id"], mqtt["username"], mqtt["password"].encode()) is not None


async def test_other_client_id_gets_a_code_and_no_credentials(site: Site) -> None:
    first = await mqtt_of(site)
    with capture_logs() as logs:
        answers = [(await site.check(client_id=OTHER)).json() for _ in range(2)]
    assert all("mqtt" not in answer and "activation" in answer for answer in answers)
    assert [(log["log_level"], log["device_id"]) for log in logs] == [("warning", MAC)]
    assert passes(site, first)
    revoked: list[str] = []
    site.store.on_revoked = revoked.append
    assert (await site.approve(answers[0]["activation"]["code"])).status_code == 200
    assert revoked == [MAC]
    assert not passes(site, first)
    assert passes(site, await mqtt_of(site, OTHER))
    assert "mqtt" not in (await site.check(client_id=CLIENT_ID)).json()


async def test_nobody_rides_on_the_code_of_another(code_site: Site) -> None:
    mine = (await code_site.check()).json()["activation"]
    theirs = (await code_site.check(client_id=OTHER)).json()["activation"]
    assert mine["code"] != theirs["code"]
    await code_site.approve(mine["code"])
    assert "mqtt" in (await code_site.check()).json()
    assert "mqtt" not in (await code_site.check(client_id=OTHER)).json()
    assert (await code_site.activate({}, client_id=OTHER)).status_code == 202


async def test_activate_without_check_version(code_site: Site) -> None:
    assert (await code_site.activate({})).status_code == 403
    assert (await code_site.http.post("/xiaozhi/ota/activate", json={})).status_code == 400


async def test_closed_lets_in_the_known_only(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.check()
    async with running(tmp_path, enrolment="closed") as site:
        assert "mqtt" in (await site.check()).json()
        answer = await site.check(mac="02:00:00:00:00:02")
        assert answer.status_code == 403
        assert "error" in answer.json()
        assert "activation" in (await site.check(client_id=OTHER)).json()


async def test_credentials_survive_a_restart_and_stay_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        before = await mqtt_of(site)
        assert await mqtt_of(site) == before
    async with running(tmp_path) as site:
        assert passes(site, before)
        assert await mqtt_of(site) == before


async def test_flood_from_one_address_is_slowed(tmp_path: Path) -> None:
    async with running(tmp_path, options={"requests_per_s": 0.001, "requests_burst": 3}) as site:
        answers = [await site.check() for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["retry-after"] == "10"


async def test_hundreds_of_devices_behind_one_address(site: Site) -> None:
    for n in range(400):
        assert (await site.check(mac=f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}")).status_code == 200
    assert len(site.store.all()) == 400


async def test_large_body_is_refused(site: Site) -> None:
    answer = await site.http.post("/xiaozhi/ota/", headers=headers(), content=b" " * (64 * 1024 + 1))
    assert answer.status_code == 413
    assert (await site.http.post("/xiaozhi/ota/", headers=headers(), content=b" " * 64 * 1024)).status_code == 200


async def test_what_a_device_tells_is_bounded(site: Site) -> None:
    body = {"board": {"name": "b\x1b[31m" + "x" * 500}, "application": {"version": 7}}
    await site.http.post("/xiaozhi/ota/", headers=headers() | {"User-Agent": "u"}, json=body)
    device = site.store.get(MAC)
    assert device is not None
    assert device.facts.board == "b[31m" + "x" * 58
    assert device.facts.firmware == ""


async def test_a_new_device_is_one_line_in_the_log(site: Site) -> None:
    with capture_logs() as logs:
        await site.check()
        await site.check()
    assert [(line["event"], line["device_id"], line["board"], line["firmware"]) for line in logs] == [
        ("a new device was let in", MAC, "test-board", "2.4.2")
    ]


async def test_a_request_that_is_refused_is_logged_with_its_cause_and_not_for_ever(site: Site) -> None:
    with capture_logs() as logs:
        for _ in range(LOGGED_REFUSALS_PER_MINUTE + 20):
            assert (await site.http.post("/xiaozhi/ota/", headers=headers(mac="02:00"))).status_code == 400
        assert (await site.http.get("/nothing")).status_code == 404
    assert {(line["status"], line["source"], line["reason"]) for line in logs} == {
        (400, "127.0.0.1", "header Device-Id: not a MAC address of six pairs of hexadecimal digits")
    }
    assert len(logs) < LOGGED_REFUSALS_PER_MINUTE + 20


async def test_nothing_secret_is_logged(code_site: Site) -> None:
    with capture_logs() as logs:
        activation = (await code_site.check()).json()["activation"]
        await code_site.approve(activation["code"])
        mqtt = await mqtt_of(code_site)
        await code_site.http.get("/api/devices", headers=bearer("wrong"))
    assert logs
    text = repr(logs)
    for secret in (activation["code"], activation["challenge"], mqtt["password"], CLIENT_ID, TOKEN):
        assert secret not in text


async def test_health(site: Site) -> None:
    assert (await site.http.get("/healthz")).json() == {"status": "ok"}
    assert (await site.http.get("/readyz")).status_code == 200
    site.ready = False
    answer = await site.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
    assert (await site.http.get("/healthz")).status_code == 200
    metrics = await site.http.get("/metrics")
    assert metrics.content == b"up 1\n"
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert (await site.http.get("/")).json()["ota"] == "http://192.168.1.10:8003/xiaozhi/ota/"
    missing = await site.http.get("/nothing")
    assert (missing.status_code, missing.json()) == (404, {"error": "Not Found"})


ADMIN = [
    ("GET", "/api/devices"),
    ("POST", "/api/devices/approve"),
    ("DELETE", f"/api/devices/{MAC}"),
    ("POST", f"/api/devices/{MAC}/rotate"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN)
async def test_admin_api_is_off_without_a_token(tmp_path: Path, method: str, path: str) -> None:
    async with running(tmp_path, token="") as site:
        for sent in ({}, bearer("x"), {"Authorization": "Bearer"}):
            assert (await site.http.request(method, path, headers=sent)).status_code == 404


@pytest.mark.parametrize(("method", "path"), ADMIN)
async def test_admin_api_wants_the_token(site: Site, method: str, path: str) -> None:
    await site.check()
    for sent in ({}, bearer("x"), {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}):
        answer = await site.http.request(method, path, headers=sent)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert site.store.get(MAC) is not None


async def test_guessing_the_token_is_limited(site: Site) -> None:
    statuses = [(await site.http.get("/api/devices", headers=bearer(f"x{n}"))).status_code for n in range(21)]
    assert statuses == [401] * 20 + [429]
    assert (await site.http.get("/api/devices", headers=bearer())).status_code == 429


async def test_admin_lists_devices_without_what_proves_them(site: Site) -> None:
    await site.check()
    await site.check(client_id=OTHER)
    answer = await site.http.get("/api/devices", headers=bearer())
    known, waiting = answer.json()["devices"]
    assert (known["device_id"], known["status"], known["board"], known["firmware"]) == (MAC, "approved", "test-board", "2.4.2")
    assert (waiting["device_id"], waiting["status"], waiting["replaces_known"]) == (MAC, "pending", True)
    assert known["replaces_known"] is False
    assert CLIENT_ID not in answer.text
    assert OTHER not in answer.text


async def test_admin_forgets(site: Site) -> None:
    mqtt = await mqtt_of(site)
    assert (await site.http.delete(f"/api/devices/{MAC}", headers=bearer())).json()["status"] == "forgotten"
    assert not passes(site, mqtt)
    for device_id in (MAC, "garbage"):
        assert (await site.http.delete(f"/api/devices/{device_id}", headers=bearer())).status_code == 404


async def test_admin_rotates(site: Site) -> None:
    before = await mqtt_of(site)
    assert (await site.http.post(f"/api/devices/{MAC}/rotate", headers=bearer())).status_code == 200
    assert not passes(site, before)
    after = await mqtt_of(site)
    assert after["password"] != before["password"]
    assert passes(site, after)
    assert (await site.http.post("/api/devices/02:00:00:00:00:99/rotate", headers=bearer())).status_code == 404


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"code": 123456}', b'{"code": ""}'])
async def test_approve_wants_a_code(site: Site, body: bytes) -> None:
    answer = await site.http.post("/api/devices/approve", headers=bearer(), content=body)
    assert answer.status_code == 400


async def test_registry_that_cannot_be_written(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        before = await mqtt_of(site)
        await site.store._on_disk(lambda: site.store._execute("PRAGMA query_only = 1", ()))
        answer = await site.check(mac="02:00:00:00:00:02")
        assert answer.status_code == 503
        assert "mqtt" not in answer.json()
        assert await mqtt_of(site) == before


async def test_approval_that_cannot_be_written_is_taken_back(code_site: Site) -> None:
    code = (await code_site.check()).json()["activation"]["code"]
    await code_site.store._on_disk(lambda: code_site.store._execute("PRAGMA query_only = 1", ()))
    assert (await code_site.approve(code)).status_code == 503
    assert (await code_site.activate({})).status_code == 202
    await code_site.store._on_disk(lambda: code_site.store._execute("PRAGMA query_only = 0", ()))
    assert (await code_site.approve(code)).status_code == 200


async def test_as_many_codes_as_are_kept(tmp_path: Path) -> None:
    async with running(tmp_path, enrolment="code", activations=Activations(max_offers=1)) as site:
        assert (await site.check()).status_code == 200
        answer = await site.check(mac="02:00:00:00:00:02")
        assert answer.status_code == 503
        assert "mqtt" not in answer.json()


async def test_a_device_takes_itself_away_with_its_own_credentials_only(site: Site) -> None:
    told: list[str] = []
    site.store.on_forgotten = told.append
    mqtt = await mqtt_of(site)
    await site.check(mac="02:00:00:00:00:02")

    async def leave(mac: str, auth: tuple[str, str] | None, client_id: str = CLIENT_ID) -> int:
        return (await site.http.request("DELETE", "/xiaozhi/ota/", headers=headers(mac, client_id), auth=auth)).status_code

    own = (mqtt["username"], mqtt["password"])
    refused = [
        await leave("02:00:00:00:00:02", own),
        await leave(MAC, None),
        await leave(MAC, (own[0], "wrong")),
        await leave(MAC, own, client_id=OTHER),
        await leave("02:00:00:00:00:99", own),
    ]
    assert refused == [401] * 5
    for broken in ("Basic", "Basic !!", "Basic /w==", "Bearer x"):
        answer = await site.http.request("DELETE", "/xiaozhi/ota/", headers=headers() | {"Authorization": broken})
        assert answer.status_code == 401
    assert len(site.store.all()) == 2
    assert await leave(MAC, own) == 200
    assert [device.device_id for device in site.store.all()] == ["02:00:00:00:00:02"]
    assert told == [MAC]
    assert await leave(MAC, own) == 401
