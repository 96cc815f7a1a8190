"""Points 7, 8, 9 and 17 of the checklist with files on disk, over real HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ota.devices import DeviceStore
from ota.firmware import MAX_OFFERS
from tests.ota.conftest import MAC, Site, bearer, headers, running
from tests.ota.images import ESP32, image, put
from tests.ota.test_conformance import GARBAGE

BOARD = "test-board"
BASE = "http://192.168.1.10:8003"


async def firmware_of(site: Site, **check: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await site.check(**check)).json().get("firmware", {})
    return found


async def download(site: Site, url: str) -> httpx.Response:
    """As the firmware does, with none of the device's headers."""
    assert url.startswith(BASE)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}") as http:
        return await http.get(url.removeprefix(BASE))


@pytest.mark.parametrize("version", GARBAGE)
async def test_check_007_no_offer_for_a_version_that_cannot_be_compared(site: Site, version: str) -> None:
    put(site.directory, BOARD, "9.9.9")
    assert "firmware" not in (await site.check(version=version)).json()


@pytest.mark.parametrize("name", ["v2.5.0", "latest", "2.5.0-beta", "1..2", "99999999999", "2.5.0.", " 2.5.0", "٢.٥"])
async def test_check_007_files_with_bad_versions_are_never_offered(site: Site, name: str) -> None:
    put(site.directory, BOARD, name, image("2.5.0"))
    assert await firmware_of(site) == {"version": "2.4.2", "url": ""}


async def test_check_007_an_image_that_calls_itself_otherwise_is_never_offered(site: Site) -> None:
    put(site.directory, BOARD, "2.6.0", image("2.5.0"))
    put(site.directory, BOARD, "2.5.0", image("v2.5.0-3-gabcdef"))
    assert (await firmware_of(site))["url"] == ""


async def test_check_008_newer_file_is_offered_and_can_be_downloaded(site: Site) -> None:
    put(site.directory, BOARD, "2.4.10")
    put(site.directory, BOARD, "2.4.9")
    put(site.directory, "other-board", "3.0.0")
    told = await firmware_of(site)
    assert told["version"] == "2.4.10"
    assert "force" not in told
    answer = await download(site, told["url"])
    assert (answer.status_code, answer.content) == (200, image("2.4.10"))


@pytest.mark.parametrize("device", ["2.4.3", "2.4.3.0", "2.5", "3"])
async def test_check_008_older_or_equal_file_is_not_offered(site: Site, device: str) -> None:
    put(site.directory, BOARD, "2.4.3")
    assert await firmware_of(site, version=device) == {"version": device, "url": ""}


async def test_check_008_files_come_and_go_while_the_server_runs(site: Site) -> None:
    assert (await firmware_of(site))["url"] == ""
    path = put(site.directory, BOARD, "2.5.0")
    assert (await firmware_of(site))["version"] == "2.5.0"
    path.unlink()
    assert (await firmware_of(site))["url"] == ""


async def test_check_008_board_type_and_user_agent(site: Site) -> None:
    put(site.directory, "WiFi", "2.5.0")  # the type of the stock body
    assert (await firmware_of(site))["version"] == "2.5.0"
    put(site.directory, "agent-board", "2.6.0")
    sent = headers() | {"User-Agent": "agent-board/2.4.2"}
    answer = await site.http.post("/xiaozhi/ota/", headers=sent, content=b'{"ssid":"my "home""}')
    assert answer.json()["firmware"]["version"] == "2.6.0"


async def test_check_008_a_device_that_waits_for_a_person_is_offered_nothing(code_site: Site) -> None:
    put(code_site.directory, BOARD, "2.5.0")
    answer = (await code_site.check()).json()
    assert answer["firmware"] == {"version": "2.4.2", "url": ""}
    await code_site.approve(answer["activation"]["code"])
    assert (await firmware_of(code_site))["version"] == "2.5.0"


@pytest.mark.parametrize(
    "data",
    [b"", b"not firmware", b"\xe9", image("2.5.0")[:-1], image("2.5.0", description=False), image("2.5.0", chip_id=ESP32)],
)
async def test_check_008_wrong_binary_is_not_offered(site: Site, data: bytes) -> None:
    put(site.directory, BOARD, "2.5.0", data)
    assert (await firmware_of(site))["url"] == ""


async def test_check_008_image_that_the_partition_cannot_hold(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0", image("2.5.0", filling=4_200_000))
    assert (await firmware_of(site))["url"] == ""


async def test_check_008_junk_is_named_and_does_not_disturb(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0")
    put(site.directory, BOARD, "2.6.0", b"PK\x03\x04")
    root = site.directory / "firmware"
    (root / "README.txt").write_text("hello")
    (root / BOARD / "notes.txt").write_text("hello")
    (root / BOARD / ".hidden.part").write_text("hello")
    (root / BOARD / "3.0.0.bin").mkdir()
    (root / BOARD / "4.0.0.bin").symlink_to("nowhere")
    os.mkfifo(root / BOARD / "5.0.0.bin")
    (root / BOARD.upper()).mkdir()
    (root / BOARD.upper() / "2.5.0.bin").write_bytes(image("2.5.0"))
    assert (await firmware_of(site))["version"] == "2.5.0"
    listed = (await site.http.get("/api/firmware", headers=bearer())).json()
    assert [(one["board"], one["version"], one["chip"]) for one in listed["files"]] == [(BOARD, "2.5.0", "esp32s3")]
    wrong = listed["not_offered"]
    twin = next(name for name in wrong if name.lower() == f"{BOARD}/2.5.0.bin")
    names = ("2.6.0.bin", "notes.txt", "3.0.0.bin", "4.0.0.bin", "5.0.0.bin")
    assert set(wrong) == {"README.txt", twin, *(f"{BOARD}/{name}" for name in names)}
    assert "first byte" in wrong[f"{BOARD}/2.6.0.bin"]


async def test_check_008_update_loops_end(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0")
    told = [await firmware_of(site) for _ in range(MAX_OFFERS + 2)]
    assert [one["version"] for one in told] == ["2.5.0"] * MAX_OFFERS + ["2.4.2"] * 2
    [listed] = (await site.http.get("/api/devices", headers=bearer())).json()["devices"]
    assert listed["update"] == {"offered": "2.5.0", "offers": MAX_OFFERS, "held": True, "force": ""}
    assert site.updates.stats.held == 1
    # another device is another matter, and so is another file
    assert (await firmware_of(site, mac="02:00:00:00:00:02"))["version"] == "2.5.0"
    put(site.directory, BOARD, "2.5.0", image("2.5.0", filling=2000))
    assert (await firmware_of(site))["version"] == "2.5.0"


async def test_check_008_the_guard_survives_a_restart_and_can_be_lifted(tmp_path: Path) -> None:
    put(tmp_path, BOARD, "2.5.0")
    for _ in range(MAX_OFFERS + 1):
        async with running(tmp_path) as site:
            told = await firmware_of(site)
    assert told["url"] == ""
    async with running(tmp_path) as site:
        answer = await site.http.delete(f"/api/devices/{MAC}/firmware", headers=bearer())
        assert answer.json()["update"]["held"] is False
        assert (await firmware_of(site))["version"] == "2.5.0"


async def test_check_008_a_device_that_has_arrived_is_forgiven(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0")
    await firmware_of(site)
    assert (await firmware_of(site, version="2.5.0"))["url"] == ""
    assert site.store.firmware_states() == {}


async def test_check_008_what_cannot_be_noted_is_not_offered(site: Site) -> None:
    await site.check()
    put(site.directory, BOARD, "2.5.0")
    await site.store._on_disk(lambda: site.store._execute("PRAGMA query_only = 1", ()))
    assert (await firmware_of(site))["url"] == ""
    await site.store._on_disk(lambda: site.store._execute("PRAGMA query_only = 0", ()))
    assert (await firmware_of(site))["version"] == "2.5.0"


async def test_check_009_force_is_delivered_once(tmp_path: Path) -> None:
    put(tmp_path, BOARD, "2.4.2")
    put(tmp_path, BOARD, "2.3.0")
    async with running(tmp_path) as site:
        await site.check()
        await site.check(mac="02:00:00:00:00:02")
        answer = await site.http.post(f"/api/devices/{MAC}/firmware", headers=bearer(), json={"version": "2.3.0"})
        assert answer.json()["update"]["force"] == "2.3.0"
    async with running(tmp_path) as site:  # it is kept over a restart
        assert (await firmware_of(site, mac="02:00:00:00:00:02"))["url"] == ""
        told = await firmware_of(site)
        assert (told["version"], told["force"]) == ("2.3.0", 1)
        assert (await download(site, told["url"])).content == image("2.3.0")
    async with running(tmp_path) as site:  # and so is its delivery, and that 2.4.2 is not to come back by itself
        assert await firmware_of(site, version="2.3.0") == {"version": "2.3.0", "url": ""}


async def test_check_009_force_needs_the_token_a_device_and_a_file(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0")
    await site.check()

    async def force(device: str, body: object) -> int:
        return (await site.http.post(f"/api/devices/{device}/firmware", headers=bearer(), json=body)).status_code

    assert (await site.http.post(f"/api/devices/{MAC}/firmware", json={"version": "2.5.0"})).status_code == 401
    assert await force("02:00:00:00:00:09", {"version": "2.5.0"}) == 404
    assert await force(MAC, {"version": "9.9"}) == 404
    assert await force(MAC, {}) == 400
    assert await force(MAC, {"version": "2.5.0"}) == 200
    assert (await site.http.delete(f"/api/devices/{MAC}/firmware", headers=bearer())).status_code == 200
    assert "force" not in await firmware_of(site)


async def test_check_009_force_never_reaches_what_it_would_crash(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0")
    await site.check()
    await site.http.post(f"/api/devices/{MAC}/firmware", headers=bearer(), json={"version": "2.5.0"})
    assert "firmware" not in (await site.check(version="v2.4.2")).json()
    assert (await firmware_of(site))["force"] == 1


async def test_check_017_download_needs_no_header_and_tells_its_length(site: Site) -> None:
    data = image("2.5.0", filling=300_000)
    put(site.directory, BOARD, "2.5.0", data)
    path = (await firmware_of(site))["url"].removeprefix(BASE)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    lines = head.lower().split(b"\r\n")
    assert f"content-length: {len(data)}".encode() in lines
    assert not any(line.startswith((b"transfer-encoding", b"location", b"content-encoding")) for line in lines)
    assert body == data
    assert (site.updates.downloads.stats.started, site.updates.downloads.stats.completed) == (1, 1)


async def test_check_017_head_and_range(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0")
    path = (await firmware_of(site))["url"].removeprefix(BASE)
    answer = await site.http.head(path)
    assert (answer.status_code, int(answer.headers["content-length"]), answer.content) == (200, len(image("2.5.0")), b"")
    whole = await site.http.get(path, headers={"Range": "bytes=10-20", "If-None-Match": "*"})
    assert (whole.status_code, whole.content) == (200, image("2.5.0"))
    assert (await site.http.post(path)).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/xiaozhi/firmware/",
        "/xiaozhi/firmware/test-board/2.5.0.bin",
        "/xiaozhi/firmware/../devices.sqlite3",
        "/xiaozhi/firmware/%2e%2e/devices.sqlite3",
        "/xiaozhi/firmware/..%2fdevices.sqlite3/2.5.0.bin",
        "/xiaozhi/firmware/{digest}/../../devices.sqlite3",
        "/xiaozhi/firmware/{digest}/%2e%2e%2f%2e%2e%2fdevices.sqlite3",
        "/xiaozhi/firmware/{digest}/2.4.0.bin",
        "/xiaozhi/firmware/{digest}/2.5.0.bin/",
        "/xiaozhi/firmware/{digest}/2.5.0.bin%00",
        "/xiaozhi/firmware//etc/passwd",
        "//etc/passwd",
        "/xiaozhi/assets/",
        "/xiaozhi/assets/..",
        "/xiaozhi/assets/../devices.sqlite3",
        "/xiaozhi/assets/%2e%2e%2fdevices.sqlite3",
        "/xiaozhi/assets/..%5cdevices.sqlite3",
        "/xiaozhi/assets/%2fetc%2fpasswd",
        "/xiaozhi/assets/link.bin",
        "/xiaozhi/assets/folder",
        "/xiaozhi/assets/.hidden",
        "/xiaozhi/assets/small.bin",
        "/xiaozhi/assets/good.bin%00.txt",
    ],
)
async def test_check_017_nothing_else_can_be_reached(site: Site, path: str) -> None:
    put(site.directory, BOARD, "2.5.0")
    assets = site.directory / "assets"
    (assets / "folder").mkdir(parents=True)
    (assets / "good.bin").write_bytes(bytes(100))
    (assets / "small.bin").write_bytes(bytes(11))
    (assets / ".hidden").write_bytes(bytes(100))
    (assets / "link.bin").symlink_to(site.directory / "devices.sqlite3")
    digest = (await firmware_of(site))["url"].split("/")[-2]
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)  # httpx would tidy the path up
    writer.write(f"GET {path.format(digest=digest)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"404"
    assert len(body) < 100


async def test_check_017_assets(site: Site) -> None:
    (site.directory / "assets").mkdir()
    (site.directory / "assets" / "theme-1.bin").write_bytes(bytes(range(256)) * 1000)
    answer = await site.http.get("/xiaozhi/assets/theme-1.bin")
    assert (answer.status_code, int(answer.headers["content-length"])) == (200, 256_000)
    assert answer.content == bytes(range(256)) * 1000


WORDS = ["..", ".", "%2e%2e", "%2f", "%5c", "%00", "firmware", "assets", BOARD, "2.5.0.bin", "devices.sqlite3", "etc", "passwd", ""]
segments = st.one_of(
    st.sampled_from(WORDS), st.text(st.characters(codec="ascii", exclude_characters=" \r\n?#\x7f", min_codepoint=33), max_size=40)
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(segments, max_size=6).map("/".join), min_size=40, max_size=60))
def test_check_017_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, tails: list[str]) -> None:
    async def scenario() -> None:
        async with running(tmp_path_factory.mktemp("site")) as site:
            put(site.directory, BOARD, "2.5.0")
            for number, tail in enumerate(tails):
                reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
                root = ("firmware", "assets")[number % 2]
                writer.write(f"GET /xiaozhi/{root}/{tail} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(-1)
                writer.close()
                assert answer.split(b" ")[1] in {b"404", b"400"}, tail

    asyncio.run(scenario())


async def test_check_017_a_file_that_was_replaced_is_never_sent_unseen(site: Site) -> None:
    path = put(site.directory, BOARD, "2.5.0")
    url = (await firmware_of(site))["url"]
    path.write_bytes(b"something else entirely, which nobody looked at")
    assert (await download(site, url)).status_code == 404


async def test_check_017_a_worker_that_has_not_seen_the_file_yet_looks_again(site: Site) -> None:
    site.updates.shelf._refresh_s = 3600
    await site.check()
    put(site.directory, BOARD, "2.5.0")
    assert (await firmware_of(site))["url"] == ""  # the index is an old one
    async with running(site.directory) as other:
        url = (await firmware_of(other, mac="02:00:00:00:00:02"))["url"]
    await asyncio.sleep(0.3)
    assert (await download(site, url)).content == image("2.5.0")


def huge(site: Site) -> tuple[Path, bytes]:
    """A file larger than what any kernel keeps for a peer that does not read, and the request for it."""
    path = site.directory / "assets" / "huge.bin"
    path.parent.mkdir()
    path.write_bytes(b"")
    os.truncate(path, 1 << 30)
    return path, b"GET /xiaozhi/assets/huge.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_check_017_downloads_are_bounded_and_wait_for_each_other(tmp_path: Path) -> None:
    async with running(tmp_path, downloads={"slots": 1, "wait_s": 0.2}) as site:
        put(tmp_path, BOARD, "2.5.0")
        url = (await firmware_of(site))["url"]
        stats = site.updates.downloads.stats
        with socket.create_connection(("127.0.0.1", site.port)) as slow:
            slow.sendall(huge(site)[1])
            await until(lambda: stats.open)
            assert (await download(site, url)).status_code == 503
            assert (await firmware_of(site, mac="02:00:00:00:00:02"))["url"] == ""  # not now
            assert (stats.refused, site.updates.stats.deferred) == (1, 1)
        await until(lambda: not stats.open)
        assert (stats.started, stats.broken) == (1, 1)
        assert (await download(site, url)).content == image("2.5.0")


async def test_check_017_a_download_that_stalls_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, downloads={"slots": 1, "stall_s": 0.3}) as site:
        with socket.create_connection(("127.0.0.1", site.port)) as silent:
            silent.sendall(huge(site)[1])
            stats = site.updates.downloads.stats
            await until(lambda: stats.broken)
            assert (stats.open, site.updates.downloads.busy) == (0, False)


async def test_check_017_a_file_that_shrinks_meanwhile_ends_the_connection(site: Site) -> None:
    path, request = huge(site)
    with socket.create_connection(("127.0.0.1", site.port)) as device:
        device.sendall(request)
        stats = site.updates.downloads.stats
        await until(lambda: stats.open)
        os.truncate(path, 100)
        device.setblocking(False)
        received = 0
        async with asyncio.timeout(20):
            while piece := await asyncio.get_running_loop().sock_recv(device, 1 << 20):
                received += len(piece)
    assert received < 1 << 30
    assert stats.broken == 1


async def test_check_017_downloads_count_against_the_limit(tmp_path: Path) -> None:
    async with running(tmp_path, options={"requests_per_s": 0.001, "requests_burst": 3}) as site:
        answers = [await site.http.get("/xiaozhi/firmware/x/1.bin") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [404, 404, 404, 429]


async def test_a_misfit_is_logged_once_for_each_device(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0", image("2.5.0", chip_id=ESP32))
    with capture_logs() as logs:
        for _ in range(3):
            await site.check()
            await site.check(mac="02:00:00:00:00:02")
    notes = [line for line in logs if line["event"] == "firmware decision"]
    assert [line["device_id"] for line in notes] == [MAC, "02:00:00:00:00:02"]
    assert "the image is for esp32, the device has esp32s3" in notes[0]["note"]


async def test_forgetting_a_device_forgets_its_offers(site: Site) -> None:
    put(site.directory, BOARD, "2.5.0")
    await firmware_of(site)
    assert MAC in site.store.firmware_states()
    await site.store.forget(MAC)
    assert site.store.firmware_states() == {}
    store = DeviceStore()
    await store.open(site.directory / "devices.sqlite3")
    assert store.firmware_states() == {}
    await store.aclose()
