"""uvicorn inside our loop: our socket, our signals, and a task that the caller's group owns."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from mqtt_control.log_budget import LogBudget
from mqtt_control.tcp import notice_dead_peers

SHUTDOWN_S = 5
MAX_CONNECTIONS = 4096
PING_S = 20.0
WEBSOCKET_BUFFER_BYTES = 32 * 1024
"""Unread by the device, in the kernel and here each: eight seconds of speech."""
WEBSOCKET_CLOSE_S = 2.0
REQUEST_S = 20.0
"""From the connection, or the beginning of a further request on it, to the end of the request's headers."""
LOGGED_COMPLAINTS_PER_MINUTE = 30


class ListenError(OSError):
    """The address cannot be listened on. ``errno`` is the system's, ``strerror`` a sentence that says what to do."""


class _Sparing(logging.Filter):
    """Of uvicorn's complaints about what strangers send, so many a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._budget = LogBudget(LOGGED_COMPLAINTS_PER_MINUTE)

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:
            return True
        return record.levelno > logging.WARNING or self._budget.allows(now)


class _Server(uvicorn.Server):
    """uvicorn, without its signal handlers, and telling when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self.down = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    async def run_until_told(self, listener: socket.socket) -> None:
        try:
            await self.serve(sockets=[listener])
        finally:
            listener.close()
            self.down.set()


_SPARING = _Sparing()


class HttpServer:
    """One application on one address. The task runs in ``group``, so a crash of the server ends the group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._server: _Server | None = None

    async def start(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        max_websocket_message_bytes: int = 0,
        ack_timeout_s: float = 0,
        reuse_port: bool = False,
    ) -> int:
        """Listen (port 0: any free one) and return the port; with ``reuse_port`` beside other processes. Raises ListenError.

        With ``max_websocket_message_bytes`` WebSockets are served: what sends a larger message is closed, as is what does not
        answer a ping. ``ack_timeout_s``: :func:`mqtt_control.tcp.notice_dead_peers`, for all connections.

        Cancellation leaves a server that :meth:`aclose` ends.
        """
        if self._server is not None:
            raise RuntimeError("the server has been started")
        listener = _listen(host, port, reuse_port=reuse_port)
        notice_dead_peers(listener, ack_timeout_s=ack_timeout_s)
        logging.getLogger("uvicorn.error").addFilter(_SPARING)
        config = uvicorn.Config(
            app,
            lifespan="off",
            http=_http_protocol(),
            ws=_websocket_protocol() if max_websocket_message_bytes else "none",
            ws_max_size=max_websocket_message_bytes or 1,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            ws_per_message_deflate=False,  # devices do not offer it, and Opus does not shrink
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        self._server = _Server(config)
        self._group.create_task(self._server.run_until_told(listener), name="http")
        await self._server.up.wait()
        return int(listener.getsockname()[1])

    async def aclose(self) -> None:
        """Stop listening, let answers under way finish for some seconds, close. Idempotent."""
        if self._server is not None:
            self._server.should_exit = True
            await self._server.down.wait()


def _http_protocol() -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, made to let go of peers that do not get their request out."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class PunctualHttp(HttpToolsProtocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            self._expect_request()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._patience is None and (self.cycle is None or self.cycle.response_complete):
                self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._patience is not None:
                self._patience.cancel()

        def _expect_request(self) -> None:
            self._patience = self.loop.call_later(REQUEST_S, self._look, self.cycle)

        def _look(self, before: object) -> None:
            self._patience = None
            if self.cycle is before and self.transport.get_protocol() is self:  # it may have become a WebSocket
                self.transport.abort()

    return PunctualHttp


def _websocket_protocol() -> type[asyncio.Protocol]:
    """uvicorn's WebSocket protocol on the ``websockets`` library, made to let go of peers that do not read."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    class BoundedWebSocket(WebSocketsSansIOProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            # Otherwise the kernel takes megabytes for a peer that has stopped reading before anybody notices.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WEBSOCKET_BUFFER_BYTES)
            self.transport.set_write_buffer_limits(high=WEBSOCKET_BUFFER_BYTES)

        def keepalive_timeout(self) -> None:
            """A peer that does not answer pings does not read what waits for it either."""
            super().keepalive_timeout()
            self.transport.abort()

        async def run_asgi(self) -> None:
            """After the application has ended, a close that cannot be flushed must not keep the socket."""
            application = self.app

            async def answered(scope: Scope, receive: Receive, send: Send) -> None:
                await application(scope, receive, send)
                if self.close_sent:
                    self.handshake_complete = True  # a refusal is an answer, too; uvicorn would log an error of ours

            self.app = answered
            await super().run_asgi()
            self.loop.call_later(WEBSOCKET_CLOSE_S, self.transport.abort)

    return BoundedWebSocket


def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        dual = host == "::" and socket.has_dualstack_ipv6()  # serves IPv4 devices too, as the UDP port does
        return socket.create_server((host, port), family=family, backlog=1024, reuse_port=reuse_port, dualstack_ipv6=dual)
    except OSError as error:
        raise ListenError(error.errno, _sentence(host, port, error)) from error


def _sentence(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"http: port {port} is taken by another program: stop it, or choose another http.port"
    if error.errno == errno.EACCES:
        return f"http: port {port} may not be used by this user: choose an http.port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"http: {host} is no address of this machine: set http.host to one, or to 0.0.0.0"
    return f"http: cannot listen on {host} port {port}: {error}"
