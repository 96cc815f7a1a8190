"""The encrypted UDP audio path: packets, cipher, replay window, jitter buffer, pacer, Opus. Never sees JSON."""

from udp_audio.channel import ChannelStats, UplinkFrame
from udp_audio.errors import ChannelClosed, OpusError, OpusUnavailable, UdpAudioError
from udp_audio.pacer import Pacer
from udp_audio.server import AudioChannel, AudioServer, ServerStats

__all__ = [
    "AudioChannel",
    "AudioServer",
    "ChannelClosed",
    "ChannelStats",
    "OpusError",
    "OpusUnavailable",
    "Pacer",
    "ServerStats",
    "UdpAudioError",
    "UplinkFrame",
]
