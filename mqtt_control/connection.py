"""The server's side of one MQTT 3.1.1 connection, without I/O: bytes and `now` in, events and bytes out.

The shell's part::

    receive_data(data, now) -> events        for each: act on it
    backlog -> bool                          if so: let others have their turn, then read_on(now) -> events
    data_to_send() -> bytes                  write them
    next_timeout() -> when                   call handle_timer(now) then

What may come when is the table :attr:`Connection.ALLOWED`; anything else ends the connection. The rules of a front for devices:

- CONNECT first, whole, in time. Then everything waits until the shell has judged it with :meth:`Connection.accept` or
  :meth:`Connection.refuse`; not a byte behind a refused CONNECT is looked at.
- Subscriptions are confirmed with QoS 0 and then forgotten, since a device gets its messages without any.
- A will is read and forgotten: there is nobody to publish it to.
- A message is handed out once, also with QoS 2. Its topic is for information; it says nothing about the sender.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from typing import Any, ClassVar, Final, TypeAlias

from mqtt_control.codec import (
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    PacketTooLarge,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    UnsupportedConnect,
    encode,
    encode_publish,
)

MAX_CONNECT_BYTES: Final = 8192
"""Nobody who has not yet proved who they are can make us keep more than this."""

PACKETS_AT_ONCE: Final = 64
"""So many packets of one connection are handled before others have their turn: what came in one piece may be thousands."""

MAX_QOS2_IN_FLIGHT: Final = 64
KEEPALIVE_FACTOR: Final = 1.5


class State(Enum):
    AWAITING_CONNECT = "awaiting connect"
    JUDGING = "judging"
    CONNECTED = "connected"
    CLOSED = "closed"


class ReturnCode(IntEnum):
    """Of CONNACK, §3.2.2.3."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USERNAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


class CloseReason(StrEnum):
    DISCONNECT = "the client said goodbye"
    REFUSED = "not let in"
    UNSUPPORTED_PROTOCOL = "not MQTT 3.1.1"
    MALFORMED = "malformed packet"
    TOO_LARGE = "packet too large"
    VIOLATION = "protocol violation"
    CONNECT_TIMEOUT = "no CONNECT in time"
    KEEPALIVE_TIMEOUT = "silent for longer than its keep-alive allows"
    LOCAL = "closed by the server"
    LOST = "the connection was lost"


@dataclass(frozen=True, slots=True)
class ConnectRequested:
    """A good CONNECT has come; call :meth:`Connection.accept` or :meth:`Connection.refuse`."""

    client_id: str
    username: str | None
    password: bytes | None = field(repr=False)
    keepalive_s: int
    clean_session: bool


@dataclass(frozen=True, slots=True)
class MessageReceived:
    topic: str
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """The last event: send what is to be sent, then close the transport."""

    reason: CloseReason
    detail: str = ""


Event: TypeAlias = ConnectRequested | MessageReceived | Closed


_READING: Final = frozenset({State.AWAITING_CONNECT, State.CONNECTED})


class Connection:
    """One connection, from TCP accept to its end.

    `now` is any clock in seconds that never goes back; times given and returned are on it. ``max_packet_bytes`` counts
    whole packets. Nothing raises for what the peer does.
    """

    __slots__ = (
        "_backlog",
        "_connect_deadline",
        "_decoder",
        "_keepalive_s",
        "_last_packet",
        "_max_packet_bytes",
        "_output",
        "_qos2_in_flight",
        "_state",
        "packets",
    )

    def __init__(self, *, now: float, connect_timeout_s: float, max_packet_bytes: int) -> None:
        self._state = State.AWAITING_CONNECT
        self._max_packet_bytes = max_packet_bytes
        self._decoder = Decoder(min(MAX_CONNECT_BYTES, max_packet_bytes))
        self._connect_deadline = now + connect_timeout_s
        self._last_packet = now
        self._keepalive_s = 0
        self._output: list[bytes] = []
        self._qos2_in_flight: set[int] | None = None
        self._backlog = False
        self.packets = 0
        """Packets that were handled so far."""

    @property
    def state(self) -> State:
        return self._state

    @property
    def backlog(self) -> bool:
        """Whether what has come may hold more packets than were handled: take in nothing more before :meth:`read_on`."""
        return self._backlog and self._state in _READING

    # -- input ---------------------------------------------------------------------------------------------------------
    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """What the bytes mean, up to so many packets (:attr:`backlog`). Ignored when closed; kept back, within the packet
        limit, while a CONNECT is judged."""
        if self._state is State.CLOSED:
            return []
        self._decoder.write(data)
        if self._state is State.JUDGING:
            if self._decoder.buffered_bytes > self._max_packet_bytes:
                return [self._close(CloseReason.TOO_LARGE, "too much before the CONNACK")]
            return []
        return self._read_packets(now)

    def read_on(self, now: float) -> list[Event]:
        """What the next packets of the backlog mean."""
        return self._read_packets(now)

    def accept(self) -> list[Event]:
        """Let the client in: CONNACK 0. Returns the events of what had already come behind its CONNECT."""
        self._expect_judging()
        self._state = State.CONNECTED
        self._decoder.max_packet_bytes = self._max_packet_bytes
        self._send(Connack(ReturnCode.ACCEPTED))
        return self._read_packets(self._last_packet)

    def refuse(self, code: ReturnCode, because: str = "") -> list[Event]:
        """Turn the client away with this CONNACK; nothing else it sent is looked at. `because` is for the log."""
        self._expect_judging()
        self._send(Connack(code))
        return [self._close(CloseReason.REFUSED, f"CONNACK {int(code)}: {because}" if because else f"CONNACK {int(code)}")]

    def publish(self, topic: bytes, payload: bytes) -> bool:
        """Send a message, QoS 0, not retained; `topic` is UTF-8. False, and nothing sent, unless connected."""
        if self._state is not State.CONNECTED:
            return False
        self._output.append(encode_publish(topic, payload))
        return True

    def close(self) -> None:
        """End the connection from our side. MQTT 3.1.1 knows no goodbye of a server; no event follows."""
        if self._state is not State.CLOSED:
            self._close(CloseReason.LOCAL)

    # -- output and time -----------------------------------------------------------------------------------------------
    def data_to_send(self) -> bytes:
        """What is to be written now; empty when nothing is. The next call does not repeat it."""
        if not self._output:
            return b""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def next_timeout(self) -> float | None:
        """When :meth:`handle_timer` is to be called; it moves with every packet, None is never."""
        match self._state:
            case State.AWAITING_CONNECT | State.JUDGING:
                return self._connect_deadline
            case State.CONNECTED if self._keepalive_s:
                return self._last_packet + KEEPALIVE_FACTOR * self._keepalive_s
            case _:
                return None

    def handle_timer(self, now: float) -> list[Event]:
        """Close the connection if its time is over; harmless when called early."""
        due = self.next_timeout()
        if due is None or now < due:
            return []
        return [self._close(CloseReason.KEEPALIVE_TIMEOUT if self._state is State.CONNECTED else CloseReason.CONNECT_TIMEOUT)]

    # -- inside --------------------------------------------------------------------------------------------------------
    def _read_packets(self, now: float) -> list[Event]:
        events: list[Event] = []
        before = self.packets
        self._backlog = False
        try:
            while self._state in _READING and (packet := self._decoder.read()) is not None:
                self._last_packet = now
                self.packets += 1
                event = self._handle(packet)
                if event is not None:
                    events.append(event)
                if self.packets - before >= PACKETS_AT_ONCE:
                    self._backlog = self._decoder.buffered_bytes > 0
                    break
        except MalformedPacket as error:
            events.append(self._close(CloseReason.MALFORMED, str(error)))
        except PacketTooLarge as error:
            events.append(self._close(CloseReason.TOO_LARGE, str(error)))
        return events

    def _handle(self, packet: Packet) -> Event | None:
        handler = self.ALLOWED[self._state].get(type(packet))
        if handler is None:
            return self._close(CloseReason.VIOLATION, f"{type(packet).__name__} while {self._state.value}")
        return handler(self, packet)

    def _connect(self, packet: Connect) -> Event:
        if not packet.client_id and not packet.clean_session:  # §3.1.3.1
            self._send(Connack(ReturnCode.IDENTIFIER_REJECTED))
            return self._close(CloseReason.REFUSED, "an empty client id asks for a kept session")
        self._state = State.JUDGING
        self._keepalive_s = packet.keepalive_s
        return ConnectRequested(packet.client_id, packet.username, packet.password, packet.keepalive_s, packet.clean_session)

    def _unsupported(self, packet: UnsupportedConnect) -> Event:
        self._send(Connack(ReturnCode.UNACCEPTABLE_PROTOCOL))
        name = packet.protocol_name.decode(errors="replace")
        return self._close(CloseReason.UNSUPPORTED_PROTOCOL, f"protocol {name!a}, level {packet.protocol_level}")

    def _publish(self, packet: Publish) -> Event | None:
        if packet.qos == 1:
            self._send(Puback(packet.packet_id))
        elif packet.qos == 2:
            return self._publish_qos2(packet)
        return MessageReceived(packet.topic, packet.payload)

    def _publish_qos2(self, packet: Publish) -> Event | None:
        """§4.3.3, method B: handed out with the first PUBLISH of an id, its repetitions only acknowledged."""
        in_flight = self._qos2_in_flight = self._qos2_in_flight or set()
        repeated = packet.packet_id in in_flight
        if not repeated and len(in_flight) >= MAX_QOS2_IN_FLIGHT:
            return self._close(CloseReason.VIOLATION, "too many QoS 2 messages without PUBREL")
        in_flight.add(packet.packet_id)
        self._send(Pubrec(packet.packet_id))
        return None if repeated else MessageReceived(packet.topic, packet.payload)

    def _release(self, packet: Pubrel) -> None:
        if self._qos2_in_flight:
            self._qos2_in_flight.discard(packet.packet_id)
        self._send(Pubcomp(packet.packet_id))

    def _subscribe(self, packet: Subscribe) -> None:
        self._send(Suback(packet.packet_id, (0,) * len(packet.filters)))

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        self._send(Unsuback(packet.packet_id))

    def _ping(self, _: Pingreq) -> None:
        self._send(Pingresp())

    def _disconnect(self, _: Disconnect) -> Event:
        return self._close(CloseReason.DISCONNECT)

    def _expect_judging(self) -> None:
        if self._state is not State.JUDGING:
            raise RuntimeError("there is no CONNECT to judge")

    def _send(self, packet: Packet) -> None:
        self._output.append(encode(packet))

    def _close(self, reason: CloseReason, detail: str = "") -> Closed:
        self._state = State.CLOSED
        self._decoder = Decoder(0)  # gives back what was kept of an incomplete packet
        return Closed(reason, detail)

    ALLOWED: ClassVar[dict[State, dict[type[Any], Callable[[Connection, Any], Event | None]]]] = {
        State.AWAITING_CONNECT: {
            Connect: _connect,
            UnsupportedConnect: _unsupported,
        },
        State.JUDGING: {},
        State.CONNECTED: {
            Publish: _publish,
            Pubrel: _release,
            Subscribe: _subscribe,
            Unsubscribe: _unsubscribe,
            Pingreq: _ping,
            Disconnect: _disconnect,
        },
        State.CLOSED: {},
    }
    """What a client may send in each state, and what is done about it. All we send has QoS 0, so no acknowledgement can come."""
