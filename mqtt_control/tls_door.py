"""TLS handshakes, done before a connection is anybody's business: bounded as those are that have not said who they are.

An event loop's own server tells of a connection when its handshake is over; who never ends it is not seen, nor counted.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from ssl import SSLContext
from typing import Final

from mqtt_control.lobby import Lobby

ACCEPT_PAUSE_S: Final = 0.5
"""After the system would not give a connection: it has run out of descriptors, or of memory."""


class TlsDoor:
    """Accepts on one listening socket, which it owns from here on.

    ``admits`` is asked for each connection, by its address, before any work is done for it; ``source`` says with whom it shares
    a bound. ``welcome`` makes the protocol of a connection that is through. ``displaced`` and ``failed`` hear of the others.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: SSLContext,
        *,
        lobby: Lobby[asyncio.Task[None]],
        handshake_s: float,
        source: Callable[[str], str],
        admits: Callable[[str], bool],
        welcome: Callable[[], asyncio.Protocol],
        displaced: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._listening = listening
        self._context = context
        self._lobby = lobby
        self._handshake_s = handshake_s
        self._source = source
        self._admits = admits
        self._welcome = welcome
        self._displaced = displaced
        self._failed = failed

    async def run(self) -> None:
        """Until it is cancelled: then nothing listens here, handshakes under way are cut, who is through stays."""
        loop = asyncio.get_running_loop()
        with self._listening:
            async with asyncio.TaskGroup() as handshakes:
                while True:
                    try:
                        sock, address = await loop.sock_accept(self._listening)
                    except OSError:
                        await asyncio.sleep(ACCEPT_PAUSE_S)
                        continue
                    peer_ip = str(address[0])
                    if not self._admits(peer_ip):
                        sock.close()
                        continue
                    task = handshakes.create_task(self._handshake(sock), name=f"TLS handshake {peer_ip}")
                    task.add_done_callback(self._lobby.leave)
                    oldest = self._lobby.enter(task, self._source(peer_ip))
                    await asyncio.sleep(0)  # a task that has not begun would leave its socket open when it is cancelled
                    if oldest is not None:
                        self._displaced()
                        oldest.cancel()

    async def _handshake(self, sock: socket.socket) -> None:
        """Cancelled, the connection is closed."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._welcome, sock, ssl=self._context, ssl_handshake_timeout=self._handshake_s)
        except OSError:  # also what is wrong with TLS, and time-outs
            self._failed()


async def listening_sockets(host: str, port: int, *, backlog: int, reuse_port: bool) -> list[socket.socket]:
    """A socket for each address that ``host`` stands for; empty: all of this machine. Raises OSError, and leaves none then."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
            sock.bind(address)
            sock.listen(backlog)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
