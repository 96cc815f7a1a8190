"""The socket: one UDP port for all devices of this process, datagrams routed to channels by ssrc."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from dataclasses import dataclass
from typing import cast

import structlog

from udp_audio.address import Address
from udp_audio.channel import ChannelCore, ChannelStats, UplinkFrame
from udp_audio.cipher import KEY_BYTES, Encryption
from udp_audio.errors import ChannelClosed
from udp_audio.packet import UPLINK_FLAGS, Header, parse

log = structlog.get_logger(__name__)

_SO_RCVBUFFORCE = 33
"""Linux, include/uapi/asm-generic/socket.h: like SO_RCVBUF, but beyond rmem_max; needs CAP_NET_ADMIN."""
_SUSPICIOUS_PACKETS = 50
"""So many undecipherable packets before the first good one are worth a line in the log."""
_SEND_BUFFER_BYTES = 1024 * 1024
"""Datagrams that the kernel does not take at once wait up to here; more are dropped and counted."""


@dataclass(slots=True)
class ServerStats:
    """Counters of one port. Datagrams that reach a channel are counted there in detail."""

    received: int = 0
    received_bytes: int = 0
    malformed: int = 0
    wrong_flags: int = 0
    unknown_ssrc: int = 0
    sent: int = 0
    sent_bytes: int = 0
    send_dropped: int = 0
    send_errors: int = 0
    channels_opened: int = 0
    channels_open: int = 0


class AudioServer(asyncio.DatagramProtocol):
    """Owns the socket. Nothing is ever answered to a datagram that no channel believes."""

    def __init__(self) -> None:
        self.stats = ServerStats()
        self.receive_buffer_bytes = 0
        """What the kernel grants; below what was asked for it loses audio at every stall of the loop."""
        self._channels: dict[int, AudioChannel] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost: asyncio.Future[None] | None = None
        self._choked = False

    async def start(self, *, host: str, port: int, receive_buffer_bytes: int) -> int:
        """Binds the port (0: any free one) and returns its number. Raises OSError if that is not possible.

        A cancelled start leaves no socket behind.
        """
        if self._transport is not None:
            raise RuntimeError("the audio server is already started")
        loop = asyncio.get_running_loop()
        sock = _bound_socket(await _resolve(loop, host, port))
        try:
            self.receive_buffer_bytes = _enlarge_receive_buffer(sock, receive_buffer_bytes)
            self._loop = loop
            self._lost = loop.create_future()
            transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise
        transport.set_write_buffer_limits(high=_SEND_BUFFER_BYTES)  # type: ignore[attr-defined]  # typeshed has it for streams only
        self._transport = transport
        if self.receive_buffer_bytes < receive_buffer_bytes:
            log.warning(
                "the UDP receive buffer is smaller than asked for: stalls will lose audio",
                asked_bytes=receive_buffer_bytes,
                granted_bytes=self.receive_buffer_bytes,
                fix=f"sysctl -w net.core.rmem_max={receive_buffer_bytes}",
            )
        return _port_of(transport)

    def open(self, *, frame_ms: int, peer_ip: str | None, encryption: Encryption = "aes-128-ctr") -> AudioChannel:
        """A new channel, reachable from now on. Key and ssrc are random; no two open channels share an ssrc.

        ``frame_ms``: the packet duration the device announced. ``peer_ip``: where its MQTT connection comes from, if known.
        ``encryption``: one with a tag only for a device that has asked for it.
        Raises RuntimeError if the server is not started.
        """
        if self._loop is None or self._transport is None:
            raise RuntimeError("the audio server is not started")
        ssrc = secrets.randbits(32)
        while ssrc == 0 or ssrc in self._channels:
            ssrc = secrets.randbits(32)
        key = secrets.token_bytes(KEY_BYTES)
        core = ChannelCore(
            ssrc=ssrc,
            key=key,
            frame_ms=frame_ms,
            mqtt_ip=peer_ip,
            counter_start=secrets.randbits(32),
            now=self._loop.time(),
            encryption=encryption,
        )
        channel = AudioChannel(server=self, core=core, key=key, loop=self._loop)
        self._channels[ssrc] = channel
        self.stats.channels_opened += 1
        self.stats.channels_open = len(self._channels)
        return channel

    async def aclose(self) -> None:
        """Closes all channels, then the socket. Cancelled, it still closes them, only without waiting for the end."""
        for channel in list(self._channels.values()):
            channel.close()
        if self._transport is not None and self._lost is not None:
            self._transport.close()
            self._transport = None
            await asyncio.shield(self._lost)

    def transmit(self, datagram: bytes, address: Address) -> None:
        """Sends one datagram; what the kernel does not take is dropped and counted, as the network would."""
        if self._transport is None or self._choked:
            self.stats.send_dropped += 1
            return
        self._transport.sendto(datagram, address)
        self.stats.sent += 1
        self.stats.sent_bytes += len(datagram)

    def forget(self, ssrc: int) -> None:
        """Takes a channel's ssrc out of service."""
        self._channels.pop(ssrc, None)
        self.stats.channels_open = len(self._channels)

    def datagram_received(self, data: bytes, addr: tuple[str, int] | Address) -> None:
        """Called by the event loop."""
        stats = self.stats
        stats.received += 1
        stats.received_bytes += len(data)
        header = parse(data)
        if header is None:
            stats.malformed += 1
        elif header.flags != UPLINK_FLAGS:
            stats.wrong_flags += 1
        else:
            channel = self._channels.get(header.ssrc)
            if channel is None:
                stats.unknown_ssrc += 1
            else:
                channel.datagram_received(header, data, addr)

    def error_received(self, exc: Exception) -> None:
        """Called by the event loop: an earlier send failed (no route, an ICMP answer, ...)."""
        self.stats.send_errors += 1
        log.debug("a datagram could not be sent", error=str(exc))

    def pause_writing(self) -> None:
        """Called by the event loop: too many datagrams wait."""
        self._choked = True

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self._choked = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        if exc is not None:
            log.error("the UDP socket failed", error=str(exc))
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)


class AudioChannel:
    """One device's encrypted audio, both ways, from one hello to the next."""

    def __init__(self, *, server: AudioServer, core: ChannelCore, key: bytes, loop: asyncio.AbstractEventLoop) -> None:
        """Made by :meth:`AudioServer.open`."""
        self.ssrc = core.ssrc
        self.key = key
        """16 bytes; for the hello reply and nowhere else."""
        self.nonce = core.nonce
        """16 bytes for the hello reply."""
        self.stats: ChannelStats = core.stats
        self.closed = False
        self._server = server
        self._core = core
        self._loop = loop
        self._readable = asyncio.Event()
        self._reachable = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<AudioChannel ssrc={self.ssrc:08x} {state} peer={self.peer}>"

    @property
    def peer(self) -> tuple[str, int] | None:
        """The device's address (IPv4-mapped ones as IPv4); None until its first believed packet."""
        return self._core.address.peer

    @property
    def last_received_at(self) -> float | None:
        """Event loop time of the last believed packet."""
        return self._core.last_received_at

    @property
    def jitter_hold_s(self) -> float:
        """How long a missing packet is waited for at present."""
        return self._core.jitter_hold_s

    @property
    def unbelieved(self) -> int:
        """Packets that carried this ssrc and were not believed: undecipherable, or from an address that proved nothing."""
        return self.stats.implausible + self.stats.forged + self.stats.distrusted

    async def receive(self) -> list[UplinkFrame]:
        """All frames that wait, oldest first, at least one. For one reader at a time.

        At most 50 wait; then the oldest are dropped (``stats.queue_dropped``). Raises ChannelClosed once the channel is closed.
        Cancelled, it has taken nothing.
        """
        while not self._core.has_frames:
            if self.closed:
                raise ChannelClosed(self.ssrc)
            self._readable.clear()
            await self._readable.wait()
        return self._core.take()

    async def reachable(self) -> None:
        """Waits until the device's address is known. Raises ChannelClosed once the channel is closed."""
        await self._reachable.wait()
        if self.closed:
            raise ChannelClosed(self.ssrc)

    def send(self, opus: bytes, *, timestamp_ms: int = 0) -> None:
        """Sends one Opus packet now; pacing is the caller's (:class:`udp_audio.pacer.Pacer`).

        ``timestamp_ms``: playback time, above 0 and rising, for devices with server AEC. Before the device's address is known
        up to 40 packets wait for it, further ones are refused (``stats.unsent_refused``). Raises ChannelClosed if closed, ValueError
        if the packet is empty or over 1384 bytes.
        """
        if self.closed:
            raise ChannelClosed(self.ssrc)
        datagram = self._core.send(opus, timestamp_ms=timestamp_ms)
        address = self._core.address.current
        if datagram is not None and address is not None:
            self._server.transmit(datagram, address)

    def discard_unsent(self) -> None:
        """Forgets the packets that wait for the device's address."""
        self._core.discard_unsent()

    def close(self) -> None:
        """Ends the channel: its ssrc is dead at once, waiting frames are dropped, readers get ChannelClosed. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._server.forget(self.ssrc)
        self._core.discard_unsent()
        self._core.take()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._readable.set()
        self._reachable.set()

    def datagram_received(self, header: Header, datagram: bytes, address: Address) -> None:
        """Called by the server for each well-formed datagram with this ssrc."""
        core = self._core
        core.receive(header, datagram, address, self._loop.time())
        if core.has_frames:
            self._readable.set()
        elif core.stats.implausible == _SUSPICIOUS_PACKETS and core.last_received_at is None:
            log.warning(
                "audio arrives, but none of it deciphers to Opus as announced: wrong key, or another frame duration",
                ssrc=f"{self.ssrc:08x}",
                source=address[0],
                packets=_SUSPICIOUS_PACKETS,
            )
        if not self._reachable.is_set() and (peer := core.address.current) is not None:
            self._reachable.set()
            for waiting in core.flush():
                self._server.transmit(waiting, peer)
        if core.deadline is not None and self._timer is None:
            self._arm()

    def _arm(self) -> None:
        deadline = self._core.deadline
        self._timer = self._loop.call_at(deadline, self._on_deadline) if deadline is not None else None

    def _on_deadline(self) -> None:
        self._core.poll(self._loop.time())
        if self._core.has_frames:
            self._readable.set()
        self._arm()


async def _resolve(loop: asyncio.AbstractEventLoop, host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    if not found:
        raise OSError(f"no address found for {host}")
    family, _, _, _, address = found[0]
    return family, cast("Address", address)


def _bound_socket(where: tuple[socket.AddressFamily, Address]) -> socket.socket:
    family, address = where
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 devices too
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _enlarge_receive_buffer(sock: socket.socket, wanted_bytes: int) -> int:
    """Asks for a receive buffer and returns what the kernel gave, without the bookkeeping share that Linux adds."""
    linux = sys.platform == "linux"
    for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF) if linux else (socket.SO_RCVBUF,):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, wanted_bytes)
        except OSError:
            continue  # not privileged, or more than this system has: then the next way, or the default
        break
    granted_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted_bytes // 2 if linux else granted_bytes


def _port_of(transport: asyncio.DatagramTransport) -> int:
    """The port number a transport is bound to."""
    return cast("int", transport.get_extra_info("sockname")[1])
