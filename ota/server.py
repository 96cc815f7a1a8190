"""uvicorn inside our loop: our socket, our signals, and a task that the caller's group owns."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

SHUTDOWN_S = 5
MAX_CONNECTIONS = 4096


class ListenError(Exception):
    """The address cannot be listened on. The sentence says what to do."""


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


class HttpServer:
    """One application on one address. The task runs in ``group``, so a crash of the server ends the group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._server: _Server | None = None

    async def start(self, app: ASGIApp, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listen (port 0: any free one) and return the port; with ``reuse_port`` beside other processes. Raises ListenError.

        Cancellation leaves a server that :meth:`aclose` ends.
        """
        if self._server is not None:
            raise RuntimeError("the server has been started")
        listener = _listen(host, port, reuse_port=reuse_port)
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
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


def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024, reuse_port=reuse_port)
    except OSError as error:
        raise ListenError(_sentence(host, port, error)) from error


def _sentence(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"http: port {port} is taken by another program: stop it, or choose another http.port"
    if error.errno == errno.EACCES:
        return f"http: port {port} may not be used by this user: choose an http.port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"http: {host} is no address of this machine: set http.host to one, or to 0.0.0.0"
    return f"http: cannot listen on {host} port {port}: {error}"
