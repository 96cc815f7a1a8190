"""A device's side of the UDP protocol, written from the protocol description and without our own code."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SILENCE_60_MS = bytes.fromhex("580bfeff")
"""TOC 0x58: SILK wide band, one frame of 60 ms, mono; the rest is arbitrary."""
DTX_60_MS = b"\x58"


def aes_ctr(key: bytes, counter_block: bytes, data: bytes) -> bytes:
    """AES-CTR with a context made for this one call."""
    return Cipher(algorithms.AES(key), modes.CTR(counter_block)).encryptor().update(data)


def uplink(key: bytes, nonce: bytes, sequence: int, opus: bytes = SILENCE_60_MS, *, timestamp: int = 0, keep_middle: bool = False) -> bytes:
    """A datagram as firmware makes it: bytes 0, 1, 4..7 from the nonce. ``keep_middle``: firmware <= 1.6.0 keeps 8..11 too."""
    middle = nonce[8:12] if keep_middle else timestamp.to_bytes(4, "big")
    header = nonce[0:2] + len(opus).to_bytes(2, "big") + nonce[4:8] + middle + sequence.to_bytes(4, "big")
    return header + aes_ctr(key, header, opus)


@dataclass(frozen=True, slots=True)
class Downlink:
    """What a device reads in a datagram from the server."""

    flags: int
    timestamp: int
    sequence: int
    opus: bytes


def read_downlink(key: bytes, datagram: bytes) -> Downlink:
    """Checks what firmware checks (type, length) and deciphers."""
    assert datagram[0] == 1
    assert int.from_bytes(datagram[2:4], "big") == len(datagram) - 16
    return Downlink(
        flags=datagram[1],
        timestamp=int.from_bytes(datagram[8:12], "big"),
        sequence=int.from_bytes(datagram[12:16], "big"),
        opus=aes_ctr(key, datagram[:16], datagram[16:]),
    )


def counter_blocks(datagram: bytes) -> list[int]:
    """The counter blocks that encipher a datagram: the header as a number, and its successors."""
    first = int.from_bytes(datagram[:16], "big")
    return [(first + block) % 2**128 for block in range((len(datagram) - 16 + 15) // 16)]


def udp_socket(ip: str = "127.0.0.1") -> socket.socket:
    """A bound, non-blocking socket."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((ip, 0))
    return sock
