"""The front against those who come to stay, to shout, or vanish: many of them, over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.machine import resident_mb
from bridge.limits import Gate
from mqtt_control.codec import Connack, Pingresp
from mqtt_control.connection import PACKETS_AT_ONCE
from mqtt_control.front import PAID_AT_ONCE, Front
from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Goodbye, Stt, TtsStart, TtsStop
from mqtt_control.tcp import unacknowledged_bytes
from settings.model import Limits
from tests.mqtt_control.half_open import needs_socket_filters, reappear, vanish
from tests.mqtt_control.test_front import (
    ALICE,
    BOB,
    HELLO,
    Device,
    Recorder,
    connect_of,
    connected_device,
    device,
    publish,
    running_front,
    self_signed,
)

CROWD = 2000


@asynccontextmanager
async def crowd(port: int, count: int) -> AsyncGenerator[list[socket.socket]]:
    """So many connections from other addresses than the honest devices', on which nothing happens by itself."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            sock = socket.socket()
            sockets.append(sock)
            sock.setblocking(False)
            sock.bind((f"127.0.1.{1 + number % 4}", 0))
            with suppress(ConnectionError):
                await loop.sock_connect(sock, ("127.0.0.1", port))
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def trickle(sockets: list[socket.socket], data: bytes) -> int:
    """The same on each that still takes it; how many do."""
    alive = 0
    for sock in sockets:
        with suppress(OSError):
            alive += sock.send(data) == len(data)
    return alive


async def until(condition: Callable[[], object], *, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def a_turn_of(identity: DeviceIdentity, front: Front, port: int) -> None:
    """A device comes, is heard and answered, and goes."""
    async with connected_device(port, identity) as client:
        client.send(publish(HELLO))
        assert front.send(identity.device_id, Stt("s", "hi"))
        assert await client.packet() is not None
        assert await client.quiet()


# -- connections that have come to stay ------------------------------------------------------------------------------------
async def test_check_028_two_thousand_slow_connections_lock_nobody_out() -> None:
    """Half of them send a byte at a time, half nothing. They are bounded, timed out, and leave nothing behind."""
    bounds: dict[str, Any] = {"max_unauthenticated": 400, "max_unauthenticated_per_source": 150}
    async with running_front(connect_timeout_s=3, **bounds) as (front, _, port), connected_device(port, BOB) as bob:
        slow = connect_of(ALICE)[:-1]
        async with crowd(port, CROWD // 10):
            await until(lambda: front.stats.connections_waiting)
        await until(lambda: front.stats.connections == 1)
        gc.collect()
        before_mb = resident_mb()
        displaced, timed_out = front.stats.connections_displaced, front.stats.connect_timeouts
        async with crowd(port, CROWD) as sockets:
            await until(lambda: front.stats.connections_opened >= CROWD + CROWD // 10)
            most = 0
            for byte in slow[:20]:
                trickle(sockets[::2], bytes((byte,)))
                await a_turn_of(ALICE, front, port)
                most = max(most, front.stats.connections_waiting)
                assert await bob.quiet()
            assert most <= 400
            await until(lambda: front.stats.connections == 1)  # all were closed though every socket here is still open
            assert front.stats.connections_waiting == 0
        closed = front.stats.connections_displaced - displaced + front.stats.connect_timeouts - timed_out
        assert closed == CROWD
        assert front.stats.connections_displaced - displaced >= CROWD - 400
        gc.collect()
        assert resident_mb() - before_mb < 10
        assert len(front._lobby) == 0
        assert front._lobby._by_source == {}


async def test_a_full_house_displaces_those_who_have_not_said_who_they_are() -> None:
    async with running_front(max_connections=5) as (front, _, port), connected_device(port, BOB) as bob, crowd(port, 4):
        await until(lambda: front.stats.connections_waiting == 4)
        await a_turn_of(ALICE, front, port)
        assert (front.stats.connections_displaced, front.stats.connections_refused_full) == (1, 0)
        assert await bob.quiet()


async def test_exempt_sources_are_bounded_by_the_whole_alone() -> None:
    async with running_front(max_unauthenticated=6, max_unauthenticated_per_source=1) as (front, _, port):
        front._gate = Gate(Limits(exempt=("127.0.1.0/24",)), now=asyncio.get_running_loop().time)
        async with crowd(port, 8):
            await until(lambda: front.stats.connections_opened == 8)
            assert front.stats.connections_displaced == 2
            front._gate = Gate(Limits(), now=asyncio.get_running_loop().time)
            async with crowd(port, 8):
                await until(lambda: front.stats.connections_opened == 16)
                assert front.stats.connections_waiting <= 6


async def _tls_handshakes(folder: Path) -> None:
    server, client_side = self_signed(folder)
    bounds: dict[str, Any] = {"max_unauthenticated": 50, "max_unauthenticated_per_source": 20}
    async with running_front(connect_timeout_s=2, **bounds) as (front, _, _port):
        port = await front.start(host="127.0.0.1", port=0, ssl=server)
        async with device(port, ssl=client_side, server_hostname="localhost") as bob:
            bob.send(connect_of(BOB))
            assert await bob.packet() == Connack(0)
            async with crowd(port, 500) as sockets:
                trickle(sockets[::2], b"\x16\x03\x01")
                for _ in range(3):
                    async with device(port, ssl=client_side, server_hostname="localhost") as alice:
                        alice.send(connect_of(ALICE))
                        assert await alice.packet() == Connack(0)
                        assert front.stats.connections_waiting <= 50
                assert await bob.quiet()
                await until(lambda: front.stats.connections_displaced + front.stats.connect_timeouts == 500)
                assert front.stats.connections_displaced >= 450
                assert (len(front._lobby), front._lobby._by_source) == (0, {})
            gate = front._gate = Gate(Limits(connections_per_minute=1), now=asyncio.get_running_loop().time)
            async with crowd(port, 12):  # of four addresses
                await until(lambda: gate.stats.connections_refused == 8)
            assert await bob.quiet()
    assert front.stats.connections == 0


async def test_tls_handshakes_that_never_end_are_bounded(tmp_path: Path) -> None:
    await _tls_handshakes(tmp_path)


def test_tls_handshakes_that_never_end_are_bounded_on_uvloop(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_tls_handshakes(tmp_path))


# -- a device that shouts ---------------------------------------------------------------------------------------------------
async def test_a_device_that_publishes_without_end_is_read_slowly_and_loses_nothing() -> None:
    """What it sends beyond its allowance waits in its own socket; another device is answered in between."""
    async with running_front() as (front, listener, port), connected_device(port, BOB) as bob, device(port) as loud:
        front._gate = Gate(Limits(device_messages_per_minute=3000), now=asyncio.get_running_loop().time)
        loud.send(connect_of(ALICE))
        assert await loud.packet() == Connack(0)
        count = 3080
        loud.send(publish(b'{"type":"abort"}') * count)
        await bob_is_heard_between(bob, front, listener, count)
        assert len([facts for facts in listener.heard if facts[0] == "message" and facts[1] == ALICE]) == count
        assert front.stats.throttled >= 1
        assert await loud.quiet()


async def bob_is_heard_between(bob: Device, front: Front, listener: Recorder, count: int) -> None:
    """Bob pings as fast as he is answered; between two answers never more of Alice's messages come than a turn's share or two."""
    heard = front.stats.messages_in
    most = rounds = 0
    async with asyncio.timeout(30):
        while front.stats.messages_in < count:
            assert await bob.quiet()
            most, heard, rounds = max(most, front.stats.messages_in - heard), front.stats.messages_in, rounds + 1
    assert listener.heard
    assert rounds >= 10
    assert most <= 10 * PACKETS_AT_ONCE  # all 3000 came in two or three pieces


async def test_pings_without_end_are_taken_in_turns_too() -> None:
    async with running_front() as (front, _, port), connected_device(port, ALICE) as loud, connected_device(port, BOB) as bob:
        loud.send(b"\xc0\x00" * 20_000)
        assert await bob.quiet()
        for _ in range(20_000):
            assert await loud.packet() == Pingresp()
        assert front.stats.devices == 2


async def test_a_loud_device_that_leaves_is_forgotten() -> None:
    async with running_front() as (front, listener, port):
        front._gate = Gate(Limits(device_messages_per_minute=60), now=asyncio.get_running_loop().time)
        async with connected_device(port, ALICE) as loud:
            loud.send(publish(b'{"type":"abort"}') * 500)
            await until(lambda: front.stats.throttled)
        async with connected_device(port, ALICE) as again:  # its debt comes with it
            again.send(publish(b'{"type":"abort"}') * PAID_AT_ONCE)
            await until(lambda: front.stats.throttled >= 2)
        assert front.stats.takeovers == 1 or ("disconnected", ALICE) in listener.heard


# -- the same device again and again ---------------------------------------------------------------------------------------
async def test_check_023_two_hundred_connections_of_one_device_in_quick_succession() -> None:
    """The last one is the device's; each older one is closed; the listener hears of no end but the last."""
    async with running_front() as (front, listener, port):
        clients = [await Device.open(port) for _ in range(200)]
        for client in clients:
            client.send(connect_of(ALICE))
        await listener.until(200)
        assert listener.kinds() == ["connected"] * 200
        assert front.stats.takeovers == 199
        assert front.stats.devices == 1
        await until(lambda: front.stats.connections == 1)
        assert front.send(ALICE.device_id, Stt("s", "to the last"))
        answered = 0
        for client in clients:
            assert await client.packet() == Connack(0)
            answered += await client.packet() is not None
        assert answered == 1
        for client in clients:
            await client.close()
        assert (await listener.until(201))[-1] == ("disconnected", ALICE)
        assert len(front._devices) == len(front._peers) == len(front._lobby) == 0


# -- half-open connections --------------------------------------------------------------------------------------------------
@asynccontextmanager
async def vanished(port: int, identity: DeviceIdentity) -> AsyncGenerator[Device]:
    """A device that was connected and whose network is gone."""
    async with connected_device(port, identity) as client:
        assert await client.quiet()
        sock = client.writer.get_extra_info("socket")
        vanish(sock)
        try:
            yield client
        finally:
            reappear(sock)


@needs_socket_filters
async def test_a_dead_peer_with_unacknowledged_output_is_found() -> None:
    async with running_front(ack_timeout_s=1.0) as (front, listener, port), connected_device(port, BOB) as bob:
        async with vanished(port, ALICE):
            assert front.send(ALICE.device_id, TtsStart("s"))
            assert front.send(ALICE.device_id, Stt("s", "hi"))
            heard = await listener.until(4)
            assert heard[2] == ("missed", ALICE, [TtsStart("s"), Stt("s", "hi")])
            assert heard[3] == ("disconnected", ALICE)
        assert front.stats.messages_missed == 2
        assert await bob.quiet()


@needs_socket_filters
async def test_three_hundred_dead_peers_are_found_and_leave_nothing() -> None:
    """As when an access point loses its power while everybody is spoken to."""
    fleet = [DeviceIdentity(f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}", "c") for number in range(0x100, 0x100 + 300)]
    async with running_front(ack_timeout_s=1.0) as (front, listener, port), connected_device(port, BOB) as bob:
        clients = [await Device.open(port) for _ in fleet]
        for identity, client in zip(fleet, clients, strict=True):
            client.send(connect_of(identity))
            assert await client.packet() == Connack(0)
            vanish(client.writer.get_extra_info("socket"))
            assert front.send(identity.device_id, TtsStart("s"))
        assert await bob.quiet()
        await until(lambda: front.stats.connections == 1)
        assert await bob.quiet()
        assert {facts[1].device_id for facts in listener.heard if facts[0] == "missed"} == {identity.device_id for identity in fleet}
        assert listener.kinds().count("disconnected") == 300
        for client in clients:
            reappear(client.writer.get_extra_info("socket"))
            await client.close()


@needs_socket_filters
async def test_a_take_over_tells_what_the_old_connection_has_not_acknowledged() -> None:
    async with running_front() as (front, listener, port), connected_device(port, ALICE) as old:
        assert front.send(ALICE.device_id, Stt("s", "heard"))
        assert await old.packet() is not None
        vanish(old.writer.get_extra_info("socket"))
        assert front.send(ALICE.device_id, TtsStart("s"))
        assert front.send(ALICE.device_id, TtsStop("s"))
        await asyncio.sleep(0)
        async with connected_device(port, ALICE) as new:
            assert listener.heard[1:] == [("missed", ALICE, [TtsStart("s"), TtsStop("s")]), ("connected", ALICE, "127.0.0.1")]
            assert await new.quiet()
        reappear(old.writer.get_extra_info("socket"))


async def test_what_was_acknowledged_is_not_missed() -> None:
    """Neither by a device that says goodbye, nor by one that closes, nor in a take-over."""
    async with running_front() as (front, listener, port):
        for parting in (b"\xe0\x00", b""):
            async with connected_device(port, ALICE) as client:
                assert front.send(ALICE.device_id, Goodbye("s"))
                assert await client.packet() is not None
                client.send(parting)
            await until(lambda: not front.connected(ALICE.device_id))
        async with connected_device(port, ALICE) as client:
            assert front.send(ALICE.device_id, Goodbye("s"))
            assert await client.packet() is not None
            async with connected_device(port, ALICE):
                pass
        await until(lambda: front.stats.connections == 0)
        assert "missed" not in listener.kinds()
        assert front.stats.messages_missed == 0


@needs_socket_filters
async def test_accepted_connections_have_the_socket_options() -> None:
    async with running_front(ack_timeout_s=7) as (front, _, port), connected_device(port, ALICE) as client:
        (peer,) = front._peers
        sock = peer._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert unacknowledged_bytes(sock.fileno()) == 0
        assert unacknowledged_bytes(0) in {None, 0}
        assert await client.quiet()


SCENARIOS = [
    scenario
    for name, scenario in sorted(globals().items())
    if name.startswith("test_") and "tls" not in name and inspect.iscoroutinefunction(scenario)
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_same_on_uvloop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
