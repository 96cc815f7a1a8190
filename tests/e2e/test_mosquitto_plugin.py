"""Stock firmware, which never subscribes, at a real mosquitto with the shipped plugin, built here."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.device.device import Device
from bridge.device.errors import HelloError
from tests.e2e.test_broker_mode import ask, enrol, is_answered, online, options, running
from tests.mosquitto import BRIDGE, HOME, ROOT, Mosquitto, needs_mosquitto

COMPILER = shutil.which("cc")
HEADERS = [Path("/usr/include") / name for name in ("mosquitto.h", "mosquitto_plugin.h", "mosquitto_broker.h")]

pytestmark = [
    needs_mosquitto,
    pytest.mark.skipif(
        COMPILER is None or not all(header.is_file() for header in HEADERS),
        reason="no C compiler or no mosquitto headers: apt-get install gcc libmosquitto-dev mosquitto-dev",
    ),
]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Mosquitto:
    assert COMPILER is not None
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    plugin = directory / "xiaozhi_push.so"
    source = ROOT / "deploy" / "mosquitto" / "plugin" / "xiaozhi_push.c"
    command = [COMPILER, "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", str(plugin), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return Mosquitto(directory, edit={"\npersistence false\n": f"\npersistence false\nplugin {plugin}\nplugin_opt_root xiaozhi\n"})


async def test_stock_firmware_converses_and_survives_a_reconnect(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with mosquitto, running(tmp_path / "data", mosquitto, control__mode="broker") as facts:
        await online(facts)
        async with Device(options(facts, profile="2.4")) as device, mosquitto.client(HOME) as home:
            await enrol(device, facts, mosquitto)
            assert is_answered(await ask(device))
            device.drop_mqtt()
            async with asyncio.timeout(10):
                await device.control.connected.wait()
            await home.subscribe("xiaozhi/+/down")
            assert is_answered(await ask(device))
            async with asyncio.timeout(5):
                assert b'"stt"' in bytes((await anext(aiter(home.messages))).payload), "the home hears it as well"


async def test_a_device_that_subscribes_hears_everything_once(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with mosquitto, running(tmp_path / "data", mosquitto, control__mode="broker") as facts:
        await online(facts)
        async with Device(options(facts)) as device:
            await enrol(device, facts, mosquitto)
            assert is_answered(await ask(device))
            replies = [event for event in device.events.since(0) if event.message.get("type") == "hello"]
            assert len(replies) == 1
        # who may not write `down` reaches nobody through the plugin
        async with Device(options(facts, profile="2.4")) as device, mosquitto.client(HOME) as home, mosquitto.client(BRIDGE) as bridge:
            await device.boot()
            assert is_answered(await ask(device))
            mark = device.events.mark()
            for client, text in ((home, "forged"), (bridge, "genuine")):
                await client.publish("xiaozhi/02000000000a/down", f'{{"type":"alert","status":"{text}"}}', qos=1)
            event = await device.wait_for(lambda message: message.get("type") == "alert", since=mark)
            assert event.message["status"] == "genuine"


async def test_without_the_plugin_stock_firmware_is_not_reached(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    async with mosquitto, running(tmp_path / "data", mosquitto, control__mode="broker") as facts:
        await online(facts)
        async with Device(replace(options(facts, profile="2.4"), hello_timeout_s=2)) as device:
            await enrol(device, facts, mosquitto)
            with pytest.raises(HelloError):
                await device.open_channel()
