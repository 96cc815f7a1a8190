"""The real application behind the real HTTP server, and devices that ask as the firmware does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from ota.activation import Activations
from ota.api import OtaOptions, build_app
from ota.devices import DeviceStore, EnrolmentMode
from ota.downloads import Downloads
from ota.manifest import Endpoints
from ota.server import HttpServer
from ota.shelf import FirmwareShelf
from ota.updates import Updates

TOKEN = "let-me-in"
CLIENT_ID = "00000000-0000-4000-8000-000000000001"
MAC = "02:00:00:00:00:01"


def stock_body(version: str = "2.4.2") -> dict[str, Any]:
    """What firmware 2.4.2 sends, shortened."""
    return {
        "version": 2,
        "language": "en-US",
        "flash_size": 16777216,
        "minimum_free_heap_size": "123456",
        "mac_address": MAC,
        "uuid": CLIENT_ID,
        "chip_model_name": "esp32s3",
        "application": {"name": "xiaozhi", "version": version, "idf_version": "v5.5.2"},
        "partition_table": [
            {"label": "nvs", "type": 1, "subtype": 2, "address": 36864, "size": 16384},
            {"label": "ota_0", "type": 0, "subtype": 16, "address": 131072, "size": 4128768},
            {"label": "ota_1", "type": 0, "subtype": 17, "address": 4259840, "size": 4128768},
            {"label": "assets", "type": 1, "subtype": 130, "address": 8388608, "size": 8388608},
        ],
        "ota": {"label": "ota_0"},
        "board": {"type": "wifi", "name": "test-board", "ssid": "home", "rssi": -50, "ip": "192.168.1.7", "mac": MAC},
    }


@dataclass(slots=True)
class Site:
    """A running server."""

    http: httpx.AsyncClient
    store: DeviceStore
    port: int
    directory: Path
    """Firmware is looked for below it, anew at each request."""
    updates: Updates
    endpoints: Endpoints = field(default_factory=lambda: Endpoints("192.168.1.10", 1883, "http://192.168.1.10:8003"))
    ready: bool = True

    async def check(
        self, *, mac: str = MAC, client_id: str = CLIENT_ID, version: str = "2.4.2", path: str = "/xiaozhi/ota/"
    ) -> httpx.Response:
        return await self.http.post(path, headers=headers(mac, client_id), json=stock_body(version))

    async def activate(self, body: object, *, mac: str = MAC, client_id: str = CLIENT_ID) -> httpx.Response:
        return await self.http.post("/xiaozhi/ota/activate", headers=headers(mac, client_id), json=body)

    async def approve(self, code: str) -> httpx.Response:
        return await self.http.post("/api/devices/approve", headers=bearer(), json={"code": code})


def headers(mac: str = MAC, client_id: str = CLIENT_ID) -> dict[str, str]:
    return {
        "Device-Id": mac,
        "Client-Id": client_id,
        "Activation-Version": "1",
        "User-Agent": "test-board/2.4.2",
        "Accept-Language": "en-US",
        "Connection": "close",
    }


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def running(
    directory: Path,
    *,
    enrolment: EnrolmentMode = "open",
    token: str = TOKEN,
    activations: Activations | None = None,
    options: dict[str, Any] | None = None,
    downloads: dict[str, Any] | None = None,
) -> AsyncIterator[Site]:
    store = DeviceStore(enrolment=enrolment)
    await store.open(directory / "devices.sqlite3")
    async with asyncio.TaskGroup() as group, httpx.AsyncClient() as http:
        shelf = FirmwareShelf(directory / "firmware", refresh_s=0)
        updates = Updates(shelf, store, Downloads(shelf, assets=directory / "assets", **(downloads or {})))
        site = Site(http, store, 0, directory, updates)
        app = build_app(
            store=store,
            activations=activations or Activations(),
            endpoints=lambda: site.endpoints,
            ready=lambda: site.ready,
            metrics=lambda: b"up 1\n",
            updates=updates,
            options=OtaOptions(admin_token=token, timezone=timezone(timedelta(hours=5, minutes=30)), **(options or {})),
        )
        server = HttpServer(group)
        site.port = await server.start(app, "127.0.0.1", 0)
        http.base_url = httpx.URL(f"http://127.0.0.1:{site.port}")
        try:
            yield site
        finally:
            await server.aclose()
            await store.aclose()
            shelf.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as site:
        yield site


@pytest.fixture
async def code_site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path, enrolment="code") as site:
        yield site
