"""The audio link of a WebSocket session."""

from __future__ import annotations

import asyncio

import pytest

from bridge.transport import AudioLink
from bridge.websocket.channel import WebSocketChannel
from bridge.websocket.framing import AudioFrame
from bridge.websocket.stats import WebSocketStats
from udp_audio.channel import MAX_QUEUED_FRAMES
from udp_audio.errors import ChannelClosed

SPEECH = bytes.fromhex("58aabbcc")  # RFC 6716 §3.1: configuration 11 (SILK wideband, 60 ms), mono, one frame
SPEECH_20_MS = bytes.fromhex("48aabbcc")  # configuration 9 (SILK wideband, 20 ms)
STEREO = bytes.fromhex("5caabbcc")


class Wire:
    """The connection of a channel."""

    def __init__(self, *, takes: bool = True) -> None:
        self.sent: list[bytes] = []
        self.closed = 0
        self.takes = takes
        self.stats = WebSocketStats()
        self.channel = WebSocketChannel(
            version=3, frame_ms=60, stats=self.stats, transmit=self._transmit, discard=self._discard, on_close=self._close
        )

    def _transmit(self, message: bytes) -> bool:
        self.sent.append(message)
        return self.takes

    def _discard(self) -> int:
        count = len(self.sent)
        self.sent.clear()
        return count

    def _close(self) -> None:
        self.closed += 1


async def test_packets_both_ways() -> None:
    wire = Wire()
    link: AudioLink = wire.channel
    await link.reachable()
    link.send(SPEECH, timestamp_ms=60)
    assert wire.sent == [b"\x00\x00\x00\x04" + SPEECH]
    for number in range(3):
        wire.channel.feed(AudioFrame(SPEECH, number))
    frames = await link.receive()
    assert [(frame.opus, frame.sequence, frame.timestamp_ms, frame.lost) for frame in frames] == [
        (SPEECH, 1, 0, False),
        (SPEECH, 2, 1, False),
        (SPEECH, 3, 2, False),
    ]


async def test_the_oldest_go_when_nobody_reads() -> None:
    wire = Wire()
    for number in range(MAX_QUEUED_FRAMES + 7):
        wire.channel.feed(AudioFrame(SPEECH, number))
    frames = await wire.channel.receive()
    assert len(frames) == MAX_QUEUED_FRAMES
    assert frames[0].sequence == 8
    assert wire.stats.queue_dropped == 7


@pytest.mark.parametrize("opus", [SPEECH_20_MS, STEREO, b"\xff", b"\x5b\x00"])
async def test_what_is_no_opus_as_announced_is_dropped(opus: bytes) -> None:
    wire = Wire()
    wire.channel.feed(AudioFrame(opus))
    assert (wire.stats.implausible, wire.stats.audio_in) == (1, 0)


async def test_discarding() -> None:
    wire = Wire()
    wire.channel.send(SPEECH)
    wire.channel.send(SPEECH)
    wire.channel.discard_unsent()
    assert (wire.sent, wire.stats.audio_discarded) == ([], 2)


async def test_a_packet_that_was_not_taken_is_not_counted() -> None:
    wire = Wire(takes=False)
    wire.channel.send(SPEECH)
    assert wire.stats.audio_out == 0


async def test_the_end() -> None:
    wire = Wire()
    asyncio.get_running_loop().call_soon(wire.channel.close)
    with pytest.raises(ChannelClosed):
        await wire.channel.receive()
    wire.channel.close()
    assert wire.closed == 1
    wire.channel.feed(AudioFrame(SPEECH))
    for use in (wire.channel.receive(), wire.channel.reachable()):
        with pytest.raises(ChannelClosed):
            await use
    with pytest.raises(ChannelClosed):
        wire.channel.send(SPEECH)
