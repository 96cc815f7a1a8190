"""The microphone's clock and who speaks into it."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pytest

from bridge.device.codec import Pcm
from bridge.device.errors import SpeechError
from bridge.device.microphone import Microphone, SoundcardSource
from bridge.device.speech import Speech, silence

SPEECH = Speech(tuple(bytes([number]) * 3 for number in range(10)), 20, 0.0, 0.15)


async def until(sent: list[bytes], count: int) -> None:
    async with asyncio.timeout(5):
        while len(sent) < count:
            await asyncio.sleep(0.002)


async def test_silence_surrounds_speech() -> None:
    sent: list[bytes] = []
    microphone = Microphone(frame_ms=20, transmit=sent.append, warm_up_s=0)
    async with asyncio.TaskGroup() as tasks:
        clock = tasks.create_task(microphone.run())
        microphone.switch_on()
        await until(sent, 3)
        said = await microphone.say(SPEECH)
        await until(sent, len(sent) + 3)
        clock.cancel()
    first = sent.index(SPEECH.frames[0])
    assert first >= 3
    assert tuple(sent[first : first + 10]) == SPEECH.frames
    assert set(sent[first + 10 :]) <= set(silence(20))
    assert said.unheard_frames == 0
    assert said.speech_end_s == pytest.approx(said.started_s + 0.13)
    assert said.finished_s - said.started_s > 0.1


async def test_who_speaks_while_the_microphone_goes_off_is_not_heard() -> None:
    sent: list[bytes] = []
    microphone = Microphone(frame_ms=20, transmit=sent.append, warm_up_s=0)
    async with asyncio.TaskGroup() as tasks:
        clock = tasks.create_task(microphone.run())
        speaking = tasks.create_task(microphone.say(SPEECH))
        await asyncio.sleep(0.05)
        assert not sent, "nobody speaks to a device that does not listen"
        microphone.switch_on()
        await until(sent, 4)
        with pytest.raises(SpeechError, match="already"):
            await microphone.say(SPEECH)
        microphone.switch_off()
        said = await speaking
        clock.cancel()
    assert 0 < len(sent) < 10
    assert said.unheard_frames == 10 - len(sent)


async def test_not_in_real_time_speech_goes_out_at_once() -> None:
    sent: list[bytes] = []
    long = Speech(SPEECH.frames * 500, 20, 0.0, 100.0)
    microphone = Microphone(frame_ms=20, transmit=sent.append, realtime=False, warm_up_s=0)
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(20):
        clock = tasks.create_task(microphone.run())
        microphone.switch_on()
        said = await microphone.say(long)
        clock.cancel()
    assert [frame for frame in sent if len(frame) == 3 and frame in SPEECH.frames][-5000:] == list(long.frames)
    assert said.speech_end_s == said.finished_s


class Source:
    """A live microphone that has three frames and then none."""

    def __init__(self) -> None:
        self.frames = [np.full(320, 3000, dtype=np.int16)] * 3
        self.closed = False

    def read(self) -> Pcm | None:
        return self.frames.pop() if self.frames else None

    def close(self) -> None:
        self.closed = True


async def test_a_live_source_is_encoded() -> None:
    sent: list[bytes] = []
    source = Source()
    microphone = Microphone(frame_ms=20, transmit=sent.append, live=source, warm_up_s=0)
    async with asyncio.TaskGroup() as tasks:
        clock = tasks.create_task(microphone.run())
        microphone.switch_on()
        await until(sent, 3)
        await asyncio.sleep(0.05)
        clock.cancel()
    microphone.close()
    assert len(sent) == 3
    assert source.closed


def test_without_sounddevice_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SpeechError, match="pip install sounddevice"):
        SoundcardSource(frame_ms=60)
