"""A worker process: an ordinary server that is told its ports, and that ends with its supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Protocol

import structlog
from pydantic import SecretStr

from bridge import logs
from bridge.app import run_loop, serve
from bridge.banner import Facts
from bridge.errors import OperatorError, explain
from bridge.workers.messages import Failed, Reader, Welcome, dump
from bridge.workers.seat import Seat
from settings.load import Loaded

log = structlog.get_logger(__name__)

WELCOME_TIMEOUT_S: Final = 30.0


class Serve(Protocol):
    """What :func:`bridge.app.serve` is to a worker."""

    def __call__(self, loaded: Loaded, *, ready: Callable[[Facts], None], stop: asyncio.Event, seat: Seat) -> Coroutine[Any, Any, None]: ...


def run(loaded: Loaded, descriptor: int, *, serve: Serve = serve) -> int:
    """Serve until SIGTERM, or until the supervisor at the other end of the socket ``descriptor`` is gone.

    ``serve``: :func:`bridge.app.serve`, or what has more to do around it.
    """
    os.set_inheritable(descriptor, False)
    end = socket.socket(fileno=descriptor)
    welcome = _read_welcome(end)
    loaded = seated(loaded, welcome)
    logs.configure(loaded.tree.log, worker=welcome.index)
    sys.excepthook = _telling(end.dup(), sys.excepthook)
    run_loop(_sit(loaded, welcome, end, serve))
    return 0


def seated(loaded: Loaded, welcome: Welcome) -> Loaded:
    """The settings as they are for this worker: its ports are settled, its log file is its own."""
    tree, index = loaded.tree, welcome.index
    tls_port = welcome.mqtt_tls_port if welcome.mqtt_tls_port is not None else tree.mqtt.tls.port
    mqtt = {"port": welcome.mqtt_port, "tls": tree.mqtt.tls.model_copy(update={"port": tls_port})}
    advertised = tree.advertise.udp_port
    file = tree.log.file
    tree = tree.model_copy(
        update={
            "http": tree.http.model_copy(update={"port": welcome.http_port}),
            "mqtt": tree.mqtt.model_copy(update=mqtt),
            "broker": tree.broker.model_copy(update={"client_id": f"{tree.broker.client_id[:60]}-{index}"}),
            "udp": tree.udp.model_copy(update={"port": welcome.udp_port}),
            "admin": tree.admin.model_copy(update={"token": SecretStr(welcome.admin_token)}),
            "advertise": tree.advertise.model_copy(update={"udp_port": advertised + index if advertised else None}),
            "log": tree.log.model_copy(update={"file": file and file.with_name(f"{file.stem}.{index}{file.suffix}")}),
        }
    )
    ports = ("http.port", "mqtt.port", "mqtt.tls.port", "udp.port")
    return replace(loaded, tree=tree, origins=loaded.origins | dict.fromkeys(ports, "supervisor"))


async def _sit(loaded: Loaded, welcome: Welcome, end: socket.socket, serve: Serve) -> None:
    stop = asyncio.Event()
    seat = Seat(welcome)
    await seat.open(end, on_lost=stop.set)
    try:
        await serve(loaded, ready=seat.ready, stop=stop, seat=seat)
    finally:
        await seat.aclose()


def _read_welcome(end: socket.socket) -> Welcome:
    """The first message, and not a byte more. Raises OperatorError when there is none."""
    end.settimeout(WELCOME_TIMEOUT_S)
    try:
        head = _exactly(end, 4)
        for message in Reader().feed(head + _exactly(end, int.from_bytes(head))):
            if isinstance(message, Welcome):
                return message
    except OSError as error:
        raise OperatorError(f"No supervisor answers: {error}", advice="Start the server without --worker-fd") from error
    raise OperatorError("The supervisor says nothing that can be understood", advice="Start the server without --worker-fd")


def _exactly(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = end.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("it has gone")
        data += piece
    return data


_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def _telling(end: socket.socket, otherwise: _Hook) -> _Hook:
    """An excepthook: what an operator can act on is told to the supervisor, which shows it once; a bug is shown here."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        known = explain(error)
        if known is None:
            otherwise(kind, error, trace)
            return
        end.settimeout(1)
        with suppress(OSError):
            end.sendall(dump(Failed(sentence=str(known))))

    return hook
