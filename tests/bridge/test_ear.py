from __future__ import annotations

import asyncio
from typing import cast

import numpy as np
import pytest

from bridge.dialogue import Mode
from bridge.ear import SILENT_LINK_S, Ear, Utterance
from bridge.transport import AudioLink
from settings.providers import SileroVad
from tests.scripted import EnergyVad, tone
from tests.virtual_time import run
from udp_audio.channel import UplinkFrame
from udp_audio.opus import OpusEncoder

FRAME_S = 0.06
OPTIONS = SileroVad()
PATIENCE_S = OPTIONS.silence_ms / 1000 + SILENT_LINK_S


class Link:
    """Frames come when they are put in."""

    def __init__(self) -> None:
        self._encoder = OpusEncoder(sample_rate_hz=16000, frame_ms=60)
        self._frames: asyncio.Queue[UplinkFrame] = asyncio.Queue()
        self._sequence = 0

    async def receive(self) -> list[UplinkFrame]:
        frames = [await self._frames.get()]
        while not self._frames.empty():
            frames.append(self._frames.get_nowait())
        return frames

    def hear(self, *, loud: bool) -> None:
        self._sequence += 1
        samples = tone(FRAME_S) if loud else np.zeros(960, np.int16)
        opus = self._encoder.encode(samples)
        now = asyncio.get_running_loop().time()
        self._frames.put_nowait(UplinkFrame(opus=opus, sequence=self._sequence, timestamp_ms=0, lost=False, received_at=now))


class Listener:
    """Notes when utterances are over."""

    def __init__(self) -> None:
        self.finished: list[tuple[float, float]] = []
        """Loop time, and seconds of audio."""

    def speech_started(self) -> None: ...

    def speech_paused(self, so_far: Utterance) -> None: ...

    def speech_resumed(self) -> None: ...

    def may_end(self) -> bool:
        return True

    def utterance_finished(self, utterance: Utterance) -> None:
        self.finished.append((asyncio.get_running_loop().time(), utterance.duration_s))

    def barged_in(self) -> None: ...


async def hear(mode: Mode, heard: list[bool | float]) -> tuple[Listener, float]:
    """Frames at their pace, loud or not, and pauses of the link in seconds; then a long wait. When the last frame came."""
    link, listener, loop = Link(), Listener(), asyncio.get_running_loop()
    ear = Ear(cast("AudioLink", link), EnergyVad().open(), options=OPTIONS, frame_ms=60, max_utterance_s=30, listener=listener)
    ear.open(mode)
    last = 0.0
    async with asyncio.TaskGroup() as group:
        running = group.create_task(ear.run())
        for one in heard:
            if isinstance(one, bool):
                link.hear(loud=one)
                last = loop.time()
                await asyncio.sleep(FRAME_S)
            else:
                await asyncio.sleep(one)
        await asyncio.sleep(5)
        running.cancel()
    return listener, last


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.REALTIME])
def test_in_speech_a_silent_link_ends_the_utterance(mode: Mode) -> None:
    listener, last = run(hear(mode, [True] * 20))
    assert [pytest.approx((last + PATIENCE_S, 20 * FRAME_S), abs=0.07)] == listener.finished


def test_a_link_that_comes_back_in_time_goes_on() -> None:
    listener, last = run(hear(Mode.AUTO, [*([True] * 20), PATIENCE_S - 0.15, *([True] * 20)]))
    assert [pytest.approx((last + PATIENCE_S, 40 * FRAME_S), abs=0.07)] == listener.finished


def test_each_utterance_is_watched() -> None:
    words: list[bool | float] = [*([True] * 20), *([False] * 20)]
    listener, last = run(hear(Mode.REALTIME, [*words, *([True] * 20)]))
    assert len(listener.finished) == 2
    assert listener.finished[1][0] == pytest.approx(last + PATIENCE_S, abs=0.07)


def test_push_to_talk_waits_for_the_button() -> None:
    listener, _ = run(hear(Mode.MANUAL, [True] * 20))
    assert listener.finished == []


def test_an_ear_that_ends_leaves_no_timer() -> None:
    async def end_in_speech() -> Listener:
        link, listener = Link(), Listener()
        ear = Ear(cast("AudioLink", link), EnergyVad().open(), options=OPTIONS, frame_ms=60, max_utterance_s=30, listener=listener)
        ear.open(Mode.AUTO)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ear.run())
            for _ in range(20):
                link.hear(loud=True)
                await asyncio.sleep(FRAME_S)
            assert ear.in_speech
            running.cancel()
        await asyncio.sleep(5)
        return listener

    assert run(end_in_speech()).finished == []
