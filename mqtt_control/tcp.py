"""What the system knows of a TCP connection: whether its peer still acknowledges what it is sent.

A peer that has lost its power or its network closes nothing. What is written to it is lost without a word until the system gives
up, which by default takes a quarter of an hour.
"""

from __future__ import annotations

import socket
import struct
import sys

IDLE_PROBE_S = 60
PROBE_INTERVAL_S = 20
PROBES = 4
"""Of a connection on which nobody says anything."""


def notice_dead_peers(sock: socket.socket, *, ack_timeout_s: float) -> None:
    """Let ``sock``, and what a listening one accepts, fail when its peer is gone.

    ``ack_timeout_s``: how long something sent may stay unacknowledged (Linux); 0 leaves that to the system.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", IDLE_PROBE_S), ("TCP_KEEPINTVL", PROBE_INTERVAL_S), ("TCP_KEEPCNT", PROBES)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if ack_timeout_s and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(ack_timeout_s * 1000))


if sys.platform == "linux":
    import fcntl
    import termios

    def unacknowledged_bytes(descriptor: int) -> int | None:
        """What was given to the system for this open socket and has not been acknowledged; None when it does not tell."""
        try:
            answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, tcp(7)
        except OSError:
            return None
        return int(struct.unpack("i", answer)[0])

else:

    def unacknowledged_bytes(descriptor: int) -> int | None:
        """None: there is no portable way to ask."""
        del descriptor
        return None
