"""What a session needs of the way to its device, whichever that is: MQTT with UDP, or one WebSocket for both.

A :class:`Transport` carries the JSON messages and opens an :class:`AudioLink` when the device says hello. The session,
its ear and its mouth know these two and no transport.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from mqtt_control.identity import DeviceIdentity
from mqtt_control.link import Link
from mqtt_control.messages import Hello, Inbound, Outbound, UdpParams
from udp_audio.channel import UplinkFrame
from udp_audio.cipher import AEAD, Encryption
from udp_audio.server import AudioServer

TransportName: TypeAlias = Literal["udp", "websocket"]
"""The transport as a hello names it."""

MQTT_HELLO_VERSION = 3


class AudioLink(Protocol):
    """One session's Opus audio, both ways. All methods are for the event loop's thread."""

    closed: bool

    @property
    def last_received_at(self) -> float | None:
        """Event loop time of the last believed packet."""

    @property
    def unbelieved(self) -> int:
        """Packets that named this session and were not believed."""

    async def receive(self) -> list[UplinkFrame]:
        """All frames that wait, oldest first, at least one. For one reader at a time.

        At most 50 wait; then the oldest are dropped and counted. Raises ChannelClosed once the link is closed. Cancelled, it has
        taken nothing.
        """

    async def reachable(self) -> None:
        """Waits until audio can be sent. Raises ChannelClosed once the link is closed."""

    def send(self, opus: bytes, *, timestamp_ms: int = 0) -> None:
        """Sends one Opus packet now; pacing is the caller's. Raises ChannelClosed, ValueError for a packet that cannot be sent."""

    def discard_unsent(self) -> None:
        """Forgets the packets that have not gone out yet."""

    def close(self) -> None:
        """Ends the link; waiting frames are dropped, readers get ChannelClosed. Idempotent."""


@dataclass(frozen=True, slots=True)
class OpenedAudio:
    """An audio link, and what the hello reply must say for the device to find it (nothing when it shares the connection)."""

    link: AudioLink
    version: int
    """Of the hello reply; over a WebSocket that of the binary messages."""
    udp: UdpParams | None = None


class Transport(Protocol):
    """One way to one device, from its authentication to the end of its connection."""

    @property
    def name(self) -> TransportName: ...

    @property
    def peer_ip(self) -> str:
        """Where its connection comes from; empty when nobody knows."""

    def refusal(self, hello: Hello) -> str:
        """Why no session can be opened with this hello; empty when one can."""

    def open_audio(self, hello: Hello, *, frame_ms: int) -> OpenedAudio:
        """A fresh link for the session that ``hello`` asks for. ``frame_ms``: the packet duration that it announced."""

    def send(self, message: Outbound) -> bool:
        """Queue a message; False when the device is not connected (the message is then gone)."""


class TransportListener(Protocol):
    """Who hears of devices on connections that are a transport of their own. Called on the loop, must not block."""

    def transport_message(self, identity: DeviceIdentity, message: Inbound, *, via: Transport) -> None:
        """A readable message from an authenticated device."""

    def transport_closed(self, identity: DeviceIdentity, *, via: Transport) -> None:
        """The connection is gone, and with it a session that used it."""


@dataclass(frozen=True, slots=True)
class AudioEndpoint:
    """Where devices send their UDP audio."""

    host: str
    port: int


@dataclass(slots=True)
class MqttUdp:
    """Implements :class:`Transport`: messages over the MQTT link, audio over the UDP socket. It outlives MQTT connections."""

    device_id: str
    link: Callable[[], Link | None]
    audio: AudioServer
    endpoint: Callable[[], AudioEndpoint]
    peer_ip: str = ""
    """Where the device's newest MQTT connection comes from."""

    @property
    def name(self) -> TransportName:
        return "udp"

    def refusal(self, hello: Hello) -> str:
        if hello.transport != "udp":
            return "over MQTT the transport must be udp"
        return "" if hello.version == MQTT_HELLO_VERSION else "unknown version"

    def open_audio(self, hello: Hello, *, frame_ms: int) -> OpenedAudio:
        encryption: Encryption = next((one for one in AEAD if one in hello.features.aead), "aes-128-ctr")
        channel = self.audio.open(frame_ms=frame_ms, peer_ip=self.peer_ip, encryption=encryption)
        endpoint = self.endpoint()
        key, nonce = channel.key.hex(), channel.nonce.hex()
        udp = UdpParams(server=endpoint.host, port=endpoint.port, key=key, nonce=nonce, encryption=encryption)
        return OpenedAudio(channel, version=hello.version, udp=udp)

    def send(self, message: Outbound) -> bool:
        link = self.link()
        return link is not None and link.send(self.device_id, message)
