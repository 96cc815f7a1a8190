"""The ports of a server of several processes: chosen and held once, by the process that outlives the others.

Sockets with SO_REUSEPORT share a port with every other program of the same user that sets it as well, such as a second
server of this kind, and neither would notice. So each port is first taken for one alone, as any program takes it, and only
then opened for sharing; from then on it is held, not listened on, until the server ends.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field

from bridge.errors import OperatorError
from settings.load import Loaded

PORTS_TRIED = 50


@dataclass(slots=True)
class Ports:
    """``udp`` is that of the first worker, the others follow it; 0: each takes any free one."""

    http: int
    mqtt: int
    mqtt_tls: int | None
    udp: int
    _held: list[socket.socket] = field(default_factory=list, repr=False)

    def udp_of(self, index: int) -> int:
        """The UDP port of a worker."""
        return self.udp + index if self.udp else 0

    def release(self) -> None:
        """Let go of everything; idempotent."""
        while self._held:
            self._held.pop().close()


def reserve(loaded: Loaded, *, workers: int) -> Ports:
    """Take the ports that the settings name. A default one that is taken moves to the next free one. Raises OperatorError."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OperatorError("workers above 1 need SO_REUSEPORT, which this system does not have", advice="Set workers to 1")
    tree = loaded.tree
    ports = Ports(0, 0, None, 0)
    try:
        ports.http = _reserve(loaded, "http.port", tree.http.host, tree.http.port, ports._held)  # noqa: SLF001 - made here
        front = tree.control.mode != "broker"
        if front and tree.mqtt.plain:
            ports.mqtt = _reserve(loaded, "mqtt.port", tree.mqtt.host, tree.mqtt.port, ports._held)  # noqa: SLF001
        if front and tree.mqtt.tls.certificate is not None:
            ports.mqtt_tls = _reserve(loaded, "mqtt.tls.port", tree.mqtt.host, tree.mqtt.tls.port, ports._held)  # noqa: SLF001
        ports.udp = _udp_range(loaded, workers)
    except BaseException:
        ports.release()
        raise
    return ports


def _reserve(loaded: Loaded, path: str, host: str, port: int, held: list[socket.socket]) -> int:
    for candidate in _candidates(port):
        try:
            sockets = _hold(host, candidate)
        except OSError as error:
            _judge(loaded, path, candidate, error)
            continue
        held += sockets
        return int(sockets[0].getsockname()[1])
    raise OperatorError(f"No free port from {port} to {port + PORTS_TRIED - 1}: set {path}, 0 means any free one.")


def _hold(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses that ``host`` stands for, bound and shareable. Raises OSError, and then holds nothing."""
    held: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            one = socket.socket(family, socket.SOCK_STREAM)
            held.append(one)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _bind_alone(one, (address[0], port or held[0].getsockname()[1], *address[2:]))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # after bind: until here it is ours alone or an error
    except BaseException:
        for one in held:
            one.close()
        raise
    return held


def _bind_alone(one: socket.socket, address: tuple[object, ...]) -> None:
    """Bind where nobody else is bound. Connections of a former server that still wait for their end do not count."""
    try:
        one.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # only now: with it from the start, two who hold the port without listening would not notice each other
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _udp_range(loaded: Loaded, workers: int) -> int:
    """The first of as many free UDP ports in a row. They are not held: a worker binds its own, alone."""
    port = loaded.tree.udp.port
    if port == 0:
        return 0
    for first in _candidates(port):
        for candidate in range(first, first + workers):
            if candidate > 65535:
                raise OperatorError(f"udp.port {port} leaves no room for {workers} workers, each of which needs a port: set a lower one.")
            try:
                _try_udp(loaded.tree.udp.host, candidate)
            except OSError as error:
                _judge(loaded, "udp.port", candidate, error)
                break
        else:
            return first
    raise OperatorError(f"No {workers} free UDP ports in a row from {port}: set udp.port, 0 means any free ones.")


def _try_udp(host: str, port: int) -> None:
    family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind(address)


def _candidates(port: int) -> range | tuple[int]:
    return range(port, min(port + PORTS_TRIED, 65536)) if port else (0,)


def _judge(loaded: Loaded, path: str, port: int, error: OSError) -> None:
    """Return when the next port may be tried. Raises OperatorError."""
    if error.errno != errno.EADDRINUSE:
        raise OperatorError(f"Cannot listen on {path} {port}: {error.strerror or error}.") from error
    if loaded.was_set(path):
        raise OperatorError(
            f"Port {port} ({path}) is in use by another program. Stop that program, or set {path} to another port (0: any free one)."
        ) from error
