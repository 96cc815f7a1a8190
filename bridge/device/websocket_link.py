"""The device's WebSocket: opened for a conversation, it carries JSON and audio and ends with it (``websocket_protocol.cc``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from bridge.device.audio_channel import ChannelStats, OnPacket
from bridge.device.errors import WebSocketError
from bridge.device.hello import Grant
from bridge.device.ota_client import Hardware, WebSocketSettings
from bridge.device.websocket_frame import pack, unpack

CONNECT_TIMEOUT_S: Final = 10.0
SEND_QUEUE_LENGTH: Final = 256
"""About the device's send buffer in packets; a message more is an error, as there."""


class WebSocketLink:
    """Open with :meth:`open`, run :meth:`run` as a task, give back with :meth:`close`."""

    def __init__(
        self,
        connection: ClientConnection,
        *,
        version: int,
        on_text: Callable[[bytes], None],
        on_packet: OnPacket,
        on_closed: Callable[[WebSocketLink, str], None],
        stats: ChannelStats,
    ) -> None:
        self.stats = stats
        self._connection = connection
        self._version = version
        self._on_text = on_text
        self._on_packet = on_packet
        self._on_closed = on_closed
        self._queue: asyncio.Queue[str | bytes | None] = asyncio.Queue(SEND_QUEUE_LENGTH)
        self._closed = False
        self._sequence = 0

    @classmethod
    async def open(
        cls,
        settings: WebSocketSettings,
        *,
        hardware: Hardware,
        on_text: Callable[[bytes], None],
        on_packet: OnPacket,
        on_closed: Callable[[WebSocketLink, str], None],
        stats: ChannelStats,
    ) -> WebSocketLink:
        """Connect, with the headers of the firmware. ``on_closed`` is called, with the reason, when the other side ends it.

        Raises :class:`WebSocketError`; cancellation leaves no connection.
        """
        token = settings.token if " " in settings.token else f"Bearer {settings.token}"
        headers = {
            "Authorization": token,
            "Protocol-Version": str(settings.version),
            "Device-Id": hardware.device_id,
            "Client-Id": hardware.client_id,
        }
        try:
            connection = await connect(
                settings.url,
                additional_headers=headers,
                user_agent_header=None,
                compression=None,
                proxy=None,
                open_timeout=CONNECT_TIMEOUT_S,
                ping_interval=None,
                max_size=1 << 20,
            )
        except InvalidStatus as error:
            code = error.response.status_code
            why = "refused the token of the OTA answer" if code == 401 else "did not open a WebSocket"
            raise WebSocketError(f"{settings.url} {why} (HTTP {code}).") from error
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            raise WebSocketError(f"{settings.url} cannot be reached ({str(error)[:200] or type(error).__name__}).") from error
        return cls(connection, version=settings.version, on_text=on_text, on_packet=on_packet, on_closed=on_closed, stats=stats)

    async def run(self) -> None:
        """Until either side closes. Cancelled, the connection is cut."""
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(), name="websocket out")
                await self._read()
                writer.cancel()
        finally:
            self._connection.transport.abort()
            if not self._closed:
                self._closed = True
                code = self._connection.close_code
                self._on_closed(self, "without a word" if code is None or code == 1006 else f"with code {code}")

    def publish(self, text: str) -> None:
        """Send one message. Raises :class:`WebSocketError` when there is no connection, or it takes nothing."""
        if self._closed or self._queue.full():
            raise WebSocketError("The message could not be sent: the WebSocket is down.")
        self._queue.put_nowait(text)

    def send(self, opus: bytes, *, timestamp: int = 0) -> None:
        """Send one microphone packet; a stuck connection loses it."""
        self.send_raw(pack(opus, version=self._version, timestamp=timestamp))

    def send_raw(self, message: bytes) -> None:
        """Send any binary message: for hostile tests."""
        if self._closed or self._queue.full():
            return
        self.stats.sent += 1
        self.stats.sent_bytes += len(message)
        self._queue.put_nowait(message)

    def rekey(self, grant: Grant) -> None:
        """An unsolicited hello changes nothing here: there is no key."""

    def close(self) -> None:
        """Close after what is queued."""
        if not self._closed:
            self._closed = True
            if self._queue.full():
                self.drop()
            else:
                self._queue.put_nowait(None)

    def drop(self) -> None:
        """Lose the connection without a closing handshake, as a device that leaves the radio range does."""
        self._connection.transport.abort()

    async def _write(self) -> None:
        try:
            while (message := await self._queue.get()) is not None:
                await self._connection.send(message)
            await self._connection.close()
        except ConnectionClosed:
            pass  # the reader notices, too

    async def _read(self) -> None:
        try:
            async for message in self._connection:
                if isinstance(message, str):
                    self._on_text(message.encode())
                else:
                    self._receive(message)
        except ConnectionClosed:
            pass

    def _receive(self, message: bytes) -> None:
        self.stats.received += 1
        self.stats.received_bytes += len(message)
        packet = unpack(message, version=self._version, sequence=self._sequence + 1)
        if isinstance(packet, str):
            self.stats.rejected[packet] += 1
            return
        self._sequence += 1
        if not packet.opus:
            self.stats.rejected["empty"] += 1
            return
        self._on_packet(packet)
