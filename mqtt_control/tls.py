"""TLS for connections that are mostly idle: between the transport of the event loop and a protocol, in small buffers.

The event loops' own TLS keeps 24 KB a connection, and twice that once a device has told its tools: its buffers are as large as
the largest piece that ever came. Here what comes is fed to OpenSSL in pieces of 2 KB and what it deciphers handed on at once, so
nothing that a peer sends makes the connection larger. What remains is OpenSSL's own state.

The protocol above is connected when TCP is, before the handshake: so it counts the connection, and its patience is that for
the handshake too. It must not write before it has heard something.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

PIECE_BYTES: Final = 2048
READ_BYTES: Final = 16384
"""A TLS record has no more."""


class TlsLayer(asyncio.Protocol):
    """The server's side of one TLS connection: a protocol to the transport below, a transport to the protocol ``above``.

    ``on_failure`` is called with OpenSSL's words when a handshake or a record is not good; the connection ends then. Of a
    transport it has what :class:`~mqtt_control.front.Front` uses.
    """

    __slots__ = ("_above", "_closing", "_incoming", "_on_failure", "_outgoing", "_shaken", "_tls", "_transport")

    def __init__(self, context: ssl.SSLContext, above: asyncio.Protocol, *, on_failure: Callable[[str], None]) -> None:
        self._above = above
        self._on_failure = on_failure
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shaken = False
        self._closing = False
        self._transport: Any = None  # uvloop's transports are no subclass of asyncio's

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._above.connection_made(self)  # type: ignore[arg-type]  # see the class

    def data_received(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            if self._closing:
                return
            self._incoming.write(view[start : start + PIECE_BYTES])
            self._advance()

    def eof_received(self) -> None:
        """The peer sends no more: the transport closes."""

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._above.connection_lost(exc)

    # -- transport -----------------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Encipher and send. Ignored when the connection is closing."""
        if self._closing:
            return
        view = memoryview(data)
        try:
            for start in range(0, len(view), READ_BYTES):
                self._tls.write(view[start : start + READ_BYTES])
                self._flush()
        except ssl.SSLError as error:
            self._fail(error)

    def close(self) -> None:
        """Say ``close_notify`` and close once all is sent. The peer's own is not waited for; what it still sends is ignored."""
        if self._closing:
            return
        self._closing = True
        if self._shaken:
            with suppress(ssl.SSLError):  # it wants the peer's close_notify, for one
                self._tls.unwrap()
            self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or bool(self._transport.is_closing())

    def pause_reading(self) -> None:
        """What has been read already still comes: at most one piece of the event loop's."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._transport.get_extra_info(name, default)

    # -- inside --------------------------------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Do with what has come all that can be done."""
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
            while not self._closing:
                data = self._tls.read(READ_BYTES)
                if not data:  # close_notify
                    self.close()
                    return
                self._above.data_received(data)
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """The peer gets the alert that OpenSSL has for it, and then the end."""
        if self._closing:
            return
        self._closing = True
        self._on_failure(error.reason or str(error))
        self._flush()
        self._transport.close()
