"""What the supervisor and its workers say to each other, and how it is framed (P).

::

    worker                    supervisor
      |  <-- Welcome --------  |   which worker it is, and where to listen
      |  --- Ready --------->  |   devices can connect      (or Failed, with a sentence for the operator)
      |  --- Connected ----->  |   a device is here now: the worker that had it before gets Leave
      |  --- Ended --------->  |   the session of a device that left: the worker that has the device now gets it, too, and says goodbye
      |  --- Revoked ------->  |   a device's credentials are void: every other worker gets Revoked
      |  --- MetricsAsk ---->  |   every worker gets MetricsRequest, answers Metrics; the sum comes back as MetricsJoined
      |  --- StatsAsk ------>  |   the worker that has the device gets StatsRequest, tells StatsTold; it comes back as Stats
      |  <-- Deal -----------  |   who shares the devices at the broker (share.py): give up, and say Dealt; then take
      |  <-- Ping -- Pong -->  |   the event loop of the worker turns

A frame is its length (4 bytes, big endian) and one MessagePack map.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec

LONGEST_FRAME: Final = 8 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")


class FrameError(Exception):
    """What arrived is no frame."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of an exposition."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric. ``kind`` is Prometheus': counter, gauge, histogram."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


class _Message(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True): ...


class Welcome(_Message, frozen=True, kw_only=True):
    """The first message: everything that workers cannot choose for themselves."""

    index: int
    count: int
    http_port: int
    mqtt_port: int
    mqtt_tls_port: int | None
    udp_port: int
    """0: any free one."""
    admin_token: str


class Ready(_Message, frozen=True, kw_only=True):
    """``facts``: those of :class:`bridge.banner.Facts`, as plain values."""

    udp_port: int
    facts: dict[str, Any]


class Failed(_Message, frozen=True, kw_only=True):
    """The worker cannot start, and why, in words for the operator."""

    sentence: str


class Connected(_Message, frozen=True, kw_only=True):
    """``counter`` tells this connection from others of the same device at the same worker.

    ``at_s`` is the machine's monotonic clock, which its processes have in common: what two workers tell may arrive in any order.
    """

    device_id: str
    counter: int
    at_s: float


class Leave(_Message, frozen=True, kw_only=True):
    """The device has connected elsewhere: its connection ``counter`` and its session here end."""

    device_id: str
    counter: int


class Ended(_Message, frozen=True, kw_only=True):
    """The device believes in this session, which ended when the device connected elsewhere."""

    device_id: str
    session_id: str


class Revoked(_Message, frozen=True, kw_only=True):
    """``forgotten``: the device is known no longer."""

    device_id: str
    forgotten: bool = False


class MetricsAsk(_Message, frozen=True, kw_only=True): ...


class MetricsRequest(_Message, frozen=True, kw_only=True):
    number: int


class Metrics(_Message, frozen=True, kw_only=True):
    """``number`` 0: unasked, the last word of a worker that ends."""

    number: int
    families: list[Family]


class MetricsJoined(_Message, frozen=True, kw_only=True):
    families: list[Family]


class StatsAsk(_Message, frozen=True, kw_only=True):
    """How does the audio of this device arrive? ``number`` is the asker's."""

    number: int
    device_id: str


class StatsRequest(_Message, frozen=True, kw_only=True):
    asker: int
    number: int
    device_id: str


class StatsTold(_Message, frozen=True, kw_only=True):
    asker: int
    number: int
    stats: dict[str, Any] | None


class Stats(_Message, frozen=True, kw_only=True):
    """``stats`` None: no worker has seen the device."""

    number: int
    stats: dict[str, Any] | None


class Deal(_Message, frozen=True, kw_only=True):
    """``members``: the workers that answer devices at the broker. Not ``settled``: only give up what will not be yours."""

    number: int
    members: list[int]
    settled: bool


class Dealt(_Message, frozen=True, kw_only=True):
    """What was to be given up is given up."""

    number: int


class Ping(_Message, frozen=True, kw_only=True): ...


class Pong(_Message, frozen=True, kw_only=True): ...


FromWorker: TypeAlias = Ready | Failed | Connected | Ended | Revoked | MetricsAsk | Metrics | StatsAsk | StatsTold | Dealt | Pong
FromSupervisor: TypeAlias = Welcome | Leave | Ended | Revoked | MetricsRequest | MetricsJoined | StatsRequest | Stats | Deal | Ping
Message: TypeAlias = FromWorker | FromSupervisor

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


def dump(message: Message) -> bytes:
    """The message as a frame. Raises FrameError when it is too long."""
    body = _encoder.encode(message)
    if len(body) > LONGEST_FRAME:
        raise FrameError(f"a {type(message).__name__} of {len(body)} bytes is too long")
    return _LENGTH.pack(len(body)) + body


class Reader:
    """Bytes in, whole messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now. Raises FrameError; the reader is of no use afterwards."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LONGEST_FRAME:
                raise FrameError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                yield _decoder.decode(body)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise FrameError(str(error)) from error
