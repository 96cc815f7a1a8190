"""Whole conversations through a real mosquitto: the running bridge, the simulated device, scripted engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.app import bridge
from bridge.banner import Facts
from bridge.device.device import Device
from bridge.device.options import DeviceOptions
from bridge.device.speech import encode_speech
from bridge.device.turn_record import TurnRecord
from bridge.engines import Providers
from ota.broker import write_password_file
from ota.devices import read_registry
from settings.load import load
from tests.mosquitto import BRIDGE, HOME, Mosquitto, needs_mosquitto
from tests.scripted import EnergyVad, ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts, tone

pytestmark = needs_mosquitto

MAC = "02:00:00:00:00:0a"
NODE = "02000000000a"
OTHER_MAC = "02:00:00:00:00:0b"
QUESTION = {"py-xiaozhi": encode_speech(tone(0.6), frame_ms=20), "2.4": encode_speech(tone(0.6))}


@asynccontextmanager
async def running(data: Path, mosquitto: Mosquitto, **settings: Any) -> AsyncIterator[Facts]:
    """The bridge in this process, with engines that need no models."""
    given: dict[str, Any] = {
        **{f"{name}.host": "127.0.0.1" for name in ("http", "mqtt", "udp", "advertise")},
        **{f"{name}.port": 0 for name in ("http", "mqtt", "udp")},
        "data_dir": str(data),
        "broker.port": mosquitto.port,
        "broker.username": BRIDGE[0],
        "broker.password": BRIDGE[1],
        "broker.reconnect_max_s": 1,
        "broker.resubscribe_s": 3,
    }
    engines = Providers(
        vad=EnergyVad(),
        asr=ScriptedAsr(),
        llm=ScriptedLlm([("This is a rather long answer, ", "which takes a while to say. ", "Really.")]),
        tts=ScriptedTts(),
        intents=ScriptedIntents(),
    )
    loaded = load(None, overrides=given | {name.replace("__", "."): value for name, value in settings.items()})
    async with bridge(loaded, providers=lambda _settings, _store: engines) as facts:
        yield facts


async def ota_answer(facts: Facts, mac: str, *, board: str = "simulated") -> dict[str, Any]:
    headers = {"Device-Id": mac, "Client-Id": "00000000-0000-4000-8000-000000000001", "User-Agent": f"{board}/2.0.0"}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer: dict[str, Any] = (await http.post(facts.ota_url, headers=headers, json={"board": {"name": board}})).json()
        return answer


async def enrol(device: Device, facts: Facts, mosquitto: Mosquitto) -> None:
    """Boot the device; its first visit makes it known, so its password can reach the broker."""
    async with httpx.AsyncClient(trust_env=False) as http:
        hardware = device.hardware
        await http.post(facts.ota_url, headers=hardware.headers(device.profile), json=hardware.system_info(device.profile))
    if write_password_file(mosquitto.passwords, read_registry(facts.data_dir / "devices.sqlite3")):
        mosquitto.reload()
    await device.boot()


async def ask(device: Device) -> TurnRecord:
    return await device.converse(QUESTION[device.profile.name])


async def true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def metric(facts: Facts, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{facts.http_port}/metrics")).text
    return next((float(line.split()[1]) for line in text.splitlines() if line.split()[0] == name), -1.0)


async def online(facts: Facts) -> None:
    async with asyncio.timeout(20):
        while await metric(facts, "xiaozhi_broker_online") != 1:
            await asyncio.sleep(0.02)


def is_answered(turn: TurnRecord) -> bool:
    return turn.stt == "hello" and turn.answered and turn.counters.played_packets > 10


def options(facts: Facts, mac: str = MAC, *, profile: str = "py-xiaozhi") -> DeviceOptions:
    return DeviceOptions(ota_url=facts.ota_url, device_id=mac, profile=profile, warm_up_s=0.0, reconnect_s=1.0)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Mosquitto:
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    return Mosquitto(directory)


async def test_a_subscribing_device_converses_through_the_broker(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with mosquitto, running(tmp_path / "data", mosquitto, control__mode="broker") as facts:
        assert facts.mqtt_port is None
        await online(facts)
        async with mosquitto.client(HOME) as home, Device(options(facts)) as device:
            await home.subscribe("xiaozhi/+/up")
            await enrol(device, facts, mosquitto)
            assert is_answered(await ask(device))
            assert is_answered(await ask(device))
            first = await anext(aiter(home.messages))
            assert first.topic.value == f"xiaozhi/{NODE}/up"
            assert json.loads(bytes(first.payload))["type"] == "hello"
            await device.goodbye()
        assert await metric(facts, "xiaozhi_broker_devices") == 1


async def test_a_restart_of_the_broker_in_the_middle_of_an_answer(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with mosquitto, running(tmp_path / "data", mosquitto, control__mode="broker") as facts:
        await online(facts)
        async with Device(options(facts)) as device:
            await enrol(device, facts, mosquitto)
            await device.start_listening()
            before = device.snapshot()
            said = await device.microphone.say(QUESTION["py-xiaozhi"])
            await true(lambda: device.player.stats.played > before.counters.played_packets + 5)
            session_id = device.session_id
            await mosquitto.stop()
            await asyncio.sleep(0.2)
            await mosquitto.start()
            turn = await device.await_reply(before, said=said)
            assert is_answered(turn), "the sound went on, and `tts stop` came when the device was back"
            assert is_answered(await ask(device))
            assert device.session_id == session_id, "still the same session, without another hello"
            assert device.control.stats.connects == 2
        assert await metric(facts, "xiaozhi_broker_losses_total") == 1
        assert await metric(facts, "xiaozhi_bridge_hellos_total") == 1


async def test_the_front_is_the_default_and_no_broker_is_needed(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with running(tmp_path, mosquitto) as facts:
        answer = (await ota_answer(facts, OTHER_MAC))["mqtt"]
        assert answer["endpoint"] == f"127.0.0.1:{facts.mqtt_port}"
        assert (answer["publish_topic"], answer["subscribe_topic"]) == ("device-server", "null")
        assert await metric(facts, "xiaozhi_broker_online") == -1, "there is no such link"
        async with Device(options(facts)) as device:
            await device.boot()
            assert is_answered(await ask(device))


async def test_both_at_once(tmp_path: Path, mosquitto: Mosquitto) -> None:
    settings = {"control__mode": "both", "broker__devices": [MAC, "desk*"]}
    async with mosquitto, running(tmp_path / "data", mosquitto, **settings) as facts:
        await online(facts)
        for mac, board, port in (
            ("02:00:00:00:00:0c", "simulated", facts.mqtt_port),
            ("02:00:00:00:00:0d", "Desk-Lamp", mosquitto.port),
        ):
            assert (await ota_answer(facts, mac, board=board))["mqtt"]["endpoint"] == f"127.0.0.1:{port}"
        async with Device(options(facts)) as at_broker, Device(options(facts, OTHER_MAC, profile="2.4")) as at_front:
            await enrol(at_broker, facts, mosquitto)
            await at_front.boot()
            async with asyncio.TaskGroup() as tasks:
                turns = [tasks.create_task(ask(device)) for device in (at_broker, at_front)]
            assert all(is_answered(turn.result()) for turn in turns)
            assert at_broker.session_id != at_front.session_id
        assert (await metric(facts, "xiaozhi_broker_messages_in_total")) > 0
        assert (await metric(facts, "xiaozhi_mqtt_messages_in_total")) > 0


def bearer(facts: Facts) -> dict[str, str]:
    return {"Authorization": f"Bearer {json.loads((facts.data_dir / 'admin.json').read_text())['token']}"}


async def test_a_device_that_is_forgotten_is_not_heard_any_more(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with mosquitto, running(tmp_path / "data", mosquitto, control__mode="broker") as facts:
        await online(facts)
        async with Device(options(facts)) as device:
            await enrol(device, facts, mosquitto)
            assert is_answered(await ask(device))
            async with httpx.AsyncClient(trust_env=False) as http:
                gone = await http.delete(f"http://127.0.0.1:{facts.http_port}/api/devices/{MAC}", headers=bearer(facts))
            assert gone.status_code == 200
            heard = await metric(facts, "xiaozhi_broker_messages_in_total")
            async with asyncio.timeout(10):  # it may hang up when its session is ended
                while not device.control.connected.is_set():
                    await device.control.connect()
            device.control.publish('{"type":"hello","version":3,"transport":"udp"}')
            async with asyncio.timeout(10):
                while await metric(facts, "xiaozhi_broker_unknown_devices_total") < 1:
                    await asyncio.sleep(0.02)
            assert await metric(facts, "xiaozhi_broker_messages_in_total") == heard
            assert await metric(facts, "xiaozhi_broker_devices") == 0
