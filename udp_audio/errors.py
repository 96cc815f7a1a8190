"""What this package raises.

UdpAudioError
├── ChannelClosed      the channel was closed: by us, never by the peer
└── OpusError          a packet or a call that libopus refuses; the next packet may be fine
    └── OpusUnavailable    no libopus on this machine; a retry does not help
"""

from __future__ import annotations


class UdpAudioError(Exception):
    """Base of every error of this package."""


class ChannelClosed(UdpAudioError):
    """The channel is closed; nothing is sent or received on it any more."""

    def __init__(self, ssrc: int | None = None) -> None:
        """``ssrc``: the channel's, when it has one."""
        super().__init__("the audio channel is closed")
        self.ssrc = ssrc


class OpusError(UdpAudioError):
    """An Opus packet or request was refused. ``code`` is libopus's (negative) error code, or None when libopus was not asked."""

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class OpusUnavailable(OpusError):
    """libopus could not be loaded."""
