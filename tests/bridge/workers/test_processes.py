"""A server of two worker processes, and simulated devices that talk to it."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.device import Device, DeviceError, DeviceOptions, Speech, State, encode_speech, is_message
from ota.firmware import MAX_OFFERS
from ota.shelf import REFRESH_S
from tests.bridge.certificates import write_certificate
from tests.bridge.workers.cluster import FEW_FILES, PATIENCE_S, WORKERS, Cluster, alive, comes, goes_on, open_at, serving, wait_until
from tests.ota.images import put
from tests.scripted import silence, tone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT shares connections out on Linux only"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def question() -> Speech:
    import numpy as np

    return encode_speech(np.concatenate([silence(0.1), tone(0.6), silence(0.1)]))


@asynccontextmanager
async def device(cluster: Cluster, number: int, **options: Any) -> AsyncIterator[Device]:
    chosen = {"reconnect_s": 0.1, **options}
    made = DeviceOptions(ota_url=f"{cluster.url}/xiaozhi/ota/", device_id=f"02:00:00:00:01:{number:02x}", **chosen)
    async with Device(made) as one:
        await one.boot()
        yield one


async def converse(one: Device, question: Speech) -> None:
    record = await one.converse(question, timeout_s=PATIENCE_S)
    assert record.sentences == ["It works.", "Really."]


@asynccontextmanager
async def four_at_each(cluster: Cluster) -> AsyncIterator[dict[int, list[Device]]]:
    """Eight devices with open channels, by worker."""
    ports = [udp_port for _, (_, udp_port) in sorted(cluster.workers.items())]
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(device(cluster, number)) for number in range(8)]
        async with asyncio.TaskGroup() as group:
            for number, one in enumerate(devices):
                group.create_task(open_at(one, ports[number % WORKERS]))
        yield {index: devices[index::WORKERS] for index in range(WORKERS)}
        for one in devices:
            await one.goodbye()


async def test_eight_devices_over_both_workers(cluster: Cluster, question: Speech) -> None:
    answered = 'xiaozhi_turns_total{outcome="answered"}'
    before = await cluster.metric(answered)
    async with four_at_each(cluster) as devices:
        async with asyncio.TaskGroup() as group:
            for one in devices[0] + devices[1]:
                group.create_task(converse(one, question))
        assert [await cluster.metric(f'xiaozhi_bridge_sessions{{worker="{index}"}}') for index in range(WORKERS)] == [4, 4]
    assert await cluster.metric(answered) == before + 8
    assert await cluster.metric("xiaozhi_worker_up") == WORKERS
    assert {line["worker"] for line in cluster.lines("turn")} == {0, 1}
    assert await cluster.metric("xiaozhi_devices_enrolled_total") == 8


def test_open_files_are_as_many_as_the_system_allows(cluster: Cluster) -> None:
    """Each device is one."""
    for pid in (cluster.process.pid, *(pid for pid, _ in cluster.workers.values())):
        (line,) = (line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files"))
        soft, hard = line.split()[3:5]
        assert int(soft) == min(int(hard), 1 << 20) > FEW_FILES


async def test_a_crash_is_not_noticed_by_the_others(cluster: Cluster, question: Speech) -> None:
    answered = 'xiaozhi_turns_total{outcome="answered"}'
    async with four_at_each(cluster) as devices:
        async with asyncio.TaskGroup() as group:
            for one in devices[0]:
                group.create_task(converse(one, question))
        before = await cluster.metric(answered)
        pid, _ = cluster.workers[0]
        losses = [one.control.stats.losses for one in devices[1]]
        async with asyncio.TaskGroup() as group:
            for one in devices[1]:
                group.create_task(converse(one, question))
            await asyncio.sleep(0.5)  # they speak now
            os.kill(pid, signal.SIGKILL)
        assert [one.control.stats.losses for one in devices[1]] == losses
        async with asyncio.TaskGroup() as group:
            for one in devices[0]:
                group.create_task(goes_on(one, question))
        await comes(lambda: cluster.workers[0][0] != pid)
        assert await cluster.metric(answered) >= before + 8  # what the dead one had counted still counts
        assert await cluster.metric('xiaozhi_worker_restarts_total{worker="0"}') == 1
    (line,) = cluster.lines("a worker has ended by itself")
    assert (line["worker"], line["exit_code"]) == (0, -signal.SIGKILL)


async def test_the_newest_connection_wins_whichever_worker_it_is_at(cluster: Cluster) -> None:
    (_, here), (_, there) = cluster.workers[0], cluster.workers[1]
    async with device(cluster, 0x20, reconnect_s=3600) as older:
        for _ in range(60):
            await older.control.connect()
            await older.goodbye()
            await open_at(older, here)
            async with device(cluster, 0x20, reconnect_s=3600) as newer:
                await newer.open_channel()
                await comes(lambda: not older.control.connected.is_set())
                if newer.grant is not None and newer.grant.port == there:
                    await asyncio.sleep(0.2)
                    assert newer.control.connected.is_set()
                    await only_one(cluster)
                    return
    pytest.fail("the kernel never chooses the other worker")


async def test_check_043_a_device_that_comes_back_to_another_worker_is_told_goodbye(cluster: Cluster) -> None:
    """In auto mode a listening device says nothing by itself: without a goodbye it would listen for ever."""
    async with device(cluster, 0x22, reconnect_s=3600) as one:
        for _ in range(60):
            await one.start_listening()
            believed = one.session_id
            one.drop_mqtt()
            await one.control.connect()
            await asyncio.sleep(0.2)
            if any(line["device"] == one.options.device_id for line in cluster.lines("the device has connected to another worker")):
                await one.wait_for_state(State.IDLE)
                assert [is_message("goodbye", session_id=believed)(event.message) for event in one.events].count(True) == 1
                return
            await one.goodbye()
    pytest.fail("the kernel never chooses the other worker")


async def only_one(cluster: Cluster) -> None:
    """One connection and one session are left in all."""
    async with asyncio.timeout(PATIENCE_S):
        while await cluster.metric("xiaozhi_bridge_sessions{") > 1:
            await asyncio.sleep(0.05)
    assert await cluster.metric("xiaozhi_mqtt_devices{") == 1
    assert await cluster.metric("xiaozhi_bridge_sessions{") == 1


async def test_of_two_connections_at_once_one_stays(cluster: Cluster) -> None:
    async with device(cluster, 0x21, reconnect_s=3600) as one, device(cluster, 0x21, reconnect_s=3600) as other:
        for _ in range(10):
            one.drop_mqtt()
            other.drop_mqtt()
            async with asyncio.TaskGroup() as group:
                group.create_task(one.control.connect())
                group.create_task(other.control.connect())
            await comes(lambda: one.control.connected.is_set() + other.control.connected.is_set() == 1)
            await asyncio.sleep(0.05)
            assert one.control.connected.is_set() + other.control.connected.is_set() == 1


async def test_an_admin_command_reaches_the_worker_that_has_the_device(cluster: Cluster) -> None:
    """One HTTP connection is one worker, and one of the two devices is at the other."""
    (_, here), (_, there) = cluster.workers[0], cluster.workers[1]
    async with device(cluster, 0x30, reconnect_s=3600) as first, device(cluster, 0x31, reconnect_s=3600) as second:
        await open_at(first, here)
        await open_at(second, there)
        headers = {"Authorization": f"Bearer {cluster.token}"}
        async with httpx.AsyncClient(base_url=cluster.url, headers=headers, trust_env=False) as http:
            for one in (first, second):
                told = await http.get(f"/api/devices/{one.options.device_id}/stats")
                assert (told.status_code, told.json()["sessions"] >= 1) == (200, True)
            stranger = await http.get("/api/devices/02:00:00:00:00:77/stats")
            assert stranger.status_code == 404
            for one in (first, second):
                answer = await http.post(f"/api/devices/{one.options.device_id}/rotate")
                assert answer.status_code == 200
                await comes(lambda one=one: not one.control.connected.is_set())  # type: ignore[misc]
        for one in (first, second):
            with pytest.raises(DeviceError, match="refused the credentials"):
                await one.control.connect()


async def test_check_008_firmware_offers_are_counted_over_all_workers(cluster: Cluster) -> None:
    put(cluster.data_dir, "updating", "2.5.0")
    await asyncio.sleep(REFRESH_S + 0.5)
    async with device(cluster, 0x40, board="updating", rolls_back=True) as stubborn:
        assert (stubborn.stats.upgrades, stubborn.profile.firmware_version) == (MAX_OFFERS, "2.4.2")
    for number in range(0x41, 0x47):
        async with device(cluster, number, board="updating") as updated:
            assert (updated.stats.upgrades, updated.profile.firmware_version) == (1, "2.5.0")
    assert await cluster.metric("xiaozhi_downloads_completed_total") == MAX_OFFERS + 6


async def test_rolling_restart(cluster: Cluster, question: Speech) -> None:
    async with four_at_each(cluster) as devices:
        everyone = devices[0] + devices[1]
        before = cluster.workers
        cluster.process.send_signal(signal.SIGHUP)
        await comes(lambda: bool(cluster.lines("all workers are replaced")))
        assert {pid for pid, _ in before.values()}.isdisjoint(pid for pid, _ in cluster.workers.values())
        assert not any(alive(pid) for pid, _ in before.values())
        for one in everyone:
            assert any(is_message("goodbye")(event.message) for event in one.events)
        async with asyncio.TaskGroup() as group:
            for one in everyone:
                group.create_task(goes_on(one, question))
        assert await cluster.metric("xiaozhi_worker_up") == WORKERS


async def test_other_listeners_need_a_restart(tmp_path: Path) -> None:
    """The ports were chosen for the listeners of the start: new workers would each take another one."""
    (tmp_path / "config.yaml").write_text("control: {mode: front}\n")
    with serving(tmp_path) as cluster:
        before = cluster.workers
        (tmp_path / "config.yaml").write_text("control: {mode: both}\n")
        cluster.process.send_signal(signal.SIGHUP)
        await comes(lambda: any("needs a restart" in line["event"] for line in cluster.every_line()))
        assert cluster.workers == before
        (tmp_path / "config.yaml").write_text("control: {mode: front}\n")
        cluster.process.send_signal(signal.SIGHUP)
        await comes(lambda: bool(cluster.lines("all workers are replaced")))
        assert cluster.workers.keys() == before.keys()


async def test_tls_alone_behind_all_workers(tmp_path: Path) -> None:
    """Without a plain listener: every worker shows the certificate on the port that devices are told."""
    certificate, key = write_certificate(tmp_path / "own", names=["127.0.0.1"])
    files = (f"mqtt.tls.certificate={certificate}", f"mqtt.tls.private_key={key}")
    with serving(tmp_path, "mqtt.plain=false", "mqtt.tls.port=0", *files) as cluster:
        (ready,) = cluster.lines("ready")
        assert ready["mqtt_port"] is None
        headers = {"Device-Id": "02:00:00:00:00:01", "Client-Id": "00000000-0000-4000-8000-000000000001"}
        async with httpx.AsyncClient(trust_env=False) as http:
            told = (await http.post(f"{cluster.url}/xiaozhi/ota/", headers=headers, json={})).json()["mqtt"]["endpoint"]
        assert told == f"127.0.0.1:{ready['mqtt_tls_port']}"
        trust = ssl.create_default_context(cafile=certificate)
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", ready["mqtt_tls_port"], ssl=trust)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        listening = {line["worker"] for line in cluster.lines("listening for devices")}
        assert listening == set(range(WORKERS))


async def test_sigterm_ends_everything(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster:
        pids = [pid for pid, _ in cluster.workers.values()]
        async with device(cluster, 1, reconnect_s=3600) as one:
            await one.open_channel()
            mark = one.events.mark()
            cluster.process.terminate()
            await one.wait_for(is_message("goodbye"), PATIENCE_S, since=mark)
            await one.wait_for_state(State.IDLE)
            assert await asyncio.to_thread(cluster.process.wait, 10) == 0
        assert not any(alive(pid) for pid in pids)


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster:
        pids = [pid for pid, _ in cluster.workers.values()]
        cluster.process.kill()
        wait_until(lambda: not any(alive(pid) for pid in pids))


def test_what_an_operator_can_mend_is_said_once(tmp_path: Path) -> None:
    with serving(tmp_path, "assistant.timezone=Atlantis/Capital") as cluster:
        assert cluster.process.wait(PATIENCE_S) == 1
        text = cluster.log.read_text(encoding="utf-8")
        assert text.count("Atlantis/Capital") == 1
        assert "Error: assistant.timezone" in text
