"""What the MQTT front costs.

An exchange: a device publishes a `listen`, the listener answers with an `stt`; many devices at once, each waiting for
its answer. The clients run in a process of their own; the figure is exchanges per second of this process's CPU time.
An idle device: growth of the resident set for each one that is connected and silent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence

import uvloop

from bench.machine import resident_mb
from bench.report import Options, Row
from mqtt_control.codec import Connect, Publish, encode
from mqtt_control.front import Front
from mqtt_control.identity import DeviceIdentity, parse_client_id
from mqtt_control.messages import Inbound, Outbound, Stt
from settings.model import Mqtt

REQUEST = encode(Publish("device-server", b'{"session_id":"b1c2d3e4","type":"listen","state":"start","mode":"auto"}'))
REPLY_TEXT = "what is the weather like today"


class Answering:
    """A listener that answers every message at once."""

    def __init__(self) -> None:
        self.front: Front | None = None

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        """Nothing to do."""

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        """Answer with what was heard."""
        assert self.front is not None
        self.front.send(identity.device_id, Stt("b1c2d3e4", REPLY_TEXT))

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        """Nothing to do."""

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        """Nothing to do."""


# -- the clients' process ----------------------------------------------------------------------------------------------
class Client(asyncio.Protocol):
    """One device: connects, then sends the next request whenever a reply is there."""

    def __init__(self, number: int, requests: int, done: asyncio.Semaphore) -> None:
        self._identity = DeviceIdentity((0x020000000000 + number).to_bytes(6, "big").hex(":"), f"bench-{number}")
        self._left = requests
        self._done = done
        self._missing = 4  # of the CONNACK
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._write(encode(Connect(self._identity.mqtt_client_id, 240, True, "bench", b"bench")))

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing > 0:
            return
        if self._left == 0:
            self._done.release()
            return
        self._left -= 1
        self._missing = REPLY_BYTES
        self._write(REQUEST)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


REPLY_BYTES = len(
    encode(
        Publish(
            "devices/p2p/02_00_00_00_00_00",
            json.dumps({"type": "stt", "session_id": "b1c2d3e4", "text": REPLY_TEXT}, separators=(",", ":")).encode(),
        )
    )
)


async def run_clients(port: int, devices: int, requests: int) -> None:
    """All devices until each has its replies; then wait for the end of standard input."""
    loop = asyncio.get_running_loop()
    done = asyncio.Semaphore(0)
    for number in range(devices):
        await loop.create_connection(lambda number=number: Client(number, requests, done), "127.0.0.1", port)  # type: ignore[misc]
    for _ in range(devices):
        await done.acquire()
    print("done", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


# -- the server's process ----------------------------------------------------------------------------------------------
async def _run(devices: int, requests: int) -> tuple[float, float]:
    """CPU seconds and growth of the resident set in MB over one run of the clients."""
    listener = Answering()
    front = Front(Mqtt(), authenticate=lambda client_id, _username, _password: parse_client_id(client_id), listener=listener)
    listener.front = front
    port = await front.start(host="127.0.0.1", port=0)
    gc.collect()
    resident, cpu_s = resident_mb(), time.process_time()
    clients = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.mqtt_front", str(port), str(devices), str(requests)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert clients.stdout is not None
    if (line := await clients.stdout.readline()) != b"done\n":
        raise SystemExit(f"the clients failed: {line!r}")
    cpu_s, grown_mb = time.process_time() - cpu_s, resident_mb() - resident
    if front.stats.messages_out != devices * requests or front.stats.devices != devices:
        raise SystemExit(f"not everything was served: {front.stats}")
    await clients.communicate(b"")  # the end of input is the clients' sign to go
    await front.aclose()
    return cpu_s, grown_mb


async def _measure(*, devices: int, requests: int, idle_devices: int) -> tuple[float, float]:
    """CPU seconds of an exchange, MB of an idle device. A first small run takes the one-time costs (imports, pools) out."""
    await _run(10, 1)
    _, grown_mb = await _run(idle_devices, 0)
    connecting_s, _ = await _run(devices, 0)
    cpu_s, _ = await _run(devices, requests)
    return (cpu_s - connecting_s) / (devices * requests), grown_mb / idle_devices


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    devices, requests, idle_devices = (50, 200, 500) if options.quick else (50, 2000, 5000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        each_s, idle_mb = runner.run(_measure(devices=devices, requests=requests, idle_devices=idle_devices))
    note = f"{devices} devices, {each_s * 1e6:.1f} us each"
    yield Row(part="mqtt", case="exchanges a second and core", value=1 / each_s, unit="/s", at_least=15_000, note=note)
    yield Row(part="mqtt", case="memory of an idle connection", value=idle_mb * 1e3, unit="KB", note=f"{idle_devices} devices")


def main() -> None:
    """The clients' process."""
    port, devices, requests = map(int, sys.argv[1:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_clients(port, devices, requests))


if __name__ == "__main__":
    main()
