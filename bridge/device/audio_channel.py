"""The connected UDP socket of one conversation. It hears nobody but the address that hello named, as lwIP's connect() does."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from bridge.device.datagram import Downlink, Received, Uplink
from bridge.device.errors import HelloError
from bridge.device.hello import GCM, Grant
from bridge.device.impairment import ImpairedLink, Impairment
from bridge.device.profiles import Profile

OnPacket: TypeAlias = Callable[[Received], None]


@dataclass(slots=True)
class ChannelStats:
    """``rejected`` is keyed by reason: short, type, length, sequence, tag, empty."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    lost: int = 0
    """Holes in the downlink sequence."""
    rejected: Counter[str] = field(default_factory=Counter)
    socket_errors: int = 0
    last_socket_error: str = ""


class AudioChannel(asyncio.DatagramProtocol):
    """Open with :meth:`open`, give back with :meth:`close`."""

    def __init__(self, grant: Grant, *, profile: Profile, on_packet: OnPacket, stats: ChannelStats) -> None:
        self._profile = profile
        self._on_packet = on_packet
        self._transport: asyncio.DatagramTransport | None = None
        self._links: tuple[ImpairedLink, ...] = ()
        self._send: Callable[[bytes], None] = self._transmit
        self._deliver: Callable[[bytes], None] = self._receive
        self.stats = stats
        self.rekey(grant)

    @classmethod
    async def open(
        cls,
        grant: Grant,
        *,
        profile: Profile,
        on_packet: OnPacket,
        stats: ChannelStats,
        uplink: Impairment | None = None,
        downlink: Impairment | None = None,
    ) -> AudioChannel:
        """Connect a socket to the granted address. Raises :class:`HelloError` when the name does not resolve to IPv4."""
        loop = asyncio.get_running_loop()
        channel = cls(grant, profile=profile, on_packet=on_packet, stats=stats)
        try:
            found = await loop.getaddrinfo(grant.server, grant.port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
            address = str(found[0][4][0]), grant.port
            await loop.create_datagram_endpoint(lambda: channel, remote_addr=address, family=socket.AF_INET)
        except OSError as error:
            raise HelloError(f"The UDP address {grant.server}:{grant.port} named in hello cannot be used: {error}.") from error
        channel._impair(loop, uplink, downlink)
        return channel

    def rekey(self, grant: Grant) -> None:
        """Take over key and nonce; both sequences start again. The socket stays."""
        aead = grant.encryption == GCM
        self._uplink = Uplink(grant.key, grant.nonce, keeps_nonce_timestamp=self._profile.keeps_nonce_timestamp, aead=aead)
        self._downlink = Downlink(
            grant.key,
            checks=self._profile.checks_downlink,
            equal_sequence_accepted=self._profile.equal_sequence_accepted,
            aead=aead,
        )

    def send(self, opus: bytes, *, timestamp: int = 0) -> None:
        """Seal and send one microphone packet; a full socket loses it, as on the device."""
        self._send(self._uplink.seal(opus, timestamp))

    def send_raw(self, datagram: bytes) -> None:
        """Send any bytes from this address: for hostile tests."""
        self._transmit(datagram)

    def close(self) -> None:
        for link in self._links:
            link.close()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _impair(self, loop: asyncio.AbstractEventLoop, uplink: Impairment | None, downlink: Impairment | None) -> None:
        if uplink is not None:
            link = ImpairedLink(uplink, self._transmit, loop=loop, salt="uplink")
            self._send, self._links = link.push, (*self._links, link)
        if downlink is not None:
            link = ImpairedLink(downlink, self._receive, loop=loop, salt="downlink")
            self._deliver, self._links = link.push, (*self._links, link)

    def _transmit(self, datagram: bytes) -> None:
        if self._transport is None:
            return
        self.stats.sent += 1
        self.stats.sent_bytes += len(datagram)
        self._transport.sendto(datagram)

    def _receive(self, datagram: bytes) -> None:
        self.stats.received += 1
        self.stats.received_bytes += len(datagram)
        lost_before = self._downlink.lost
        packet = self._downlink.open(datagram)
        if not isinstance(packet, Received):
            self.stats.rejected[packet] += 1
            return
        self.stats.lost += self._downlink.lost - lost_before
        if not packet.opus:
            self.stats.rejected["empty"] += 1
            return
        self._on_packet(packet)

    # asyncio.DatagramProtocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._deliver(data)

    def error_received(self, exc: Exception) -> None:
        self.stats.socket_errors += 1
        self.stats.last_socket_error = str(exc)
