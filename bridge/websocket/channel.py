"""The audio of one session on a WebSocket: packets in order, none lost, no address to learn and no key of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bridge.websocket.framing import AudioFrame, FrameVersion, encode
from bridge.websocket.stats import WebSocketStats
from udp_audio.channel import MAX_QUEUED_FRAMES, UplinkFrame
from udp_audio.errors import ChannelClosed
from udp_audio.opus import plausible


class WebSocketChannel:
    """Implements :class:`bridge.transport.AudioLink`."""

    def __init__(
        self,
        *,
        version: FrameVersion,
        frame_ms: int,
        stats: WebSocketStats,
        transmit: Callable[[bytes], bool],
        discard: Callable[[], int],
        on_close: Callable[[], None],
    ) -> None:
        """``transmit`` queues a binary message, ``discard`` takes queued ones back; ``on_close`` is called once."""
        self.closed = False
        self.last_received_at: float | None = None
        """Event loop time of the last packet."""
        self._version = version
        self._frame_ms = frame_ms
        self._stats = stats
        self._transmit = transmit
        self._discard = discard
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._frames: deque[UplinkFrame] = deque()
        self._sequence = 0
        self._readable = asyncio.Event()

    @property
    def unbelieved(self) -> int:
        """None: whoever holds the connection is the device."""
        return 0

    async def receive(self) -> list[UplinkFrame]:
        """See :class:`bridge.transport.AudioLink`."""
        while not self._frames:
            if self.closed:
                raise ChannelClosed
            self._readable.clear()
            await self._readable.wait()
        frames = list(self._frames)
        self._frames.clear()
        return frames

    async def reachable(self) -> None:
        """At once: the connection is there. Raises ChannelClosed once it is not."""
        if self.closed:
            raise ChannelClosed

    def send(self, opus: bytes, *, timestamp_ms: int = 0) -> None:
        """See :class:`bridge.transport.AudioLink`. A device that does not read fast enough is disconnected: the link closes."""
        if self.closed:
            raise ChannelClosed
        if self._transmit(encode(opus, version=self._version, timestamp_ms=timestamp_ms)):
            self._stats.audio_out += 1

    def discard_unsent(self) -> None:
        """Forgets the packets that the connection has not taken yet."""
        self._stats.audio_discarded += self._discard()

    def close(self) -> None:
        """Ends the link, and with it the connection, unless that has a newer session. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._frames.clear()
        self._readable.set()
        self._on_close()

    def feed(self, frame: AudioFrame) -> None:
        """A packet from the device; anything may be in it. At most 50 wait for the reader, then the oldest goes."""
        if self.closed:
            return
        if not plausible(frame.opus, frame_ms=self._frame_ms):
            self._stats.implausible += 1
            return
        self._stats.audio_in += 1
        self.last_received_at = self._loop.time()
        self._sequence += 1
        if len(self._frames) >= MAX_QUEUED_FRAMES:
            self._frames.popleft()
            self._stats.queue_dropped += 1
        self._frames.append(UplinkFrame(frame.opus, self._sequence, frame.timestamp_ms, lost=False, received_at=self.last_received_at))
        self._readable.set()
