"""The devices commands against the real HTTP side, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import SecretStr

from bridge.errors import OperatorError
from bridge.fleet import Fleet
from ota.activation import Activations
from ota.api import OtaOptions, build_app
from ota.devices import DeviceFacts, DeviceStore
from ota.downloads import Downloads
from ota.firmware import Decision, FirmwareState
from ota.manifest import Endpoints
from ota.server import HttpServer
from ota.shelf import FirmwareShelf
from ota.updates import Updates
from settings.model import Admin, Http, SettingsTree
from tests.ota.images import put

MAC = "02:00:00:00:00:01"
CLIENT_ID = "00000000-0000-4000-8000-000000000001"
TOKEN = "a-long-random-text"

T = TypeVar("T")


def tree(port: int, token: str = TOKEN) -> SettingsTree:
    """Settings of a machine on which no server has left its address."""
    http, admin = Http(host="0.0.0.0", port=port), Admin(token=SecretStr(token))  # noqa: S104
    return SettingsTree(http=http, admin=admin, data_dir=Path("no-such-directory"))


async def refusal(call: Callable[[], T]) -> str:
    with pytest.raises(OperatorError) as caught:
        await asyncio.to_thread(call)
    return str(caught.value)


async def test_devices_of_a_running_server(tmp_path: Path) -> None:
    store = DeviceStore(enrolment="code")
    await store.open(tmp_path / "devices.sqlite")
    activations = Activations()
    shelf = FirmwareShelf(tmp_path / "firmware")
    put(tmp_path, "bread", "2.5.0")
    app = build_app(
        store=store,
        activations=activations,
        endpoints=lambda: Endpoints("127.0.0.1", 1883, "http://127.0.0.1"),
        ready=lambda: True,
        metrics=lambda: b"",
        device_stats={MAC: {"received": 90, "expected": 100, "last_seen_s": None, "odd": ["?"]}}.get,
        options=OtaOptions(admin_token=TOKEN),
        updates=Updates(shelf, store, Downloads(shelf)),
    )
    await store.enrol(MAC, CLIENT_ID, DeviceFacts(board="bread\x1b[31m", firmware="2.0.0"))
    code = activations.offer((MAC, CLIENT_ID), source="127.0.0.1", now=asyncio.get_running_loop().time()).code
    async with asyncio.TaskGroup() as group:
        server = HttpServer(group)
        port = await server.start(app, "127.0.0.1", 0)
        fleet = Fleet(tree(port))
        (pending,) = await asyncio.to_thread(fleet.devices)
        assert (pending.device_id, pending.status, pending.firmware) == (MAC, "pending", "2.0.0")
        assert pending.board.isprintable()
        assert "code" in (await refusal(lambda: fleet.approve("000000" if code != "000000" else "111111")))
        assert await asyncio.to_thread(fleet.approve, code) == MAC
        assert [device.status for device in await asyncio.to_thread(fleet.devices)] == ["approved"]
        told = {"received": 90, "expected": 100, "last_seen_s": None}
        assert await asyncio.to_thread(fleet.statistics, MAC) == told
        assert await asyncio.to_thread(fleet.all_statistics) == {MAC: told}
        assert "no such device" in await refusal(lambda: fleet.statistics("02:00:00:00:00:99"))
        assert "no such device" in await refusal(lambda: fleet.statistics("kitchen"))
        await store.enrol("02:00:00:00:00:02", CLIENT_ID[:-1] + "2", DeviceFacts())
        assert await asyncio.to_thread(fleet.all_statistics) == {MAC: told}
        assert await store.forget("02:00:00:00:00:02")
        device = store.get(MAC)
        await asyncio.to_thread(fleet.rotate, MAC)
        renewed = store.get(MAC)
        assert device is not None
        assert renewed is not None
        assert renewed.secret != device.secret
        assert "no such approved device" in await refusal(lambda: fleet.rotate("02:00:00:00:00:99"))
        assert "no such approved device" in await refusal(lambda: fleet.force_firmware("02:00:00:00:00:99", "2.5.0"))
        assert "no such version" in await refusal(lambda: fleet.force_firmware(MAC, "2.6.0"))
        await asyncio.to_thread(fleet.force_firmware, MAC, "2.5.0")
        assert [one.update for one in await asyncio.to_thread(fleet.devices)] == ["2.5.0 will be forced"]
        await asyncio.to_thread(fleet.release_firmware, MAC)
        assert [one.update for one in await asyncio.to_thread(fleet.devices)] == [""]
        held = FirmwareState("2.5.0", "d", 3, held=True)
        await store.settle_firmware(MAC, lambda _: Decision(held))
        assert ["not offered any more" in one.update for one in await asyncio.to_thread(fleet.devices)] == [True]
        await asyncio.to_thread(fleet.forget, MAC)
        assert await asyncio.to_thread(fleet.devices) == []
        assert "no such device" in await refusal(lambda: fleet.forget(MAC))
        assert "another admin.token" in await refusal(Fleet(tree(port, "wrong")).devices)
        nobody = tree(port, "").model_copy(update={"data_dir": tmp_path / "elsewhere"})
        assert "No server has run" in await refusal(Fleet(nobody).devices)
        await server.aclose()
    await store.aclose()
    shelf.close()
    assert "No server answers" in await refusal(fleet.devices)
