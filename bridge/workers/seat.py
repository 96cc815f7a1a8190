"""A worker's place among the others, for the parts of the bridge that must know that there are others."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client.registry import Collector

from bridge.banner import Facts
from bridge.registry import Registry
from bridge.transport import Transport
from bridge.workers.exposition import exposition, families_of
from bridge.workers.link import Link
from bridge.workers.messages import (
    Connected,
    Deal,
    Dealt,
    Ended,
    Family,
    FromWorker,
    Leave,
    Message,
    Metrics,
    MetricsAsk,
    MetricsJoined,
    MetricsRequest,
    Ping,
    Pong,
    Ready,
    Revoked,
    Stats,
    StatsAsk,
    StatsRequest,
    StatsTold,
    Welcome,
)
from bridge.workers.share import Share
from bridge.workers.totals import gauge, join
from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Hello, Inbound, Outbound
from ota.shared_activations import SharedActivations
from ota.shared_devices import SharedDeviceStore
from settings.model import SettingsTree

log = structlog.get_logger(__name__)

STATS_TIMEOUT_S: Final = 3.0
MOST_QUESTIONS: Final = 100
"""About devices, waiting for the supervisor at once; further ones are refused."""
METRICS_TIMEOUT_S: Final = 3.0
"""The supervisor gives up on a worker that does not answer after a second; this is for a supervisor that does not answer."""


class Seat:
    """One worker's end of the link to the supervisor. All methods belong to the event loop."""

    def __init__(self, welcome: Welcome) -> None:
        self.index = welcome.index
        self.count = welcome.count
        self._link: Link | None = None
        self._revoke: Callable[[str], None] = _ignore
        self._close: Callable[[str], None] = _ignore
        self._registry: Registry | None = None
        self._metrics: Collector | None = None
        self._counter = 0
        self._questions = 0
        self._connections: dict[str, int] = {}  # device -> its newest connection here; grows with the fleet
        self._joined: asyncio.Future[list[Family]] | None = None
        self._share = Share(welcome.index, count=welcome.count)
        self._give_up: Callable[[], None] = lambda: None
        self._catch_up: Callable[[Callable[[], None]], None] = lambda done: done()
        self._newest_deal = 0
        self._asked: dict[int, asyncio.Future[dict[str, Any] | None]] = {}

    async def open(self, end: socket.socket, *, on_lost: Callable[[], None]) -> None:
        """Take up the link; ``on_lost`` is called when the supervisor has gone."""
        self._link = await Link.over(end, on_message=self._heard, on_lost=on_lost)

    async def aclose(self) -> None:
        """Tell the last figures and close the link. Idempotent."""
        if self._link is not None:
            if self._metrics is not None:
                self._send(Metrics(number=0, families=families_of(self._metrics)))
            await self._link.aclose()
            self._link = None

    # -- what the composition root asks for ----------------------------------------------------------------------------
    def stores(self, settings: SettingsTree) -> tuple[SharedDeviceStore, SharedActivations]:
        """Registry and activation codes that all workers share; the registry is not open yet."""
        store = SharedDeviceStore(enrolment=settings.enrolment)
        return store, SharedActivations(store)

    def attach(
        self,
        *,
        registry: Registry,
        metrics: Collector,
        revoke: Callable[[str], None],
        close: Callable[[str], None],
        give_up: Callable[[], None],
        catch_up: Callable[[Callable[[], None]], None],
    ) -> None:
        """What messages of the supervisor are for; before the first device can connect.

        ``revoke`` ends what a device has here because its credentials are void, ``close`` its connections alone; ``give_up``
        what devices at the broker have here that :meth:`answers` denies by now; ``catch_up`` calls its argument once everything
        is looked at that the broker has told until now.
        """
        self._registry, self._metrics, self._revoke, self._close = registry, metrics, revoke, close
        self._give_up, self._catch_up = give_up, catch_up

    def listener(self, registry: Registry) -> Announcing:
        """``registry``, and the other workers hear which devices are here."""
        return Announcing(self, registry)

    def ready(self, facts: Facts) -> None:
        """Devices can connect."""
        log.info("worker ready", udp_port=facts.udp_port, pid=os.getpid())
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(facts).items()}
        self._send(Ready(udp_port=facts.udp_port, facts=plain))

    def revoked(self, device_id: str) -> None:
        """The device's credentials are void: its connection ends, whichever worker has it."""
        self._revoke(device_id)
        self._send(Revoked(device_id=device_id))

    def forgotten(self, device_id: str) -> None:
        """The device is known no longer, after :meth:`revoked`: no worker remembers anything of it."""
        if self._registry is not None:
            self._registry.forget(device_id)
        self._send(Revoked(device_id=device_id, forgotten=True))

    async def exposition(self) -> bytes:
        """The metrics of all workers as Prometheus text; those of this one alone when the supervisor does not answer."""
        if self._joined is None:
            self._joined = asyncio.get_running_loop().create_future()
            self._send(MetricsAsk())
        joined = self._joined
        try:
            async with asyncio.timeout(METRICS_TIMEOUT_S):
                families = await asyncio.shield(joined)
        except TimeoutError:
            if self._joined is joined:
                self._joined = None  # the next one asks again
            families = self._alone()
        return exposition(families)

    async def statistics(self, device_id: str) -> dict[str, Any] | None:
        """How the audio of a device arrives, whichever worker has it; None when none has. Raises TimeoutError."""
        if len(self._asked) >= MOST_QUESTIONS:
            raise TimeoutError("too many questions wait for the supervisor")
        self._questions += 1
        number = self._questions
        answer: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send(StatsAsk(number=number, device_id=device_id))
            async with asyncio.timeout(STATS_TIMEOUT_S):
                return await answer
        finally:
            del self._asked[number]

    def answers(self, device_id: str) -> bool:
        """Whether this worker, and no other, answers this device at the broker now."""
        return self._share.has(device_id)

    def connected(self, device_id: str) -> None:
        """A device has connected to this worker."""
        self._counter += 1
        self._connections[device_id] = self._counter
        self._send(Connected(device_id=device_id, counter=self._counter, at_s=asyncio.get_running_loop().time()))

    # -- inside --------------------------------------------------------------------------------------------------------
    def _heard(self, message: Message) -> None:
        match message:
            case Leave(device_id=device_id, counter=counter) if self._connections.get(device_id) == counter:
                self._leave(device_id)
            case Ended(device_id=device_id, session_id=session_id):
                if self._registry is not None:
                    self._registry.session_gone(device_id, session_id)
            case Revoked(device_id=device_id, forgotten=forgotten):
                self._revoke(device_id)
                if forgotten and self._registry is not None:
                    self._registry.forget(device_id)
            case MetricsRequest() | MetricsJoined() | StatsRequest() | Stats():
                self._figures(message)
            case Deal():
                self._deal(message)
            case Ping():
                self._send(Pong())
            case _:
                pass  # of a connection that has been replaced here meanwhile

    def _figures(self, message: MetricsRequest | MetricsJoined | StatsRequest | Stats) -> None:
        """Questions of the supervisor, and its answers to ours."""
        match message:
            case MetricsRequest(number=number):
                self._send(Metrics(number=number, families=families_of(self._metrics) if self._metrics is not None else []))
            case MetricsJoined(families=families):
                joined, self._joined = self._joined, None
                if joined is not None and not joined.done():
                    joined.set_result(families)
            case StatsRequest(asker=asker, number=number, device_id=device_id):
                stats = self._registry.statistics(device_id) if self._registry is not None else None
                self._send(StatsTold(asker=asker, number=number, stats=stats))
            case Stats(number=number, stats=stats):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_result(stats)

    def _deal(self, deal: Deal) -> None:
        self._newest_deal = deal.number
        if deal.settled:
            # what others have answered may still be on its way to us: it must not be answered again
            self._catch_up(partial(self._take, deal))
            return
        self._share.prepare(deal.members)
        self._give_up()
        self._send(Dealt(number=deal.number))

    def _take(self, deal: Deal) -> None:
        if deal.number == self._newest_deal:  # else the next sharing has begun
            self._share.settle(deal.members)

    def _leave(self, device_id: str) -> None:
        del self._connections[device_id]
        log.info("the device has connected to another worker", device=device_id)
        if self._registry is not None:
            session_id = self._registry.device_moved(device_id)
            if session_id:
                self._send(Ended(device_id=device_id, session_id=session_id))
        self._close(device_id)

    def _alone(self) -> list[Family]:
        log.warning("the supervisor does not answer, so the metrics are those of this worker alone")
        own = {} if self._metrics is None else {self.index: families_of(self._metrics)}
        up = gauge("xiaozhi_worker_up", "Whether the worker answers", {index: float(index == self.index) for index in range(self.count)})
        return [*join(own, counted=()), up]

    def _send(self, message: FromWorker) -> None:
        if self._link is not None:
            self._link.send(message)


class Announcing:
    """A registry whose devices the other workers hear of, whichever way they connect."""

    def __init__(self, seat: Seat, registry: Registry) -> None:
        self._seat = seat
        self._registry = registry

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        self._seat.connected(identity.device_id)
        self._registry.device_connected(identity, peer_ip)

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        self._registry.device_message(identity, message)

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        self._registry.messages_missed(identity, messages)

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        self._registry.device_disconnected(identity)

    def transport_message(self, identity: DeviceIdentity, message: Inbound, *, via: Transport) -> None:
        if isinstance(message, Hello):
            self._seat.connected(identity.device_id)
        self._registry.transport_message(identity, message, via=via)

    def transport_closed(self, identity: DeviceIdentity, *, via: Transport) -> None:
        self._registry.transport_closed(identity, via=via)


def _ignore(device_id: str) -> None:
    del device_id
