"""Two worker processes at a real mosquitto: every worker hears every device, and one answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import pytest

from bridge.device import Device, DeviceOptions, encode_speech, is_message
from bridge.workers.share import owner_of
from mqtt_control.credentials import mint_for_broker
from ota.broker import write_password_file
from ota.devices import read_registry
from tests.bridge.workers.cluster import PATIENCE_S, WORKERS, Cluster, comes, goes_on, open_at, serving
from tests.mosquitto import BRIDGE, Mosquitto, needs_mosquitto
from tests.scripted import tone

pytestmark = [
    pytest.mark.slow,
    needs_mosquitto,
    pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux"),
]

QUESTION = encode_speech(tone(0.6), frame_ms=20)
HELLO = b'{"type":"hello","version":3,"transport":"udp"}'
ANSWERED = 'xiaozhi_turns_total{outcome="answered"}'


def at_home(worker: int, *, skip: int = 0) -> str:
    """The id of a device whose home this worker is."""
    ids = (f"02:00:00:00:02:{number:02x}" for number in range(256))
    return [one for one in ids if owner_of(one, count=WORKERS, members=range(WORKERS)) == worker][skip]


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    async with Mosquitto(directory) as broker:
        yield broker


@pytest.fixture(params=["broker"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Cluster]:
    """The parameter is the control mode."""
    settings = {"control.mode": request.param, "broker.host": "127.0.0.1", "broker.port": mosquitto.port, "broker.reconnect_max_s": 1}
    settings |= {"broker.username": BRIDGE[0], "broker.password": BRIDGE[1]}
    directory = tmp_path / "server"
    directory.mkdir()
    with serving(directory, *(f"{name}={value}" for name, value in settings.items())) as cluster:
        yield cluster


@asynccontextmanager
async def device(cluster: Cluster, mosquitto: Mosquitto, device_id: str) -> AsyncIterator[Device]:
    """A device that subscribes, enrolled and known to the broker."""
    options = DeviceOptions(
        ota_url=f"{cluster.url}/xiaozhi/ota/", device_id=device_id, profile="py-xiaozhi", warm_up_s=0.0, reconnect_s=0.2
    )
    async with Device(options) as one:
        async with httpx.AsyncClient(trust_env=False) as http:
            await http.post(options.ota_url, headers=one.hardware.headers(one.profile), json=one.hardware.system_info(one.profile))
        if write_password_file(mosquitto.passwords, read_registry(cluster.data_dir / "devices.sqlite3")):
            mosquitto.reload()
        await one.boot()
        yield one


def port_of(cluster: Cluster, worker: int) -> int:
    return cluster.workers[worker][1]


async def test_two_devices_in_different_workers(cluster: Cluster, mosquitto: Mosquitto) -> None:
    async with device(cluster, mosquitto, at_home(0)) as first, device(cluster, mosquitto, at_home(1)) as second:
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                for one in (first, second):
                    group.create_task(one.converse(QUESTION, timeout_s=PATIENCE_S))
        for index, one in enumerate((first, second)):
            assert one.grant is not None
            assert one.grant.port == port_of(cluster, index)
            hellos = [event for event in one.events if is_message("hello")(event.message)]
            assert len(hellos) == 1, "one answers a hello"
        assert sorted(line["worker"] for line in cluster.lines("turn")) == [0, 0, 1, 1]
        assert await cluster.metric(ANSWERED) == 4
        assert await cluster.metric("xiaozhi_bridge_hellos_total") == 2
        assert await cluster.metric("xiaozhi_broker_devices{") == 2
        handled = await cluster.metric("xiaozhi_broker_messages_in_total")
        assert await cluster.metric("xiaozhi_broker_others_messages_total") == handled, "each was heard by both, answered by one"
        await reaches_both(cluster, first, second)


async def reaches_both(cluster: Cluster, *devices: Device) -> None:
    """Over one HTTP connection, which is one worker's."""
    headers = {"Authorization": f"Bearer {cluster.token}"}
    async with httpx.AsyncClient(base_url=cluster.url, headers=headers, trust_env=False) as http:
        for one in devices:
            told = (await http.get(f"/api/devices/{one.options.device_id}/stats")).json()
            assert (told["sessions"], told["received"] > 10) == (1, True)
            mark = one.events.mark()
            assert (await http.delete(f"/api/devices/{one.options.device_id}")).status_code == 200
            await one.wait_for(is_message("goodbye"), PATIENCE_S, since=mark)


async def test_a_crash_ends_the_sessions_of_one_worker(cluster: Cluster, mosquitto: Mosquitto) -> None:
    async with device(cluster, mosquitto, at_home(0)) as first, device(cluster, mosquitto, at_home(1)) as second:
        for one in (first, second):
            await one.converse(QUESTION, timeout_s=PATIENCE_S)
        session_id = first.session_id
        pid = cluster.workers[1][0]
        os.kill(pid, signal.SIGKILL)
        await goes_on(second, QUESTION)
        await first.converse(QUESTION, timeout_s=PATIENCE_S)
        assert first.session_id == session_id, "the others notice nothing"
        await comes(lambda: cluster.workers[1][0] != pid)
        async with asyncio.timeout(PATIENCE_S):
            while second.grant is None or second.grant.port != port_of(cluster, 1):
                await goes_on(second, QUESTION)
                await asyncio.sleep(0.1)
        assert await cluster.metric("xiaozhi_bridge_sessions{") == 2, "none is left where a device stood in"


@pytest.mark.parametrize("cluster", ["both"], indirect=True)
async def test_front_and_broker_at_once(cluster: Cluster, mosquitto: Mosquitto) -> None:
    """A device that is heard at the broker leaves the front, though another worker has it there; and the other way."""
    device_id = at_home(1)
    options = DeviceOptions(ota_url=f"{cluster.url}/xiaozhi/ota/", device_id=device_id, reconnect_s=3600)
    async with Device(options) as at_front:
        await at_front.boot()
        await open_at(at_front, port_of(cluster, 0))
        write_password_file(mosquitto.passwords, read_registry(cluster.data_dir / "devices.sqlite3"))
        mosquitto.reload()
        (known,) = read_registry(cluster.data_dir / "devices.sqlite3")
        user = known.identity.node
        async with mosquitto.client((user, mint_for_broker(known.secret, known.identity).password)) as client:
            await client.subscribe(f"xiaozhi/{user}/down")
            await client.publish(f"xiaozhi/{user}/up", HELLO)
            reply: dict[str, Any] = {}
            async with asyncio.timeout(PATIENCE_S):
                while reply.get("type") != "hello":
                    reply = json.loads(bytes((await anext(aiter(client.messages))).payload))
            assert reply["udp"]["port"] == port_of(cluster, 1)
            await comes(lambda: not at_front.control.connected.is_set())
            assert await cluster.metric("xiaozhi_bridge_sessions{") == 1
            await at_front.control.connect()
            await at_front.goodbye()
            await open_at(at_front, port_of(cluster, 0))
            async with asyncio.timeout(PATIENCE_S):
                while await cluster.metric("xiaozhi_bridge_sessions{") != 1:
                    await asyncio.sleep(0.05)
            assert at_front.control.connected.is_set()


async def test_no_hello_is_answered_twice_while_workers_are_replaced(cluster: Cluster, mosquitto: Mosquitto) -> None:
    async with device(cluster, mosquitto, at_home(0)) as first, device(cluster, mosquitto, at_home(1)) as second:
        for one in (first, second):
            await one.open_channel()
        marks = [one.events.mark() for one in (first, second)]
        access = []
        raw = [at_home(worker, skip=1) for worker in range(WORKERS)]
        for device_id in raw:
            async with device(cluster, mosquitto, device_id) as one:
                assert one.mqtt is not None
                access.append((one.mqtt.username, one.mqtt.password))
        cluster.process.send_signal(signal.SIGHUP)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(keeps_asking(cluster, mosquitto, one)) for one in access]
        for one, mark in zip((first, second), marks, strict=True):
            await one.wait_for(is_message("goodbye"), PATIENCE_S, since=mark)
        sent, answered = (sum(numbers) for numbers in zip(*(task.result() for task in asked), strict=True))
        handled = await cluster.metric("xiaozhi_bridge_hellos_total") + await cluster.metric("xiaozhi_bridge_hellos_refused_total")
        assert answered <= handled - 2 <= sent, "the two devices' own hellos aside, each was handled once at most"
        for one in (first, second):
            await goes_on(one, QUESTION)
        assert await cluster.metric("xiaozhi_worker_up") == WORKERS
        assert await cluster.metric("xiaozhi_worker_restarts_total") == 0


async def keeps_asking(cluster: Cluster, mosquitto: Mosquitto, access: tuple[str, str]) -> tuple[int, int]:
    """Hello after hello until all workers are replaced and one is answered: how many were sent and answered in all."""
    sent, answered, user = 0, 0, access[0]
    async with mosquitto.client(access, identifier=f"asker-{user}") as client:
        await client.subscribe(f"xiaozhi/{user}/down")
        while True:
            done = bool(cluster.lines("all workers are replaced"))
            await client.publish(f"xiaozhi/{user}/up", HELLO)
            sent += 1
            replies = await replies_within(client, 0.05)
            answered += replies
            if done and replies:
                return sent, answered


async def replies_within(client: aiomqtt.Client, patience_s: float) -> int:
    """Replies to hellos, until nothing has come for so long."""
    replies = 0
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(patience_s):
                message = await anext(aiter(client.messages))
            replies += json.loads(bytes(message.payload))["type"] == "hello"
    return replies
