"""The same link over the user's own MQTT broker: devices and this server are both clients of it.

A device publishes on ``<root>/<dev>/up`` and is reached on ``<root>/<dev>/down`` (QoS 0, never retained). **Who a device
is, the topic says**; that nobody else can write that topic is the broker's doing: its access rules authenticate, not this
module. Here only devices are heard that the registry knows and has approved.

A broker does not tell who is connected. A device counts as connected from its first message until one of these:
``offline`` on ``<root>/<dev>/availability`` (its will, where it has one), long silence, or the broker being away too long.
When the broker comes back from a shorter absence nothing has happened to the sessions; what was to be sent in the
meantime follows when the device is heard, or has had the time to subscribe again (:mod:`mqtt_control.outbox`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import aiomqtt
import structlog

from mqtt_control.identity import DeviceIdentity
from mqtt_control.link import LinkListener
from mqtt_control.log_budget import LogBudget
from mqtt_control.messages import MAX_INBOUND_BYTES, MessageError, Outbound, dump, parse, sanitise
from mqtt_control.outbox import Outbox
from mqtt_control.topics import BrokerTopics, Leaf
from settings.model import Broker as BrokerOptions

log = structlog.get_logger(__name__)

Authorise = Callable[[str], DeviceIdentity | None]
"""Device id (MAC, lower case, colons) -> the device, or None to ignore it. Called on the event loop; must be quick."""

Mine = Callable[[str], bool]
"""Device id -> whether it is ours to answer. Called on the event loop; must be quick."""

CALL_TIMEOUT_S: Final = 5.0
"""For the broker to answer CONNECT or SUBSCRIBE."""
CLOSE_GRACE_S: Final = 3.0
"""How long closing may take to send what is queued."""
FIRST_RETRY_S: Final = 1.0
STABLE_S: Final = 30.0
"""A connection that lived so long makes the next attempt start from the shortest wait again."""
INBOX_MESSAGES: Final = 1000
"""Received and not yet looked at; when full, the newest is dropped and counted."""
INBOX_SHARE: Final = 100
"""The same for one device, so that a loud one does not fill what is there for all."""
LOGGED_PER_MINUTE: Final = 30
CATCH_UP_S: Final = 2.0
"""What a mark may take from here to the broker and back."""

_FAULTS: Final = (aiomqtt.MqttError, OSError, ValueError, RuntimeError)
"""What aiomqtt and paho raise when something is wrong with the connection or the options."""


class BrokerTlsError(Exception):
    """The TLS options cannot be used. The sentence says why."""


@dataclass(slots=True)
class BrokerStats:
    """What happened since the start; `online` (0 or 1) and `devices` are the present numbers."""

    online: float = 0
    devices: float = 0
    connects: int = 0
    connect_failures: int = 0
    losses: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bad_messages: int = 0
    unsendable_messages: int = 0
    unknown_devices: int = 0
    others_messages: int = 0
    """Of devices that another process answers."""
    foreign_topics: int = 0
    retained_ignored: int = 0
    inbox_dropped: int = 0
    outbox_refused: int = 0
    held_dropped: int = 0
    wills: int = 0
    silences: int = 0
    outages: int = 0
    listener_errors: int = 0


@dataclass(slots=True)
class _Peer:
    """A device that counts as connected."""

    identity: DeviceIdentity
    heard_at: float
    leaving: bool = False
    """Told to go; the listener will hear of it at once."""


class Broker:
    """A client of the user's broker, and the :class:`~mqtt_control.link.Link` to the devices there.

    :meth:`run` keeps the connection; all other methods return at once. An exception of `authorise` or `listener` is logged
    and counted, and costs the one message. All methods belong to the event loop on which :meth:`run` is awaited.
    Raises :class:`BrokerTlsError` when the TLS options cannot be used.
    """

    def __init__(
        self,
        options: BrokerOptions,
        *,
        authorise: Authorise,
        listener: LinkListener,
        max_message_bytes: int = MAX_INBOUND_BYTES,
        mine: Mine = lambda _device_id: True,
    ) -> None:
        """``mine``: which devices this process answers, where several share a broker. It may change; see :meth:`not_mine`."""
        self.options = options
        self.stats = BrokerStats()
        self.online = asyncio.Event()
        """Set while connected and subscribed."""
        self.topics = BrokerTopics(options.topic_root)
        self._tls = _tls_context(options)
        self._authorise = authorise
        self._mine = mine
        self._listener = listener
        self._max_message_bytes = max_message_bytes
        self._peers: dict[str, _Peer] = {}
        self._outbox = Outbox(max_messages=options.queue_messages)
        self._marks: deque[bytes] = deque()  # to be sent; no more than changes of shares under way
        self._awaited: dict[bytes, tuple[Callable[[], None], asyncio.TimerHandle]] = {}
        self._something_to_send = asyncio.Event()
        self._all_sent = asyncio.Event()
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._log_budget = LogBudget(LOGGED_PER_MINUTE)

    # -- Link ----------------------------------------------------------------------------------------------------------
    def send(self, device_id: str, message: Outbound) -> bool:
        """Queue `message` for the device.

        False when it is not connected, when the queue is full (counted), or (logged) when the message exceeds what devices
        take. While the broker is away, True means that the message waits for it, for a time.
        """
        if not self.connected(device_id):
            return False
        try:
            payload = dump(message)
        except MessageError as error:
            self.stats.unsendable_messages += 1
            log.error("message not sent", device=device_id, kind=type(message).__name__, reason=str(error))  # noqa: TRY400 - the sentence says all
            return False
        accepted = self._outbox.put(device_id, payload)
        self.stats.held_dropped = self._outbox.held_dropped
        if not accepted:
            self.stats.outbox_refused += 1
            return False
        self._wake_sender()
        return True

    def connected(self, device_id: str) -> bool:
        """Whether the device counts as connected now; see the module for what that means at a broker."""
        peer = self._peers.get(device_id)
        return peer is not None and not peer.leaving

    def disconnect(self, device_id: str) -> None:
        """Count the device as gone, until it is heard again; the listener hears of it later in the loop.

        The device's connection is the broker's and stays: take its password away there.
        """
        peer = self._peers.get(device_id)
        if peer is not None and not peer.leaving:
            peer.leaving = True
            asyncio.get_running_loop().call_soon(self._gone, peer, "told to go")

    def not_mine(self) -> list[str]:
        """The devices that count as connected here and are another process's by now: :meth:`disconnect` them."""
        return [device_id for device_id, peer in self._peers.items() if not peer.leaving and not self._mine(device_id)]

    def when_caught_up(self, done: Callable[[], None]) -> None:
        """Call ``done`` once everything is looked at that the broker has forwarded to us before now.

        A mark is sent through the broker, which keeps the order. When it does not come back (the access rules must let us
        write and read ``<root>/server/up``), ``done`` is called after :data:`CATCH_UP_S`. At once when there is no connection:
        a new one brings only what is new.
        """
        if not self.online.is_set():
            done()
            return
        mark = secrets.token_hex(8).encode()
        self._awaited[mark] = (done, asyncio.get_running_loop().call_later(CATCH_UP_S, self._mark_is_late, mark))
        self._marks.append(mark)
        self._wake_sender()

    # -- life ----------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Be connected until :meth:`aclose`; a broker that is away is tried again for ever. Raises nothing.

        Cancellation closes the connection (a connection attempt under way ends first, within some seconds). In the end the
        listener has heard of every device's disconnection.
        """
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stay_connected(), name="broker connection")
                tasks.create_task(self._watch_silence(), name="broker silence")
                await self._closing.wait()
                await self._flush()
                raise _Closed  # noqa: TRY301 - raising inside is how a group is cancelled
        except* _Closed:
            pass
        finally:
            self.stats.online = 0.0
            self.online.clear()
            for timer in (*self._timers.values(), *(timer for _, timer in self._awaited.values())):
                timer.cancel()
            for peer in list(self._peers.values()):
                self._gone(peer, "the server is stopping")
            self._ended.set()

    async def aclose(self) -> None:
        """Send what is queued, as far as that is possible at once, and disconnect; idempotent. :meth:`run` has returned then."""
        self._closing.set()
        if self._running:
            await self._ended.wait()

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = FIRST_RETRY_S
        while True:
            began = loop.time()
            try:
                await self._one_connection()
            except* _FAULTS as faults:
                self._offline(_first(faults))
            if loop.time() - began > STABLE_S:
                wait_s = FIRST_RETRY_S
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(wait_s * 2, self.options.reconnect_max_s)

    async def _one_connection(self) -> None:
        """From CONNECT until the connection is lost, which raises one of :data:`_FAULTS`, in groups or alone."""
        cancelled_before = _times_cancelled()
        async with self._connection() as client:
            await self._subscribe(client)
            _heed_cancellation(cancelled_before)
            self._came_online()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(client), name="broker receive")
                tasks.create_task(self._transmit(client), name="broker transmit")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiomqtt.Client]:
        options = self.options
        client = aiomqtt.Client(
            options.host,
            options.port,
            username=options.username or None,
            password=options.password.get_secret_value() or None,
            identifier=options.client_id,
            keepalive=options.keepalive_s,
            tls_context=self._tls,
            timeout=CALL_TIMEOUT_S,
            max_queued_incoming_messages=INBOX_MESSAGES,
            queue_type=cast("Any", self._make_inbox),
            logger=_SILENT,
        )
        # paho connects in a thread that cannot be stopped: left alone, it would leave a connection behind that nobody owns
        entering = asyncio.get_running_loop().create_task(client.__aenter__(), name="broker connect")
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            with suppress(*_FAULTS):
                await entering
                await client.__aexit__(None, None, None)
            raise
        except aiomqtt.MqttError:
            client._client.disconnect()  # noqa: SLF001 - aiomqtt leaves the socket open when CONNACK does not come
            raise
        try:
            yield client
        finally:
            with suppress(*_FAULTS):  # must not take the place of a cancellation
                await client.__aexit__(None, None, None)

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        filters = [(self.topics.of_all(leaf), 0) for leaf in (Leaf.UP, Leaf.AVAILABILITY)]
        granted = await client.subscribe(filters)
        if _refused(granted[0]):
            raise aiomqtt.MqttError(f"the broker does not let this user read {filters[0][0]}")

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self._received(message.topic.value, message.payload, retained=message.retain)

    async def _transmit(self, client: aiomqtt.Client) -> None:
        """Send what may be sent, one after another. A message that could not be sent is the next one again."""
        while True:
            while self._marks:
                await client.publish(self.topics.marks, self._marks.popleft(), qos=0)
                _heed_cancellation()
            item = self._outbox.take()
            if item is None:
                self._all_sent.set()
                self._something_to_send.clear()
                await self._something_to_send.wait()
                continue
            device_id, payload = item
            try:
                await client.publish(self.topics.of(device_id, Leaf.DOWN), payload, qos=0)
            except BaseException:
                self._outbox.put_back(item)
                raise
            self.stats.messages_out += 1
            _heed_cancellation()

    async def _watch_silence(self) -> None:
        """Devices that have said nothing for long count as gone. While the broker is away, silence means nothing."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(self.options.silence_s / 4, 60))
            if self.online.is_set():
                for peer in [peer for peer in self._peers.values() if loop.time() - peer.heard_at > self.options.silence_s]:
                    self.stats.silences += 1
                    self._gone(peer, "it has been silent for too long")

    async def _flush(self) -> None:
        """Return when all is sent, or cannot be now."""
        if self.online.is_set():
            self._outbox.release_all()
            self._wake_sender()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await self._all_sent.wait()

    # -- the connection comes and goes ---------------------------------------------------------------------------------
    def _came_online(self) -> None:
        self.stats.connects += 1
        self.stats.online = 1.0
        self.online.set()
        self._disarm("outage")
        log.info("connected to the broker", host=self.options.host, port=self.options.port, tls=self._tls is not None)
        loop = asyncio.get_running_loop()
        for peer in self._peers.values():
            peer.heard_at = loop.time()
        if self._peers:
            self._timers["resubscribe"] = loop.call_later(self.options.resubscribe_s, self._all_had_their_time)

    def _offline(self, reason: BaseException) -> None:
        """The connection is lost, or there was none: what is to be sent waits from here on."""
        was_online = self.online.is_set()
        if was_online:
            self.stats.losses += 1
        else:
            self.stats.connect_failures += 1
        self.stats.online = 0.0
        self.online.clear()
        self._disarm("resubscribe")
        self._outbox.hold(self._peers)
        self.stats.held_dropped = self._outbox.held_dropped
        if was_online:
            log.warning("the broker was lost", reason=_sentence(reason), devices=len(self._peers))
        elif self._log_budget.allows(asyncio.get_running_loop().time()):
            log.warning("the broker cannot be used", host=self.options.host, port=self.options.port, reason=_sentence(reason))
        if self._peers and "outage" not in self._timers:
            self._timers["outage"] = asyncio.get_running_loop().call_later(self.options.outage_s, self._away_too_long)

    def _away_too_long(self) -> None:
        self._timers.pop("outage", None)
        self.stats.outages += 1
        for peer in list(self._peers.values()):
            self._gone(peer, "the broker is away")

    def _all_had_their_time(self) -> None:
        """Whoever wants to hear has subscribed again by now."""
        self._timers.pop("resubscribe", None)
        if self._outbox.release_all():
            self._wake_sender()

    # -- devices come and go -------------------------------------------------------------------------------------------
    def _received(self, topic: str, payload: bytes, *, retained: bool) -> None:
        if topic == self.topics.marks:
            self._marked(payload)
            return
        named = self.topics.read(topic)
        if named is None:
            self.stats.foreign_topics += 1
            return
        if retained:  # said some time ago, perhaps to another server
            self.stats.retained_ignored += 1
            return
        device_id, leaf = named
        if not self._mine(device_id):
            self.stats.others_messages += 1
            return
        if leaf is Leaf.AVAILABILITY:
            peer = self._peers.get(device_id)
            if peer is not None and payload == b"offline":
                self.stats.wills += 1
                self._gone(peer, "it is offline")
            return
        identity = self._judge(device_id)
        if identity is not None:
            self._message(identity, payload)

    def _marked(self, mark: bytes) -> None:
        """A mark has come, or its time is over; those of other servers mean nothing here."""
        done, timer = self._awaited.pop(mark, (None, None))
        if done is not None and timer is not None:
            timer.cancel()
            done()

    def _mark_is_late(self, mark: bytes) -> None:
        log.warning("a mark did not come back from the broker: its rules must let us write and read this topic", topic=self.topics.marks)
        self._marked(mark)

    def _judge(self, device_id: str) -> DeviceIdentity | None:
        try:
            identity = self._authorise(device_id)
        except Exception:  # the edge to foreign code: whatever fails there, nobody is let in and the link lives
            self.stats.listener_errors += 1
            log.exception("authorisation failed to work", device=device_id)
            return None
        if identity is None:
            self.stats.unknown_devices += 1
            if self._log_budget.allows(asyncio.get_running_loop().time()):
                log.warning(
                    "message of a device that is not approved: let it ask at the OTA address first",
                    device=device_id,
                    unlogged_before=self._log_budget.take_suppressed(),
                )
        return identity

    def _message(self, identity: DeviceIdentity, payload: bytes) -> None:
        device_id = identity.device_id
        now = asyncio.get_running_loop().time()
        peer = self._peers.get(device_id)
        if peer is not None and (peer.leaving or peer.identity != identity):
            self._gone(peer, "it comes anew")
            peer = None
        if peer is not None:
            peer.heard_at = now
            if self._outbox.release(device_id):
                self._wake_sender()
        try:
            message = parse(payload, max_bytes=self._max_message_bytes)
        except MessageError as error:
            self.stats.bad_messages += 1
            if self._log_budget.allows(now):
                log.warning("message ignored", device=device_id, reason=str(error), size_bytes=len(payload))
            return
        self.stats.messages_in += 1
        if peer is None:
            self._peers[device_id] = _Peer(identity, now)
            self.stats.devices = float(len(self._peers))
            log.debug("device heard at the broker", device=device_id)
            self._tell(self._listener.device_connected, identity, "")
        self._tell(self._listener.device_message, identity, message)

    def _gone(self, peer: _Peer, reason: str) -> None:
        """The device counts as connected no longer. Once for each peer."""
        device_id = peer.identity.device_id
        if self._peers.get(device_id) is not peer:
            return
        del self._peers[device_id]
        self.stats.devices = float(len(self._peers))
        self._outbox.drop(device_id)
        log.info("device disconnected", device=device_id, reason=reason)
        self._tell(self._listener.device_disconnected, peer.identity)

    # -- inside --------------------------------------------------------------------------------------------------------
    def _tell(self, callback: Callable[..., None], identity: DeviceIdentity, *facts: object) -> None:
        try:
            callback(identity, *facts)
        except Exception:  # the edge to the sessions: their failure must not cost the link
            self.stats.listener_errors += 1
            log.exception("listener failed", device=identity.device_id, callback=callback.__name__)

    def _wake_sender(self) -> None:
        if len(self._outbox):
            self._all_sent.clear()
        self._something_to_send.set()

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _make_inbox(self, *, maxsize: int) -> _Inbox:
        return _Inbox(maxsize, self.stats)


class _Closed(Exception):
    """The link is being closed."""


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """aiomqtt drops what does not fit, does not count it, and does not ask from whom the rest is."""

    def __init__(self, maxsize: int, stats: BrokerStats) -> None:
        super().__init__(maxsize)
        self._stats = stats
        self._waiting: Counter[str] = Counter()

    def put_nowait(self, item: aiomqtt.Message) -> None:
        if self._waiting.get(item.topic.value, 0) >= INBOX_SHARE:
            self._stats.inbox_dropped += 1
            return
        self._stats.inbox_dropped += self.full()
        super().put_nowait(item)
        self._waiting[item.topic.value] += 1

    def _get(self) -> aiomqtt.Message:
        """Called by the queue for each message that it hands out."""
        item = super()._get()
        self._waiting[item.topic.value] -= 1
        if not self._waiting[item.topic.value]:
            del self._waiting[item.topic.value]
        return item


_SILENT: Final = logging.getLogger(f"{__name__}.paho")
_SILENT.setLevel(logging.CRITICAL)  # what it would say is logged here, and within bounds


def _tls_context(options: BrokerOptions) -> ssl.SSLContext | None:
    if not options.tls.enabled:
        return None
    try:
        return ssl.create_default_context(cafile=options.tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BrokerTlsError(f"broker.tls.ca_file {options.tls.ca_file} cannot be used: {error}.") from error


def _times_cancelled() -> int:
    """How often this task was cancelled; a task group of Python 3.11 leaves its own cancellation counted."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _heed_cancellation(before: int = 0) -> None:
    """After a call of aiomqtt: ``wait_for`` of Python 3.11 loses a cancellation that comes together with the answer."""
    if _times_cancelled() > before:
        raise asyncio.CancelledError


def _refused(granted: object) -> bool:
    """Whether an entry of SUBACK says no (MQTT 3.1.1 §3.9.3: 0x80)."""
    return bool(getattr(granted, "is_failure", False)) or (isinstance(granted, int) and granted >= 0x80)


def _first(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    """The innermost first error of a group."""
    fault: BaseException = faults
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _sentence(fault: BaseException) -> str:
    return sanitise(str(fault), 200) or type(fault).__name__
