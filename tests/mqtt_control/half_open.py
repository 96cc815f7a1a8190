"""A TCP connection whose peer has vanished without a word: its system takes in nothing more and answers nothing (Linux)."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

import pytest

needs_socket_filters = pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux's")

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_BPF_RET = 0x06


def vanish(sock: socket.socket) -> None:
    """From now on every segment to this socket is dropped before TCP sees it: no acknowledgement, no reset, nothing."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RET, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))  # struct sock_fprog, with its padding
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def reappear(sock: socket.socket) -> None:
    """The network is back."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
