"""One device's WebSocket from its acceptance to its end: the transport that the registry sees."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from bridge.transport import OpenedAudio, TransportName
from bridge.websocket.channel import WebSocketChannel
from bridge.websocket.framing import FrameError, FrameVersion, decode, is_frame_version
from bridge.websocket.outbox import Outbox
from bridge.websocket.stats import WebSocketStats
from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Goodbye, Hello, MessageError, Outbound, dump
from udp_audio.address import plain_ip

log = structlog.get_logger(__name__)

NORMAL: Final = 1000
POLICY_VIOLATION: Final = 1008
"""Close codes, RFC 6455 §7.4.1."""

CLOSE_GRACE_S: Final = 2.0
"""For what is queued to go out; then the connection is cut."""
LOGGED_FAULTS: Final = 5


class Connection:
    """Implements :class:`bridge.transport.Transport`. :meth:`write` runs as a task; the rest is called on the same loop.

    ``over`` is set when there is nothing left to do: whoever serves the connection then ends it.
    """

    def __init__(self, websocket: WebSocket, *, identity: DeviceIdentity, announced: FrameVersion | None, stats: WebSocketStats) -> None:
        """``announced``: the version in the device's request, if it named one."""
        self.identity = identity
        self.over = asyncio.Event()
        self._websocket = websocket
        self._announced = announced
        self._version: FrameVersion = announced or 1
        self._stats = stats
        self._outbox = Outbox()
        self._channel: WebSocketChannel | None = None
        self._closing = False
        self._close_code = NORMAL
        self._cut: asyncio.TimerHandle | None = None
        self._faults = 0

    @property
    def in_session(self) -> bool:
        return self._channel is not None and not self._channel.closed

    @property
    def closing(self) -> bool:
        """Whether this side has ended it."""
        return self._closing

    # -- Transport ---------------------------------------------------------------------------------------------------------
    @property
    def name(self) -> TransportName:
        return "websocket"

    @property
    def peer_ip(self) -> str:
        return plain_ip(self._websocket.client.host) if self._websocket.client else ""

    def refusal(self, hello: Hello) -> str:
        if hello.transport != "websocket":
            return "over a WebSocket the transport must be websocket"
        return "" if self._version_for(hello) else "unknown version"

    def open_audio(self, hello: Hello, *, frame_ms: int) -> OpenedAudio:
        """A link on this connection; an older one on it has lost its hold."""
        self._version = self._version_for(hello) or self._version
        channel = self._channel = WebSocketChannel(
            version=self._version,
            frame_ms=frame_ms,
            stats=self._stats,
            transmit=self._queue,
            discard=self._outbox.take_back_audio,
            on_close=lambda: self._channel_closed(channel),
        )
        return OpenedAudio(channel, version=self._version)

    def send(self, message: Outbound) -> bool:
        """See :class:`bridge.transport.Transport`. Devices know no goodbye here: it closes the connection."""
        if self._closing:
            return False
        if isinstance(message, Goodbye):
            self.close()
            return True
        try:
            text = dump(message).decode()
        except MessageError as error:
            self._stats.unsendable_messages += 1
            log.error("message not sent", device=self.identity.device_id, kind=type(message).__name__, reason=str(error))  # noqa: TRY400 - the sentence says all
            return False
        if not self._queue(text):
            return False
        self._stats.messages_out += 1
        return True

    def hello_arrived(self) -> None:
        """A session that is replaced on its own connection does not take the connection with it."""
        self._channel = None

    # -- the end -----------------------------------------------------------------------------------------------------------
    def close(self, code: int = NORMAL) -> None:
        """Close after what is queued, or without it when that takes too long. Idempotent."""
        if self._closing:
            return
        self._closing, self._close_code = True, code
        self._outbox.close()
        self._cut = asyncio.get_running_loop().call_later(CLOSE_GRACE_S, self.over.set)

    def lost(self) -> None:
        """Nothing can be sent or received any more."""
        self._closing = True
        self._outbox.close()
        self.over.set()
        if self._cut is not None:
            self._cut.cancel()
        if self._channel is not None:
            self._channel.close()

    def _channel_closed(self, channel: WebSocketChannel) -> None:
        """A session without its connection makes no sense here, nor the other way round; the newest session counts."""
        if channel is self._channel:
            self.close()

    # -- out ---------------------------------------------------------------------------------------------------------------
    async def write(self) -> None:
        """Send what is queued until the connection is closed or gone. Cancelled, at most the message under way is lost."""
        try:
            while (message := await self._outbox.get()) is not None:
                if isinstance(message, str):
                    await self._websocket.send_text(message)
                else:
                    await self._websocket.send_bytes(message)
            await self._websocket.close(self._close_code)
        except (WebSocketDisconnect, RuntimeError):
            # The peer was faster. RuntimeError: ASGI's word for sending after the server has closed by itself (no pong).
            pass
        finally:
            self.over.set()

    def _queue(self, message: str | bytes) -> bool:
        if self._closing:
            return False
        if self._outbox.put(message):
            return True
        self._stats.slow_readers += 1
        log.warning("connection closed, the device does not read", device=self.identity.device_id)
        self.lost()
        return False

    # -- in ----------------------------------------------------------------------------------------------------------------
    def binary(self, message: bytes) -> None:
        """A binary message has come."""
        channel = self._channel
        if channel is None:
            self._stats.early_audio += 1
            return
        try:
            frame = decode(message, version=self._version)
        except FrameError as error:
            self._stats.bad_frames += 1
            self.fault("audio ignored", str(error))
            return
        channel.feed(frame)

    def fault(self, what: str, reason: str) -> None:
        """The device sent something unusable; the first few of a connection are logged."""
        self._faults += 1
        if self._faults <= LOGGED_FAULTS:
            log.warning(what, device=self.identity.device_id, reason=reason, version=self._version)

    def _version_for(self, hello: Hello) -> FrameVersion | None:
        """That of the request, which the device frames by; without one the hello's."""
        if self._announced is not None:
            return self._announced
        return hello.version if is_frame_version(hello.version) else None
