"""Credentials that are withdrawn end a session at once, not when the device feels like it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from bridge.device import Device, DeviceOptions, is_message
from tests.bridge.running_bridge import running_bridge

TOKEN = "let-me-in"
MAC = "02:00:00:00:00:01"


async def test_rotated_and_forgotten_devices_are_cut_off(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, {"admin.token": TOKEN}) as facts, httpx.AsyncClient() as http:
        known = f"http://127.0.0.1:{facts.http_port}/api/devices/{MAC}"
        http.headers["Authorization"] = f"Bearer {TOKEN}"
        for method, path in (("POST", "/rotate"), ("DELETE", "")):
            async with Device(DeviceOptions(ota_url=facts.ota_url, device_id=MAC, reconnect_s=0.2)) as device:
                await device.boot()
                await device.open_channel()
                mark = device.events.mark()
                assert (await http.request(method, known + path)).is_success
                goodbye = await device.wait_for(is_message("goodbye"), since=mark)
                assert goodbye.message["session_id"]
                async with asyncio.timeout(10):
                    while device.control.connected.is_set():
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(1)
                assert not device.control.connected.is_set()
                metrics = (await http.get(f"http://127.0.0.1:{facts.http_port}/metrics")).text
                assert "xiaozhi_bridge_sessions 0.0" in metrics
                assert "xiaozhi_udp_channels_open_total 0" in metrics or "xiaozhi_udp_channels_open 0" in metrics
                await device.boot()  # asks for the new ones
                assert device.control.connected.is_set()
