"""A server of two worker processes, as an operator starts it, and simulated devices that talk to it.

The engines are those of ``tests.scripted``, which the processes find as a third party's providers: by entry point.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.device import Device, DeviceError, DeviceOptions, Speech, State, encode_speech, is_message
from tests.scripted import silence, tone

ROOT = Path(__file__).parents[3]
ROLES = {"vad": "EnergyVad", "asr": "ScriptedAsr", "llm": "ScriptedLlm", "tts": "ScriptedTts"}
WORKERS = 2
PATIENCE_S = 40.0
"""For what takes one second on an idle machine."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT shares connections out on Linux only"),
]


@dataclass
class Cluster:
    """One running server."""

    process: subprocess.Popen[bytes]
    log: Path
    data_dir: Path

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Log lines of this event."""
        texts = self.log.read_text(encoding="utf-8").splitlines()
        return [line for line in (json.loads(text) for text in texts if text.startswith("{")) if line["event"] == event]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.lines('ready')[0]['http_port']}"

    @property
    def workers(self) -> dict[int, tuple[int, int]]:
        """Worker -> pid and UDP port, of those that were ready last."""
        return {line["worker"]: (line["pid"], line["udp_port"]) for line in self.lines("worker ready")}

    @property
    def token(self) -> str:
        return str(json.loads((self.data_dir / "admin.json").read_text())["token"])

    async def metric(self, pattern: str) -> float:
        """The sum of all samples that the pattern matches."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            text = (await http.get(f"{self.url}/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line))


@contextmanager
def serving(directory: Path, *more: str) -> Iterator[Cluster]:
    """A server with scripted engines; killed on leaving, should it still be there."""
    plugin = directory / "plugin" / "scripted_engines-1.0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted-engines\nVersion: 1.0\n")
    points = "".join(f"[xiaozhi_bridge.{role}]\nscripted = tests.scripted:{name}\n" for role, name in ROLES.items())
    (plugin / "entry_points.txt").write_text(points)
    arguments = ["serve", "--data-dir", "data", "--host", "127.0.0.1", "--workers", str(WORKERS), "--json-logs"]
    arguments += [f"--{name}-port=0" for name in ("http", "mqtt", "udp")]
    kinds = [f"{role}.kind=scripted" for role in ROLES]
    for one in [*kinds, "intent.kind=none", "advertise.host=127.0.0.1", "session.greeting=", *more]:
        arguments += ["--set", one]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("XZ_")}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bridge.cli", *arguments],
            cwd=directory,
            env=inherited | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(plugin.parent)))},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    cluster = Cluster(process, directory / "log", directory / "data")
    try:
        wait_until(lambda: process.poll() is not None or bool(cluster.lines("ready")))
        yield cluster
    finally:
        process.kill()  # the workers notice
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S  # noqa: TID251 - there is no event loop here
    while not condition():
        assert time.monotonic() < deadline, "it does not come"  # noqa: TID251
        time.sleep(0.05)  # noqa: TID251


async def comes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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


async def open_at(one: Device, udp_port: int) -> None:
    """Connect again and again until the kernel has chosen the worker with this UDP port; the channel is open then."""
    for _ in range(60):
        await one.open_channel()
        if one.grant is not None and one.grant.port == udp_port:
            return
        await one.goodbye()
        one.drop_mqtt()
        await one.control.connect()
    pytest.fail("the kernel never chooses this worker")


async def converse(one: Device, question: Speech) -> None:
    record = await one.converse(question, timeout_s=PATIENCE_S)
    assert record.sentences == ["It works.", "Really."]


async def goes_on(one: Device, question: Speech) -> None:
    """A user who hangs up and asks again when there is no answer: the device cannot know that its session died."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(DeviceError):
                await one.control.connect()
                await one.goodbye()
                await one.converse(question, timeout_s=10)
                return
            await asyncio.sleep(0.2)


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
                answer = await http.post(f"/api/devices/{one.options.device_id}/rotate")
                assert answer.status_code == 200
                await comes(lambda one=one: not one.control.connected.is_set())  # type: ignore[misc]
        for one in (first, second):
            with pytest.raises(DeviceError, match="refused the credentials"):
                await one.control.connect()


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
