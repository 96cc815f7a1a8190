"""MQTT 3.1.1 control packets as bytes and back (OASIS MQTT 3.1.1, sections 2 and 3). Does no I/O.

Reading is strict: what the standard forbids raises. The errors::

    CodecError
    +-- MalformedPacket    the bytes are no MQTT 3.1.1; the connection is beyond repair
    +-- PacketTooLarge     a packet says it is longer than allowed; nothing of it was kept
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

PROTOCOL_NAME: Final = b"MQTT"
PROTOCOL_LEVEL: Final = 4
FAILURE: Final = 0x80
"""SUBACK return code of a refused filter."""


class CodecError(Exception):
    """Bytes that end a connection."""


class MalformedPacket(CodecError):
    """The bytes violate MQTT 3.1.1. The sentence names the rule, never the content."""


class PacketTooLarge(CodecError):
    """A packet is longer than the limit. ``size`` is its whole length in bytes, as far as announced."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a packet of {size} bytes, more than {limit}")
        self.size = size
        self.limit = limit


# -- packets -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Will:
    """What the client wants published when it dies (§3.1.2.5)."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """§3.1. ``keepalive_s`` 0 means none; ``username`` and ``password`` None mean absent."""

    client_id: str
    keepalive_s: int = 0
    clean_session: bool = True
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None


@dataclass(frozen=True, slots=True)
class UnsupportedConnect:
    """A CONNECT of another protocol name or level; nothing after these two was read. To be answered with CONNACK 1."""

    protocol_name: bytes
    protocol_level: int


@dataclass(frozen=True, slots=True)
class Connack:
    """§3.2"""

    return_code: int = 0
    session_present: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """§3.3. ``packet_id`` is 0 with QoS 0 and 1..65535 otherwise."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0


@dataclass(frozen=True, slots=True)
class Puback:
    """§3.4"""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Pubrec:
    """§3.5"""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Pubrel:
    """§3.6"""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Pubcomp:
    """§3.7"""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """§3.8. ``filters`` are pairs of topic filter and wanted QoS, at least one."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Suback:
    """§3.9. One of 0, 1, 2 or :data:`FAILURE` a filter, in their order."""

    packet_id: int
    return_codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """§3.10"""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsuback:
    """§3.11"""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Pingreq:
    """§3.12"""


@dataclass(frozen=True, slots=True)
class Pingresp:
    """§3.13"""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """§3.14"""


Packet: TypeAlias = (
    Connect
    | UnsupportedConnect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
)


# -- reading -----------------------------------------------------------------------------------------------------------
class Decoder:
    """Turns a byte stream into packets, however the stream is cut.

    Holds at most one incomplete packet, and nothing between packets. After an error it must not be used again.
    """

    __slots__ = ("_chunk", "_partial", "_position", "_wanted", "max_packet_bytes")

    def __init__(self, max_packet_bytes: int) -> None:
        self.max_packet_bytes = max_packet_bytes
        """Limit for a whole packet; may be changed between packets."""
        self._chunk = b""
        self._position = 0
        self._partial: bytearray | None = None  # the beginning of a packet; while it is there, the chunk is used up
        self._wanted = 0

    def feed(self, data: bytes) -> list[Packet]:
        """All packets that `data` completes. Raises :class:`MalformedPacket` or :class:`PacketTooLarge`.

        An error hides the good packets before it; use :meth:`write` and :meth:`read` to see them.
        """
        self.write(data)
        packets: list[Packet] = []
        while (packet := self.read()) is not None:
            packets.append(packet)
        return packets

    @property
    def buffered_bytes(self) -> int:
        """What was written and not yet returned as packets."""
        return len(self._chunk) - self._position + (len(self._partial) if self._partial is not None else 0)

    def write(self, data: bytes) -> None:
        """Append `data` to the stream."""
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._wanted:
                return
            self._chunk, self._partial = bytes(self._partial), None
        elif self._position < len(self._chunk):
            self._chunk = self._chunk[self._position :] + data
        else:
            self._chunk = data
        self._position = 0

    def read(self) -> Packet | None:
        """The next packet, or None until more is written. Raises :class:`MalformedPacket` or :class:`PacketTooLarge`."""
        chunk, start = self._chunk, self._position
        available = len(chunk) - start
        if available == 0:
            self._chunk, self._position = b"", 0
            return None
        first = chunk[start]
        kind = first >> 4
        _check_flags(kind, first & 0x0F)
        header, remaining = _remaining_length(chunk, start + 1)
        if header == 0:
            self._keep(start, available + 1)
            return None
        size = 1 + header + remaining
        if size > self.max_packet_bytes:
            raise PacketTooLarge(size, self.max_packet_bytes)
        if size > available:
            self._keep(start, size)
            return None
        body = start + 1 + header
        self._position = end = body + remaining
        if kind == 3:
            return _read_publish(first, chunk, body, end)
        reader = _Reader(chunk, body, end)
        packet = _READERS[kind](reader)
        reader.finish()
        return packet

    def _keep(self, start: int, wanted: int) -> None:
        self._partial = bytearray(self._chunk[start:])
        self._wanted = wanted
        self._chunk, self._position = b"", 0


def _check_flags(kind: int, flags: int) -> None:
    """§2.2.2. The first byte alone unmasks most that is not MQTT, such as HTTP or TLS."""
    if kind == 3:
        if flags & 0x06 == 0x06:
            raise MalformedPacket("PUBLISH with QoS 3")
        if flags & 0x0E == 0x08:
            raise MalformedPacket("PUBLISH with QoS 0 marked as repeated")
    elif kind in {0, 15}:
        raise MalformedPacket("a reserved packet type")
    elif flags != (0x02 if kind in {6, 8, 10} else 0x00):
        raise MalformedPacket("reserved header flags are set")


def _remaining_length(data: bytes, position: int) -> tuple[int, int]:
    """Length of the length field and its value (§2.2.3); (0, 0) while bytes are missing."""
    value = 0
    for index, byte in enumerate(data[position : position + 4]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return index + 1, value
    if len(data) - position >= 4:
        raise MalformedPacket("a remaining length of more than four bytes")
    return 0, 0


def _read_publish(first: int, data: bytes, position: int, end: int) -> Publish:
    payload = position + 2
    if payload > end:
        raise MalformedPacket("a packet ends inside of a field")
    topic_end = payload + (data[position] << 8 | data[position + 1])
    if topic_end > end:
        raise MalformedPacket("a packet ends inside of a field")
    topic = data[payload:topic_end]
    if not topic or b"+" in topic or b"#" in topic:
        raise MalformedPacket("PUBLISH with an empty topic or wildcards")
    qos = first >> 1 & 0x03
    if qos == 0:
        return Publish(_text(topic), data[topic_end:end], 0, bool(first & 0x01))
    reader = _Reader(data, topic_end, end)
    packet_id = reader.packet_id()
    return Publish(_text(topic), reader.rest(), qos, bool(first & 0x01), bool(first & 0x08), packet_id)


def _text(raw: bytes) -> str:
    """§1.5.3: well-formed UTF-8, no surrogates, no U+0000."""
    if b"\0" in raw:
        raise MalformedPacket("a string holds U+0000")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise MalformedPacket("a string is not UTF-8") from None


class _Reader:
    """Fields of one packet's body, in order."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data, self._position, self._end = data, position, end

    def take(self, count: int) -> bytes:
        start = self._position
        if start + count > self._end:
            raise MalformedPacket("a packet ends inside of a field")
        self._position = start + count
        return self._data[start : start + count]

    def byte(self) -> int:
        return self.take(1)[0]

    def word(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def packet_id(self) -> int:
        value = self.word()
        if value == 0:
            raise MalformedPacket("packet identifier 0")
        return value

    def binary(self) -> bytes:
        return self.take(self.word())

    def string(self) -> str:
        return _text(self.binary())

    def rest(self) -> bytes:
        return self.take(self._end - self._position)

    def more(self) -> bool:
        return self._position < self._end

    def finish(self) -> None:
        if self.more():
            raise MalformedPacket("a packet is longer than its fields")


def _read_connect(reader: _Reader) -> Packet:
    name, level = reader.binary(), reader.byte()
    if name != PROTOCOL_NAME or level != PROTOCOL_LEVEL:
        reader.rest()
        return UnsupportedConnect(name[:16], level)
    flags = reader.byte()
    _check_connect_flags(flags)
    keepalive_s = reader.word()
    client_id = reader.string()
    will = None
    if flags & 0x04:
        will = Will(_filter(reader.string(), wildcards=False), reader.binary(), flags >> 3 & 0x03, bool(flags & 0x20))
    username = reader.string() if flags & 0x80 else None
    password = reader.binary() if flags & 0x40 else None
    return Connect(client_id, keepalive_s, bool(flags & 0x02), username, password, will)


def _check_connect_flags(flags: int) -> None:
    """§3.1.2.3 to §3.1.2.9"""
    if flags & 0x01:
        raise MalformedPacket("CONNECT with the reserved flag")
    if flags & 0x18 == 0x18:
        raise MalformedPacket("CONNECT with will QoS 3")
    if not flags & 0x04 and flags & 0x38:
        raise MalformedPacket("CONNECT with will options but no will")
    if flags & 0x40 and not flags & 0x80:
        raise MalformedPacket("CONNECT with a password but no user name")


def _read_connack(reader: _Reader) -> Connack:
    flags, code = reader.byte(), reader.byte()
    if flags & 0xFE or (code and flags):
        raise MalformedPacket("CONNACK with bad flags")
    return Connack(code, bool(flags))


def _read_subscribe(reader: _Reader) -> Subscribe:
    packet_id = reader.packet_id()
    filters: list[tuple[str, int]] = []
    while reader.more():
        topic_filter, qos = _filter(reader.string()), reader.byte()
        if qos > 2:
            raise MalformedPacket("SUBSCRIBE with a bad QoS")
        filters.append((topic_filter, qos))
    if not filters:
        raise MalformedPacket("SUBSCRIBE without a filter")
    return Subscribe(packet_id, tuple(filters))


def _read_suback(reader: _Reader) -> Suback:
    packet_id, codes = reader.packet_id(), tuple(reader.rest())
    if not codes or any(code not in {0, 1, 2, FAILURE} for code in codes):
        raise MalformedPacket("SUBACK with bad return codes")
    return Suback(packet_id, codes)


def _read_unsubscribe(reader: _Reader) -> Unsubscribe:
    packet_id = reader.packet_id()
    filters: list[str] = []
    while reader.more():
        filters.append(_filter(reader.string()))
    if not filters:
        raise MalformedPacket("UNSUBSCRIBE without a filter")
    return Unsubscribe(packet_id, tuple(filters))


def _filter(text: str, *, wildcards: bool = True) -> str:
    """§4.7.1: '#' only as the last level, '+' only as a whole level."""
    if not text:
        raise MalformedPacket("an empty topic")
    if "+" in text or "#" in text:
        levels = text.split("/")
        if not wildcards or any(len(level) > 1 and ("+" in level or "#" in level) for level in levels) or "#" in levels[:-1]:
            raise MalformedPacket("a misplaced wildcard")
    return text


def _nothing(packet: Packet) -> Callable[[_Reader], Packet]:
    return lambda _: packet


_READERS: Final[dict[int, Callable[[_Reader], Packet]]] = {
    1: _read_connect,
    2: _read_connack,
    4: lambda reader: Puback(reader.packet_id()),
    5: lambda reader: Pubrec(reader.packet_id()),
    6: lambda reader: Pubrel(reader.packet_id()),
    7: lambda reader: Pubcomp(reader.packet_id()),
    8: _read_subscribe,
    9: _read_suback,
    10: _read_unsubscribe,
    11: lambda reader: Unsuback(reader.packet_id()),
    12: _nothing(Pingreq()),
    13: _nothing(Pingresp()),
    14: _nothing(Disconnect()),
}


# -- writing -----------------------------------------------------------------------------------------------------------
_ACKNOWLEDGEMENTS: Final[dict[type[Packet], bytes]] = {
    Puback: b"\x40\x02",
    Pubrec: b"\x50\x02",
    Pubrel: b"\x62\x02",
    Pubcomp: b"\x70\x02",
    Unsuback: b"\xb0\x02",
}
_BARE: Final[dict[type[Packet], bytes]] = {Pingreq: b"\xc0\x00", Pingresp: b"\xd0\x00", Disconnect: b"\xe0\x00"}


def encode(packet: Packet) -> bytes:  # noqa: PLR0911 - one flat table of the packet types
    """The packet on the wire.

    Values are the caller's responsibility; ``ValueError`` (or its like) is raised for those that have no form on the
    wire, such as a string of more than 65535 bytes.
    """
    match packet:
        case Publish():
            return _encode_publish(packet)
        case Puback(packet_id) | Pubrec(packet_id) | Pubrel(packet_id) | Pubcomp(packet_id) | Unsuback(packet_id):
            return _ACKNOWLEDGEMENTS[type(packet)] + packet_id.to_bytes(2, "big")
        case Connect():
            return _frame(0x10, _connect_body(packet))
        case UnsupportedConnect(name, level):
            return _frame(0x10, _field(name) + bytes((level,)))
        case Connack(code, session_present):
            return bytes((0x20, 2, session_present, code))
        case Subscribe(packet_id, wanted):
            body = b"".join(_field(topic.encode()) + bytes((qos,)) for topic, qos in wanted)
            return _frame(0x82, packet_id.to_bytes(2, "big") + body)
        case Suback(packet_id, codes):
            return _frame(0x90, packet_id.to_bytes(2, "big") + bytes(codes))
        case Unsubscribe(packet_id, filters):
            return _frame(0xA2, packet_id.to_bytes(2, "big") + b"".join(_field(topic.encode()) for topic in filters))
        case Pingreq() | Pingresp() | Disconnect():
            return _BARE[type(packet)]


def encode_publish(topic: bytes, payload: bytes) -> bytes:
    """A PUBLISH with QoS 0 and no flags, the only packet that is sent often. `topic` is its UTF-8."""
    size = 2 + len(topic) + len(payload)
    return b"".join((b"\x30", _length(size), len(topic).to_bytes(2, "big"), topic, payload))


def _encode_publish(packet: Publish) -> bytes:
    first = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
    if first == 0x30:
        return encode_publish(packet.topic.encode(), packet.payload)
    packet_id = packet.packet_id.to_bytes(2, "big") if packet.qos else b""
    return _frame(first, _field(packet.topic.encode()) + packet_id + packet.payload)


def _connect_body(packet: Connect) -> bytes:
    flags = packet.clean_session << 1
    tail = [_field(packet.client_id.encode())]
    if packet.will is not None:
        flags |= 0x04 | packet.will.qos << 3 | packet.will.retain << 5
        tail += [_field(packet.will.topic.encode()), _field(packet.will.payload)]
    if packet.username is not None:
        flags |= 0x80
        tail.append(_field(packet.username.encode()))
    if packet.password is not None:
        flags |= 0x40
        tail.append(_field(packet.password))
    head = _field(PROTOCOL_NAME) + bytes((PROTOCOL_LEVEL, flags)) + packet.keepalive_s.to_bytes(2, "big")
    return head + b"".join(tail)


def _field(raw: bytes) -> bytes:
    if len(raw) > 0xFFFF:
        raise ValueError("a field of more than 65535 bytes")
    return len(raw).to_bytes(2, "big") + raw


def _frame(first: int, body: bytes) -> bytes:
    return b"".join((bytes((first,)), _length(len(body)), body))


def _length(value: int) -> bytes:
    """§2.2.3"""
    if value < 0x80:
        return bytes((value,))
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    if len(digits) > 4:
        raise ValueError("a packet of more than 268435455 bytes")
    return bytes(digits)
