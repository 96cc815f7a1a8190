"""A simulated device updates itself from the whole bridge, and talks afterwards."""

from __future__ import annotations

from pathlib import Path

import httpx

from bridge.admin import read_access
from ota.firmware import MAX_OFFERS
from tests.e2e.running import Server, mac, running
from tests.ota.images import image, put

BOARD = "simulated"


async def test_check_008_device_installs_what_is_newer_and_goes_on(tmp_path: Path) -> None:
    put(tmp_path / "data", BOARD, "2.5.0", image("2.5.0", filling=500_000))
    async with running(tmp_path) as server, server.device() as device:
        await device.boot()
        assert device.profile.firmware_version == "2.5.0"
        assert (device.stats.upgrades, device.stats.upgrades_failed, device.stats.boots) == (1, 0, 1)
        await device.open_channel()
        assert device.channel_open
        metrics = await server.metrics()
        assert metrics["xiaozhi_firmware_offered"] == 1
        assert metrics["xiaozhi_downloads_completed"] == 1
        assert metrics["xiaozhi_downloads_open"] == 0


async def test_check_008_device_that_rolls_back_is_left_in_peace(tmp_path: Path) -> None:
    put(tmp_path / "data", BOARD, "2.5.0")
    async with running(tmp_path) as server, server.device(rolls_back=True) as device:
        await device.boot()
        assert device.profile.firmware_version == "2.4.2"
        assert device.stats.upgrades == MAX_OFFERS
        assert device.control.connected.is_set()


async def test_check_009_device_is_forced_back_once(tmp_path: Path) -> None:
    put(tmp_path / "data", BOARD, "2.4.2")
    put(tmp_path / "data", BOARD, "2.3.0")
    async with running(tmp_path) as server, server.device() as device, server.device(2) as other:
        await device.boot()
        await force(server, mac(1), "2.3.0")
        device.control.close()
        await device.boot()
        await other.boot()
        assert (device.profile.firmware_version, device.stats.upgrades) == ("2.3.0", 1)
        assert (other.profile.firmware_version, other.stats.upgrades) == ("2.4.2", 0)


async def force(server: Server, device_id: str, version: str) -> None:
    access = read_access(server.loaded.tree.data_dir)
    assert access is not None
    async with httpx.AsyncClient(base_url=access.url, headers={"Authorization": f"Bearer {access.token}"}) as http:
        (await http.post(f"/api/devices/{device_id}/firmware", json={"version": version})).raise_for_status()
