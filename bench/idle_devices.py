"""Idle devices as a process of a bench: each is one MQTT connection, plain or TLS, that says nothing but PINGREQ.

Reads one :class:`Plan` as a JSON line and answers when every device is let in. Then each ``{"pings": n, "say_bytes": m}`` lets
every device say a message of so many bytes (0: none) and ping so often, one PINGRESP after the other, and is answered at the end.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from dataclasses import dataclass
from typing import Any

import httpx
import uvloop

from mqtt_control.codec import Connect, Pingreq, Pingresp, Publish, encode
from mqtt_control.identity import DeviceIdentity

AT_ONCE = 50
DEVICES_A_SOURCE = 10_000
"""A loopback address has some 28,000 ports for its outgoing connections; further devices come from the next one."""
CONNACK = b"\x20\x02\x00\x00"
PINGREQ = encode(Pingreq())
PINGRESP = encode(Pingresp())
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    devices: int
    first: int = 0
    """Number of the first device: part of its address."""
    port: int = 0
    """Where the listener is; 0: the server at ``ota_url`` says it, to each device with its credentials."""
    ota_url: str = ""
    authority: str = ""
    """PEM file of the certificate to trust; empty: plain TCP."""
    tls_version: str = "TLSv1_2"


@dataclass(frozen=True, slots=True)
class Access:
    """What a device connects with."""

    port: int
    client_id: str
    username: str
    password: bytes


class IdleDevice(asyncio.Protocol):
    """Connects, and waits for exactly the bytes that are due."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._transport: Any = None
        self._due = CONNACK
        self._came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(encode(Connect(self._access.client_id, 240, True, self._access.username, self._access.password)))

    def data_received(self, data: bytes) -> None:
        self._due = self._due.removeprefix(data)
        if not self._due and not self._came.done():
            self._came.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._came.done():
            self._came.set_exception(exc or ConnectionResetError("the server has closed the connection"))

    async def let_in(self) -> None:
        await self._came

    def say(self, size_bytes: int) -> None:
        """One message: an answer of the device's tools that nobody waits for, so that nothing comes back."""
        payload = {"jsonrpc": "2.0", "id": 1_000_000, "result": {"text": "x" * size_bytes}}
        body = json.dumps({"session_id": "", "type": "mcp", "payload": payload}).encode()
        self._transport.write(encode(Publish("device-server", body)))

    async def ping(self) -> None:
        self._due, self._came = PINGRESP, asyncio.get_running_loop().create_future()
        self._transport.write(PINGREQ)
        await self._came


async def boot(plan: Plan, number: int, http: httpx.AsyncClient) -> Access:
    """The credentials of one device: of its own making for a listener that believes anything, else from check-version."""
    identity = DeviceIdentity((0x020000000000 + plan.first + number).to_bytes(6, "big").hex(":"), f"00000000-0000-4000-8000-{number:012x}")
    if not plan.ota_url:
        return Access(plan.port, identity.mqtt_client_id, "bench", b"bench")
    headers = {"Device-Id": identity.device_id, "Client-Id": identity.client_id, "User-Agent": "bench/2.4.2", "Connection": "close"}
    answer = (await http.post(plan.ota_url, headers=headers, json={"board": {"name": "bench"}})).json()["mqtt"]
    return Access(int(answer["endpoint"].rpartition(":")[2]), answer["client_id"], answer["username"], answer["password"].encode())


async def connect(plan: Plan, number: int, access: Access, trust: ssl.SSLContext | None) -> IdleDevice:
    source = f"127.0.0.{2 + number // DEVICES_A_SOURCE}"
    name = "127.0.0.1" if trust else None
    loop = asyncio.get_running_loop()
    _, device = await loop.create_connection(
        lambda: IdleDevice(access), "127.0.0.1", access.port, ssl=trust, server_hostname=name, local_addr=(source, 0)
    )
    await device.let_in()
    return device


def trusting(plan: Plan) -> ssl.SSLContext | None:
    if not plan.authority:
        return None
    context = ssl.create_default_context(cafile=plan.authority)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[plan.tls_version]
    return context


async def run(plan: Plan) -> None:
    loop = asyncio.get_running_loop()
    trust = trusting(plan)
    few = asyncio.Semaphore(AT_ONCE)
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S, limits=limits) as http:

        async def one(number: int) -> IdleDevice:
            async with few:
                return await connect(plan, number, await boot(plan, number, http), trust)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            opening = [group.create_task(one(number)) for number in range(plan.devices)]
    devices = [task.result() for task in opening]
    answer({"connected": len(devices)})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        wish = json.loads(line)
        if wish.get("say_bytes"):
            for device in devices:
                device.say(wish["say_bytes"])
        for _ in range(wish["pings"]):
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                for device in devices:
                    group.create_task(device.ping())
        answer({"pinged": len(devices)})


def answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    plan = Plan(**json.loads(sys.stdin.readline()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(plan))


if __name__ == "__main__":
    main()
