"""Counters of the WebSocket transport, over all devices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class WebSocketStats:
    connections_open: int = 0
    connections_opened: int = 0
    unauthorised: int = 0
    connections_limited: int = 0
    """Refused because too many came from the address, or from the device, or wrong tokens did."""
    connections_refused_full: int = 0
    throttled: int = 0
    """Times that a device was made to wait because it sent too much."""
    hello_timeouts: int = 0
    slow_readers: int = 0
    oversize: int = 0
    """Connections that ended because of a message over 64 KB."""
    messages_in: int = 0
    messages_out: int = 0
    bad_messages: int = 0
    unsendable_messages: int = 0
    audio_in: int = 0
    audio_out: int = 0
    audio_discarded: int = 0
    """Packets taken back when the answer was interrupted."""
    bad_frames: int = 0
    """Binary messages that are not of the announced version."""
    implausible: int = 0
    """Packets that are not Opus as announced."""
    early_audio: int = 0
    """Packets before hello."""
    queue_dropped: int = 0
