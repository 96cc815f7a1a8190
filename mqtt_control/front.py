"""The MQTT listener that devices connect to: sockets around :mod:`mqtt_control.connection`.

Not a broker. Every message goes from one device to the listener or from :meth:`Front.send` to one device; there are no
subscriptions, retained messages, wills or routes between devices. That is all a device needs (it never subscribes), and
nothing else can leak.

What ends a connection: a wrong password, anything that is not MQTT 3.1.1, silence, not reading what we send, the device's
own newer connection. What does not: messages that cannot be read; they are counted, and the first few logged.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ssl import SSLContext
from typing import Any, Final, Protocol

import structlog

from mqtt_control.connection import Closed, CloseReason, Connection, ConnectRequested, Event, MessageReceived, ReturnCode, State
from mqtt_control.identity import SEPARATOR, DeviceIdentity
from mqtt_control.link import LinkListener
from mqtt_control.lobby import Lobby
from mqtt_control.log_budget import LogBudget
from mqtt_control.messages import MessageError, Outbound, dump, parse, sanitise
from mqtt_control.tcp import notice_dead_peers, unacknowledged_bytes
from mqtt_control.tls import TlsLayer
from mqtt_control.topics import downlink_topic
from mqtt_control.unconfirmed import Unconfirmed
from settings.model import Mqtt

log = structlog.get_logger(__name__)

Authenticate = Callable[[str, str, bytes], DeviceIdentity | None]
"""Client id, user name, password -> the device, or None to refuse. Called on the event loop; must be quick."""


class Gate(Protocol):
    """How much one source may ask. Called on the event loop; must be quick. An address is empty when it is not known."""

    def admits(self, peer_ip: str) -> bool:
        """Whether a new connection from this address may go on; called once for each."""

    def admits_device(self, device_id: str, peer_ip: str) -> bool:
        """Whether a device that has proved itself may come in now; called once for each time."""

    def login_failed(self, peer_ip: str) -> None:
        """Wrong credentials came from this address."""

    def source(self, peer_ip: str) -> str:
        """Who counts as one source together with this address; empty for one that has no limit of its own."""

    def pace(self, device_id: str, peer_ip: str, cost: float) -> float:
        """The device has sent messages of this cost (one each, and one for every 4 KB): seconds before it may send more."""


class OpenGate:
    """Admits everybody."""

    def admits(self, peer_ip: str) -> bool:
        return True

    def admits_device(self, device_id: str, peer_ip: str) -> bool:
        return True

    def login_failed(self, peer_ip: str) -> None: ...

    def source(self, peer_ip: str) -> str:
        return ""

    def pace(self, device_id: str, peer_ip: str, cost: float) -> float:
        return 0.0


CLOSE_GRACE_S: Final = 3.0
"""How long a closed connection may take to deliver what was already queued."""

COST_BYTES: Final = 4096
"""What a message may have beyond the first ones for the price of one."""

PAID_AT_ONCE: Final = 16
"""What a device sends is reckoned up when it has come to this."""

ACK_LOOK_S: Final = 0.25
"""How often it is looked whether what was sent has been acknowledged."""

LOGGED_BAD_MESSAGES: Final = 3
"""Unreadable messages that one connection gets into the log; all are counted."""

LOGGED_REFUSALS_PER_MINUTE: Final = 30

LISTEN_BACKLOG: Final = 1024
"""After a restart all devices come back within seconds."""


@dataclass(slots=True)
class FrontStats:
    """What happened since the start; `connections`, `connections_waiting` and `devices` are the present numbers."""

    connections: int = 0
    devices: int = 0
    connections_opened: int = 0
    connections_refused_full: int = 0
    connections_limited: int = 0
    connections_waiting: int = 0
    """That have not proved who they are, now."""
    connections_displaced: int = 0
    """That had waited longest when there were too many of those."""
    connects_limited: int = 0
    connects_refused: int = 0
    takeovers: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bad_messages: int = 0
    unsendable_messages: int = 0
    client_disconnects: int = 0
    unsupported_protocols: int = 0
    malformed_packets: int = 0
    oversize_packets: int = 0
    protocol_violations: int = 0
    connect_timeouts: int = 0
    tls_failures: int = 0
    keepalive_timeouts: int = 0
    slow_readers: int = 0
    throttled: int = 0
    """Times that a device was made to wait because it sent too much."""
    messages_missed: int = 0
    """Sent on connections that ended before they were acknowledged."""
    listener_errors: int = 0


_WHY_REFUSED: Final = {
    ReturnCode.SERVER_UNAVAILABLE: "the device connects too often, or credentials cannot be judged now",
    ReturnCode.BAD_USERNAME_OR_PASSWORD: "user name or password is missing",
    ReturnCode.NOT_AUTHORIZED: "not the credentials of a device known here; a restarted device fetches its own",
}
"""For the log. The CONNACK tells no more than its number, so that nobody learns which devices there are."""

_COUNTERS: Final[dict[CloseReason, str]] = {
    CloseReason.DISCONNECT: "client_disconnects",
    CloseReason.REFUSED: "connects_refused",
    CloseReason.UNSUPPORTED_PROTOCOL: "unsupported_protocols",
    CloseReason.MALFORMED: "malformed_packets",
    CloseReason.TOO_LARGE: "oversize_packets",
    CloseReason.VIOLATION: "protocol_violations",
    CloseReason.CONNECT_TIMEOUT: "connect_timeouts",
    CloseReason.KEEPALIVE_TIMEOUT: "keepalive_timeouts",
}


class Front:
    """Listens for devices and is the :class:`~mqtt_control.link.Link` to them.

    `authenticate` judges every CONNECT before anything else happens; `listener` hears of devices and their messages.
    An exception of either is logged and counted and costs no connection but the one being let in: this is the edge
    between the network and the sessions. All methods belong to the event loop on which :meth:`start` was awaited.
    """

    def __init__(self, options: Mqtt, *, authenticate: Authenticate, listener: LinkListener, gate: Gate | None = None) -> None:
        self.options = options
        self.stats = FrontStats()
        self._gate = gate or OpenGate()
        self._authenticate = authenticate
        self._listener = listener
        self._servers: list[asyncio.Server] = []
        self._peers: set[_Peer] = set()
        self._lobby: Lobby[_Peer] = Lobby(max_guests=options.max_unauthenticated, max_per_source=options.max_unauthenticated_per_source)
        self._devices: dict[str, _Peer] = {}
        self._closing = False
        self._all_gone = asyncio.Event()
        self._refusal_log = LogBudget(LOGGED_REFUSALS_PER_MINUTE)

    async def start(self, *, host: str, port: int, ssl: SSLContext | None = None, reuse_port: bool = False) -> int:
        """Listen on `host` and `port`, with TLS when `ssl` is given; returns the port, a free one for 0.

        May be called again for another port. ``::`` serves IPv4 as well. When a name stands for several addresses, give a
        port. Raises ``OSError`` when the address cannot be had. With `reuse_port` other processes may listen there too
        (SO_REUSEPORT). Cancellation leaves nothing listening that was not before.
        """
        loop = asyncio.get_running_loop()

        def accepted() -> asyncio.Protocol:
            peer = _Peer(self, loop)
            return peer if ssl is None else TlsLayer(ssl, peer, on_failure=partial(self.tls_failed, peer))

        where: dict[str, Any] = {"host": host or None, "port": port, "reuse_port": reuse_port or None}
        if host == "::" and socket.has_dualstack_ipv6():  # asyncio would keep IPv4 devices out
            where = {"sock": _dual_stack(port, reuse_port=reuse_port)}
        server = await loop.create_server(accepted, **where, backlog=LISTEN_BACKLOG)
        self._servers.append(server)
        for listening in server.sockets:
            self._tune(listening)
        bound: int = server.sockets[0].getsockname()[1]
        log.info("listening for devices", host=host, port=bound, tls=ssl is not None)
        return bound

    def stop_listening(self) -> None:
        """Accept no new connections; those that are there go on."""
        for server in self._servers:
            server.close()

    async def aclose(self) -> None:
        """Stop listening, send what is queued, close every connection; each device's listener callback comes before this returns.

        A closed front stays closed. When cancelled, everything is closed all the same, without waiting for queued bytes.
        """
        self._closing = True
        self.stop_listening()
        for peer in list(self._peers):
            peer.shut()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await self._wait_until_gone()
        finally:
            for peer in list(self._peers):
                peer.abort()
        await self._wait_until_gone()
        self._servers.clear()

    # -- Link ----------------------------------------------------------------------------------------------------------
    def send(self, device_id: str, message: Outbound) -> bool:
        """Queue `message` for the device. False when it is not connected, or (logged) the message exceeds what devices take."""
        peer = self._devices.get(device_id)
        if peer is None:
            return False
        try:
            payload = dump(message)
        except MessageError as error:
            self.stats.unsendable_messages += 1
            log.error("message not sent", device=device_id, kind=type(message).__name__, reason=str(error))  # noqa: TRY400 - the sentence says all
            return False
        if not peer.push(message, payload):
            return False
        self.stats.messages_out += 1
        return True

    def connected(self, device_id: str) -> bool:
        """Whether the device has an authenticated connection now."""
        peer = self._devices.get(device_id)
        return peer is not None and peer.connected

    def disconnect(self, device_id: str) -> None:
        """Close the device's connection, if any, after what is queued; the listener hears of it later in the loop."""
        peer = self._devices.get(device_id)
        if peer is not None:
            peer.shut()

    # -- what connections report ---------------------------------------------------------------------------------------
    def opened(self, peer: _Peer) -> bool:
        """A TCP connection is there; with TLS the handshake is still to come. False when it must go at once."""
        self._peers.add(peer)
        self.stats.connections = len(self._peers)
        if self._closing:
            return False
        if len(self._peers) > self.options.max_connections and not self._displace(self._lobby.oldest_leaves()):
            self.stats.connections_refused_full += 1
            if self._refusal_log.allows(peer.now()):
                log.warning("connection refused, there are too many", peer_ip=peer.ip, limit=self.options.max_connections)
            return False
        if not self._gate_admits(peer.ip):
            return False
        self.stats.connections_opened += 1
        self._displace(self._lobby.enter(peer, self._gate.source(peer.ip)))
        self.stats.connections_waiting = len(self._lobby)
        return True

    def _gate_admits(self, peer_ip: str) -> bool:
        if self._gate.admits(peer_ip):
            return True
        self.stats.connections_limited += 1
        if self._refusal_log.allows(asyncio.get_running_loop().time()):
            log.warning("connection refused, too many came from this address", peer_ip=peer_ip)
        return False

    def _count(self, counter: str) -> None:
        setattr(self.stats, counter, getattr(self.stats, counter) + 1)

    def _displace(self, peer: _Peer | None) -> bool:
        """Close one that has waited too long for others to wait, too; False when there is none."""
        if peer is None:
            return False
        self.stats.connections_displaced += 1
        if self._refusal_log.allows(peer.now()):
            log.warning("connection closed, too many have not said who they are", peer_ip=peer.ip)
        peer.abort()
        return True

    def tls_failed(self, peer: _Peer, reason: str) -> None:
        """A handshake has failed, or a record is not genuine; the connection ends."""
        self.stats.tls_failures += 1
        if self._refusal_log.allows(peer.now()):
            log.warning("TLS failed", peer_ip=peer.ip, reason=sanitise(reason, 100), unlogged_before=self._refusal_log.take_suppressed())

    def judge(self, request: ConnectRequested, peer: _Peer) -> DeviceIdentity | ReturnCode:
        """The device behind a CONNECT, or why it is turned away."""
        if not request.username or not request.password:
            self._gate.login_failed(peer.ip)
            return ReturnCode.BAD_USERNAME_OR_PASSWORD
        try:
            identity = self._authenticate(request.client_id, request.username, request.password)
        except Exception:  # the edge to foreign code: whatever fails there, nobody is let in and the front lives
            self.stats.listener_errors += 1
            log.exception("authentication failed to work", peer_ip=peer.ip)
            return ReturnCode.SERVER_UNAVAILABLE
        if identity is None:
            self._gate.login_failed(peer.ip)
            return ReturnCode.NOT_AUTHORIZED
        if not self._gate.admits_device(identity.device_id, peer.ip):
            self.stats.connects_limited += 1
            return ReturnCode.SERVER_UNAVAILABLE
        return identity

    def entered(self, peer: _Peer, identity: DeviceIdentity) -> None:
        """A device has been let in. Its older connection, if any, ends without a word to the listener but of what it missed."""
        self._leave_lobby(peer)
        older = self._devices.get(identity.device_id)
        self._devices[identity.device_id] = peer
        self.stats.devices = len(self._devices)
        if older is not None:
            self.stats.takeovers += 1
            self._tell_missed(older, identity)
            older.shut()
        self._tell(self._listener.device_connected, identity, peer.ip)

    def received(self, peer: _Peer, identity: DeviceIdentity, payload: bytes) -> None:
        """A PUBLISH has come. Its sender is who the connection belongs to, whatever its topic and content say."""
        try:
            message = parse(payload, max_bytes=self.options.max_packet_bytes)
        except MessageError as error:
            self.stats.bad_messages += 1
            peer.bad_messages += 1
            if peer.bad_messages <= LOGGED_BAD_MESSAGES:
                log.warning("message ignored", device=identity.device_id, reason=str(error), size_bytes=len(payload))
            return
        self.stats.messages_in += 1
        self._tell(self._listener.device_message, identity, message)

    def closed(self, peer: _Peer, event: Closed, client_id: str) -> None:
        """A connection has ended by the protocol's rules."""
        self._count(_COUNTERS[event.reason])
        if peer.identity is None and self._refusal_log.allows(peer.now()):
            log.warning(
                "connection refused",
                peer_ip=peer.ip,
                client_id=sanitise(client_id.rpartition(SEPARATOR)[0] or client_id, 80),  # the last part is half a secret
                reason=str(event.reason),
                detail=event.detail,
                unlogged_before=self._refusal_log.take_suppressed(),
            )
        self.left(peer, event.reason, event.detail)

    def left(self, peer: _Peer, reason: CloseReason, detail: str = "") -> None:
        """The peer speaks for its device no longer; the listener hears of it unless a newer connection has taken over."""
        identity = peer.identity
        if identity is None or self._devices.get(identity.device_id) is not peer:
            return
        del self._devices[identity.device_id]
        self.stats.devices = len(self._devices)
        log.info("device disconnected", device=identity.device_id, reason=str(reason), **({"detail": detail} if detail else {}))
        self._tell_missed(peer, identity)
        self._tell(self._listener.device_disconnected, identity)

    def lost(self, peer: _Peer, reason: CloseReason) -> None:
        """The transport is gone."""
        self.left(peer, reason)
        self._leave_lobby(peer)
        self._peers.discard(peer)
        self.stats.connections = len(self._peers)
        if self._closing and not self._peers:
            self._all_gone.set()

    def pace(self, device_id: str, peer: _Peer, *, cost: int) -> float:
        """How long a device that has sent so much is to wait before more of it is read."""
        wait_s = self._gate.pace(device_id, peer.ip, cost)
        if wait_s > 0:
            self.stats.throttled += 1
            if self._refusal_log.allows(peer.now()):
                log.warning("the device sends too much, it has to wait", device=device_id, wait_s=round(wait_s, 2))
        return wait_s

    # -- inside --------------------------------------------------------------------------------------------------------
    def _leave_lobby(self, peer: _Peer) -> None:
        self._lobby.leave(peer)
        self.stats.connections_waiting = len(self._lobby)

    def _tell_missed(self, peer: _Peer, identity: DeviceIdentity) -> None:
        missed = peer.missed()
        if missed and not self._closing:
            self.stats.messages_missed += len(missed)
            log.info("messages may not have arrived", device=identity.device_id, count=len(missed))
            self._tell(self._listener.messages_missed, identity, missed)

    async def _wait_until_gone(self) -> None:
        if self._peers:
            await self._all_gone.wait()

    def _tune(self, listening: socket.socket) -> None:
        """Options that accepted sockets inherit.

        Without a bound the kernel would buffer megabytes for a reader that has stopped; without probes a client with
        keep-alive 0 that lost its power would stay for ever.
        """
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.options.write_buffer_bytes)
        notice_dead_peers(listening, ack_timeout_s=self.options.ack_timeout_s)

    def _tell(self, callback: Callable[..., None], identity: DeviceIdentity, *facts: object) -> None:
        try:
            callback(identity, *facts)
        except Exception:  # the edge to the sessions: their failure must not cost a device its connection
            self.stats.listener_errors += 1
            log.exception("listener failed", device=identity.device_id, callback=callback.__name__)


class _Peer(asyncio.Protocol):
    """One connection: feeds the core, performs its events, writes its output, arms its timer.

    The timer is left standing while packets push the deadline back, and looks again when it fires; an idle device costs
    no task and two or three wake-ups a keep-alive period.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_front",
        "_look",
        "_loop",
        "_read_later",
        "_timer",
        "_topic",
        "_transport",
        "_unconfirmed",
        "_unpaid",
        "bad_messages",
        "identity",
        "ip",
    )

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._loop = loop
        self._connection = Connection(
            now=loop.time(),
            connect_timeout_s=front.options.connect_timeout_s,
            max_packet_bytes=front.options.max_packet_bytes,
        )
        self._transport: Any = None  # uvloop's transports are no subclass of asyncio's
        self._timer: asyncio.TimerHandle | None = None
        self._read_later: asyncio.Handle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._unconfirmed: Unconfirmed[Outbound] | None = None  # an idle device costs none
        self._unpaid = 0
        self._topic = b""
        self._ended = False
        self.identity: DeviceIdentity | None = None
        self.ip = ""
        self.bad_messages = 0

    @property
    def connected(self) -> bool:
        return self._connection.state is State.CONNECTED

    def now(self) -> float:
        return self._loop.time()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.ip = _ip_of(transport.get_extra_info("peername"))
        if not self._front.opened(self):
            self.abort()
            return
        self._transport.set_write_buffer_limits(high=self._front.options.write_buffer_bytes)
        self._arm()

    def data_received(self, data: bytes) -> None:
        before = self._connection.packets
        self._perform(self._connection.receive_data(data, self._loop.time()))
        self._flush()
        self._pause(packets=self._connection.packets - before, size=len(data))

    def eof_received(self) -> None:
        self._confirm()  # the socket is still there to be asked

    def pause_writing(self) -> None:
        """More waits to be sent than the write buffer may hold: this client does not read."""
        self._front.stats.slow_readers += 1
        log.warning("connection closed, the client does not read", device=self.identity and self.identity.device_id, peer_ip=self.ip)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = CloseReason.LOCAL if self._ended else CloseReason.LOST
        self._ended = True
        self._connection.close()
        self._disarm()
        self._front.lost(self, reason)
        self._forget_handles()

    # -- for the front -------------------------------------------------------------------------------------------------
    def push(self, message: Outbound, payload: bytes) -> bool:
        """Send a message to the device; False when it is not (or no longer) connected."""
        if not self._connection.publish(self._topic, payload):
            return False
        if self._unconfirmed is None:
            self._unconfirmed = Unconfirmed()
            self._look = self._loop.call_later(ACK_LOOK_S, self._on_look)
        self._flush()
        self._unconfirmed.sent(message)
        return True

    def missed(self) -> list[Outbound]:
        """The messages that the peer's system has not acknowledged, as far as can be known."""
        self._confirm()
        return self._unconfirmed.messages if self._unconfirmed is not None else []

    def shut(self) -> None:
        """Close after what is queued, or without it when that takes too long. No event of this connection follows."""
        if self._ended:
            return
        self._confirm()
        self._ended = True
        self._connection.close()
        self._flush()
        self._disarm()
        self._transport.close()
        self._timer = self._loop.call_later(CLOSE_GRACE_S, self._transport.abort)

    def abort(self) -> None:
        """Close at once."""
        self._ended = True
        self._connection.close()
        self._disarm()
        self._transport.abort()

    # -- inside --------------------------------------------------------------------------------------------------------
    def _perform(self, events: list[Event], client_id: str = "") -> None:
        for event in events:
            if self._ended:
                return
            match event:
                case MessageReceived(payload=payload) if self.identity is not None:
                    self._front.received(self, self.identity, payload)
                case ConnectRequested():
                    self._perform(self._judge(event), event.client_id)
                case Closed():
                    self._front.closed(self, event, client_id)
                    self.shut()

    def _judge(self, request: ConnectRequested) -> list[Event]:
        verdict = self._front.judge(request, self)
        if isinstance(verdict, ReturnCode):
            return self._connection.refuse(verdict, _WHY_REFUSED[verdict])
        self.identity = verdict
        self._topic = downlink_topic(verdict).encode()
        events = self._connection.accept()
        self._disarm()  # the keep-alive may end sooner than the time for CONNECT would have
        self._arm()
        self._front.entered(self, verdict)
        return events

    def _pause(self, *, packets: int, size: int) -> None:
        """Read nothing for a while when there is enough to do, or the device has said enough: TCP makes it wait."""
        if self._ended:
            return
        self._unpaid += packets + size // COST_BYTES
        wait_s = 0.0
        if self._unpaid >= PAID_AT_ONCE and self.identity is not None:
            wait_s = self._front.pace(self.identity.device_id, self, cost=self._unpaid)
            self._unpaid = 0
        if self._read_later is not None:
            self._read_later.cancel()
        if wait_s > 0 or self._connection.backlog:
            self._transport.pause_reading()
            self._read_later = self._loop.call_later(wait_s, self._read_on)
        elif self._read_later is not None:
            self._read_later = None
            self._transport.resume_reading()

    def _read_on(self) -> None:
        if self._ended or self._transport.is_closing():
            return
        before = self._connection.packets
        self._perform(self._connection.read_on(self._loop.time()))
        self._flush()
        self._pause(packets=self._connection.packets - before, size=0)

    def _confirm(self) -> None:
        """Ask the system what has been acknowledged. Not of a closed socket: its number may belong to another by now."""
        if self._ended or self._unconfirmed is None or self._transport.is_closing():
            return
        unacknowledged = unacknowledged_bytes(self._transport.get_extra_info("socket").fileno())
        self._unconfirmed.confirm(unacknowledged=(unacknowledged or 0) + self._transport.get_write_buffer_size())

    def _on_look(self) -> None:
        self._look = None
        self._confirm()
        if self._unconfirmed:
            self._look = self._loop.call_later(ACK_LOOK_S, self._on_look)
        else:
            self._unconfirmed = None

    def _forget_handles(self) -> None:
        for handle in (self._look, self._read_later):
            if handle is not None:
                handle.cancel()

    def _flush(self) -> None:
        data = self._connection.data_to_send()
        if data:
            if self._unconfirmed is not None:
                self._unconfirmed.wrote(len(data))
            self._transport.write(data)

    def _arm(self) -> None:
        due = self._connection.next_timeout()
        if due is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self._perform(self._connection.handle_timer(self._loop.time()))
        if not self._ended:
            self._arm()


def _dual_stack(port: int, *, reuse_port: bool) -> socket.socket:
    return socket.create_server(("::", port), family=socket.AF_INET6, backlog=LISTEN_BACKLOG, reuse_port=reuse_port, dualstack_ipv6=True)


def _ip_of(peername: object) -> str:
    """The peer's address; IPv4 in its own form also when it came through an IPv6 socket. Empty when unknown."""
    if not isinstance(peername, tuple) or not peername:
        return ""
    try:
        address = ipaddress.ip_address(str(peername[0]).partition("%")[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
