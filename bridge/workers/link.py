"""One end of the socket pair between the supervisor and a worker.

There is no path to it and no port: who was not born with it cannot reach it. When either process ends, however it ends, the
kernel closes its end, and the other notices at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import structlog

from bridge.workers.messages import FrameError, Message, Reader, dump

log = structlog.get_logger(__name__)

LONGEST_BACKLOG_BYTES: Final = 16 * 1024 * 1024
"""What may wait for a peer that does not read. More: the link is cut, which ends the worker."""


class Link(asyncio.Protocol):
    """Messages both ways. ``on_message`` and ``on_lost`` are called on the event loop; after ``on_lost`` nothing comes."""

    def __init__(self, *, on_message: Callable[[Message], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._reader = Reader()
        self._transport: Any = None  # uvloop's transports are no subclass of asyncio's
        self._gone = asyncio.Event()
        self.sent = 0
        self.received = 0

    @classmethod
    async def over(cls, end: socket.socket, *, on_message: Callable[[Message], None], on_lost: Callable[[], None]) -> Link:
        """The link over one end of a socket pair, which it closes. Cancellation leaves the socket to the caller."""
        end.setblocking(False)
        link = cls(on_message=on_message, on_lost=on_lost)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=end)
        return link

    def send(self, message: Message) -> bool:
        """Queue a message; False when the peer is gone, or is cut off now because it reads nothing."""
        if self._gone.is_set() or self._transport is None or self._transport.is_closing():
            return False
        if self._transport.get_write_buffer_size() > LONGEST_BACKLOG_BYTES:
            log.error("the other process reads nothing, so the link to it is cut", waiting_bytes=self._transport.get_write_buffer_size())
            self._transport.abort()
            return False
        self._transport.write(dump(message))
        self.sent += 1
        return True

    async def aclose(self) -> None:
        """Send what is queued and close; returns when it is closed. Idempotent. Cancelled, it is closed without waiting."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            await self._gone.wait()
        except asyncio.CancelledError:
            self._transport.abort()
            raise

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._reader.feed(data):
                self.received += 1
                self._on_message(message)
        except FrameError as error:
            log.error("the other process says what cannot be understood, so the link to it is cut", reason=str(error))  # noqa: TRY400
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._gone.set()
        self._on_lost()
