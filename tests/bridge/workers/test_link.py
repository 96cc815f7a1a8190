"""The link on a real socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bridge.workers.link import Link
from bridge.workers.messages import (
    Connected,
    Leave,
    Message,
    MetricsAsk,
    MetricsJoined,
    MetricsRequest,
    Ping,
    Pong,
    Reader,
    Revoked,
    Welcome,
    dump,
)
from bridge.workers.seat import Seat


@dataclass
class Peer:
    heard: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def over(self, end: socket.socket) -> Link:
        return await Link.over(end, on_message=self.heard.put_nowait, on_lost=self.lost.set)


async def test_both_ways_and_the_end() -> None:
    ours, theirs = socket.socketpair()
    here, there = Peer(), Peer()
    link, other = await here.over(ours), await there.over(theirs)
    assert link.send(Ping())
    assert await there.heard.get() == Ping()
    for number in range(1000):
        other.send(Connected(device_id="x" * 100, counter=number, at_s=0))
    await other.aclose()  # what was queued arrives
    await here.lost.wait()
    assert here.heard.qsize() == 1000
    assert not link.send(Ping())
    assert not other.send(Ping())
    await link.aclose()
    assert (link.sent, link.received, other.sent) == (1, 1000, 1000)


async def test_nonsense_cuts_the_link() -> None:
    ours, theirs = socket.socketpair()
    here = Peer()
    link = await here.over(ours)
    theirs.sendall(b"\x00\x00\x00\x01\xc1")
    await here.lost.wait()
    assert theirs.recv(1) == b""
    theirs.close()
    await link.aclose()


async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    ours, theirs = socket.socketpair()
    here = Peer()
    link = await here.over(ours)
    sent = 0
    while link.send(Revoked(device_id="x" * 1_000_000)):
        sent += 1
        assert sent < 100
    await here.lost.wait()
    theirs.close()


# -- a worker's seat ---------------------------------------------------------------------------------------------------
@asynccontextmanager
async def seated() -> AsyncIterator[tuple[Seat, socket.socket, asyncio.Event]]:
    """A seat, and the supervisor's end as a bare socket."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    lost = asyncio.Event()
    seat = Seat(Welcome(index=1, count=3, http_port=1, mqtt_port=2, mqtt_tls_port=None, udp_port=0, admin_token="t"))
    await seat.open(ours, on_lost=lost.set)
    yield seat, theirs, lost
    await seat.aclose()
    theirs.close()


async def read(end: socket.socket, reader: Reader) -> list[Message]:
    return list(reader.feed(await asyncio.get_running_loop().sock_recv(end, 65536)))


async def test_a_seat_answers_and_counts_its_connections() -> None:
    async with seated() as (seat, supervisor, _):
        seat.connected("a")
        seat.connected("a")
        reader = Reader()
        told = await read(supervisor, reader)
        assert [(one.device_id, one.counter) for one in told if isinstance(one, Connected)] == [("a", 1), ("a", 2)]
        supervisor.sendall(dump(Leave(device_id="a", counter=1)) + dump(Ping()) + dump(Leave(device_id="a", counter=2)))
        assert await read(supervisor, reader) == [Pong()]
        assert seat._connections == {}


async def test_metrics_are_asked_for_once_for_all_who_want_them() -> None:
    async with seated() as (seat, supervisor, _), asyncio.TaskGroup() as group:
        wanted = [group.create_task(seat.exposition()) for _ in range(3)]
        reader = Reader()
        assert await read(supervisor, reader) == [MetricsAsk()]
        supervisor.sendall(dump(MetricsRequest(number=4)))
        assert [type(message).__name__ for message in await read(supervisor, reader)] == ["Metrics"]
        supervisor.sendall(dump(MetricsJoined(families=[])))
        assert [await one for one in wanted] == [b""] * 3


async def test_a_supervisor_that_does_not_answer_is_not_waited_for() -> None:
    async with seated() as (seat, _, _):
        text = (await seat.exposition()).decode()
        assert 'xiaozhi_worker_up{worker="1"} 1.0' in text
        assert 'xiaozhi_worker_up{worker="0"} 0.0' in text


async def test_a_supervisor_that_ends_is_noticed() -> None:
    async with seated() as (_, supervisor, lost):
        supervisor.close()
        await lost.wait()
