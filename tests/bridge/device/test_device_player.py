"""The decode queue and its clock, with a loop whose time the test moves."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from bridge.device.codec import Decoder, Encoder, OpusError, packet_ms
from bridge.device.hello import AudioFormat
from bridge.device.player import Player


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when, self.call, self.cancelled = when, call, False

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """As much of an event loop as the player uses."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        timer = Timer(when, call)
        heapq.heappush(self.timers, timer)
        return timer

    def run_until(self, when: float) -> None:
        while self.timers and self.timers[0].when <= when:
            timer = heapq.heappop(self.timers)
            self.now = max(self.now, timer.when)
            if not timer.cancelled:
                timer.call()
        self.now = when


FRAME = Encoder(60).encode((np.sin(np.arange(960) / 5) * 9000).astype(np.int16))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def player(clock: Clock, **members: Any) -> Player:
    return Player(loop=cast("asyncio.AbstractEventLoop", clock), **({"queue_packets": 40} | members))


def feed(speaker: Player, count: int, *, accept: bool = True) -> None:
    for _ in range(count):
        speaker.receive(FRAME, timestamp=0, accept=accept)


def test_a_full_queue_drops_the_new_packet(clock: Clock) -> None:
    speaker = player(clock)
    feed(speaker, 50)
    # one playing, two decoded, forty waiting
    assert speaker.stats.dropped == {"queue_full": 7}
    assert speaker.stats.max_depth == speaker.depth == 42
    clock.run_until(clock.now + 43 * 0.06 + 0.001)
    assert speaker.drained
    assert speaker.stats.played == 43
    assert len(speaker.take_heard()) == 43 * 1440
    assert len(speaker.take_heard()) == 0


def test_underrun_is_a_gap_followed_by_more_audio(clock: Clock) -> None:
    speaker = player(clock)
    start = clock.now
    speaker.begin_utterance()
    feed(speaker, 2)
    clock.run_until(start + 0.12 + 0.05)
    feed(speaker, 1)  # 50 ms late: the output buffer bridged it
    assert speaker.stats.underruns == 0
    clock.run_until(start + 0.18 + 0.3)
    feed(speaker, 1)  # 300 ms late
    assert speaker.stats.underruns == 1
    assert speaker.stats.underrun_s == pytest.approx(0.24)
    clock.run_until(clock.now + 1)
    speaker.end_utterance()
    assert speaker.stats.underruns == 1, "silence before tts stop is no gap"
    assert len(speaker.take_heard()) == pytest.approx(4 * 1440 + 0.3 * 24000, abs=2)


def test_the_clock_is_absolute(clock: Clock) -> None:
    speaker = player(clock)
    start = clock.now
    feed(speaker, 10)
    clock.now = start + 0.25  # a stalled loop: timers are late
    feed(speaker, 1)
    assert speaker.stats.played == 5
    clock.run_until(start + 11 * 0.06 + 0.001)
    assert speaker.drained
    assert speaker.playback_end_s == pytest.approx(start + 0.66)


def test_reasons(clock: Clock) -> None:
    speaker = player(clock)
    speaker.receive(FRAME, timestamp=0, accept=False)
    speaker.receive(b"", timestamp=0, accept=True)
    speaker.receive(b"\x1b\x00", timestamp=0, accept=True)  # code 3 with no frames
    speaker.set_format(AudioFormat(24000, 20))
    feed(speaker, 1)
    speaker.set_format(AudioFormat(44100, 60))
    feed(speaker, 1)
    speaker.set_format(AudioFormat())
    speaker.receive(b"\x1b\xff\xff", timestamp=0, accept=True)  # 63 frames of 60 ms
    speaker.receive(b"\xff\x41", timestamp=0, accept=True)  # the padding that is announced is missing
    assert speaker.stats.dropped == {"state": 1, "undecodable": 4, "too_long": 1, "format": 1}
    assert speaker.stats.played == 0
    assert speaker.drained


def test_clear(clock: Clock) -> None:
    drained: list[int] = []
    speaker = player(clock, on_drained=lambda: drained.append(1))
    feed(speaker, 5)
    speaker.clear("truncated")
    assert speaker.stats.dropped == {"truncated": 4}
    assert speaker.drained
    clock.run_until(clock.now + 1)
    assert not drained
    feed(speaker, 1)
    clock.run_until(clock.now + 1)
    assert drained == [1]


def test_timestamps_of_played_frames_are_kept_three_deep(clock: Clock) -> None:
    speaker = player(clock)
    for number in range(1, 6):
        speaker.receive(FRAME, timestamp=number * 60, accept=True)
    clock.run_until(clock.now + 1)
    assert list(speaker.played_timestamps) == [180, 240, 300]


def test_without_decoding_only_time_passes(clock: Clock) -> None:
    speaker = player(clock, decode=False)
    feed(speaker, 3)
    clock.run_until(clock.now + 1)
    assert speaker.stats.played == 3
    assert len(speaker.take_heard()) == 0


def test_the_recording_is_bounded(clock: Clock) -> None:
    speaker = player(clock, max_heard_s=0.1)
    feed(speaker, 10)
    clock.run_until(clock.now + 1)
    assert len(speaker.take_heard()) == 2 * 1440


@pytest.mark.parametrize(
    ("packet", "duration_ms"),
    [
        # RFC 6716 table 2 and section 3.2, by hand: configuration << 3 | code
        (b"\x00", 10),
        (b"\x18", 60),
        (b"\x19", 120),
        (bytes([12 << 3]), 10),
        (bytes([15 << 3 | 1]), 40),
        (bytes([16 << 3]), 2.5),
        (bytes([31 << 3 | 3, 6]), 120),
        (bytes([31 << 3 | 3, 7]), None),
        (bytes([31 << 3 | 3]), None),
        (b"", None),
    ],
)
def test_packet_duration(packet: bytes, duration_ms: float | None) -> None:
    assert packet_ms(packet) == duration_ms


def test_decoder_refuses_what_is_not_opus() -> None:
    with pytest.raises(OpusError):
        Decoder().decode(b"\xff\x41")
    with pytest.raises(ValueError, match="960 samples"):
        Encoder(60).encode(np.zeros(100, dtype=np.int16))
