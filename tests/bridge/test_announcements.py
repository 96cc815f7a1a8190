"""When a session speaks by itself, and how that gets along with a device in auto mode, which says `listen start` after each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mqtt_control.messages import Outbound, TtsSentenceStart, TtsStart, TtsStop
from tests.bridge.house import House, Inhabitant, house, settle
from tests.scripted import ScriptedTts
from tests.virtual_time import run


class Diary:
    """What was sent to the device, and when."""

    def __init__(self, home: House) -> None:
        self.entries: list[tuple[float, Outbound]] = []
        self.on_stop: Callable[[], object] = lambda: None
        home.on_sent = self._note

    def _note(self, _device_id: str, message: Outbound) -> None:
        self.entries.append((asyncio.get_running_loop().time(), message))
        if isinstance(message, TtsStop):
            self.on_stop()

    def times(self, kind: type[Outbound]) -> list[float]:
        return [when for when, message in self.entries if isinstance(message, kind)]

    @property
    def texts(self) -> list[str]:
        return [message.text for _, message in self.entries if isinstance(message, TtsSentenceStart)]


def told(scenario: Callable[[Inhabitant, Diary], Awaitable[None]], *, mode: str = "auto") -> Diary:
    """What a device, whose speaker takes a second for each announcement, is told in this scenario."""

    async def main() -> Diary:
        async with house(tts=ScriptedTts(seconds_per_character=0.25)) as home:
            device = Inhabitant(home)
            device.connect()
            device.hello()
            await settle()
            device.listen(mode=mode)
            for _ in range(4):
                device.audio()
            diary = Diary(home)
            await scenario(device, diary)
            return diary

    return run(main())


async def two_at_once(device: Inhabitant, _diary: Diary) -> None:
    device.session.announce("One.")
    device.session.announce("Two.")
    await asyncio.sleep(10)


def test_check_046_a_listen_start_under_way_does_not_cut_off_an_announcement() -> None:
    """The device takes 80 ms to say that it listens again: an announcement begun in between would be cancelled by that."""

    async def scenario(device: Inhabitant, diary: Diary) -> None:
        diary.on_stop = lambda: asyncio.get_running_loop().call_later(0.08, device.listen)
        await two_at_once(device, diary)

    diary = told(scenario)
    assert diary.texts == ["One.", "Two."]
    starts, stops = diary.times(TtsStart), diary.times(TtsStop)
    assert len(starts) == len(stops) == 2
    assert 0.05 < starts[1] - stops[0] < 0.2
    assert stops[1] - starts[1] > 1.0


def test_a_device_that_never_listens_again_still_gets_it() -> None:
    diary = told(two_at_once)
    assert diary.texts == ["One.", "Two."]
    assert 0.9 < diary.times(TtsStart)[1] - diary.times(TtsStop)[0] < 1.2


def test_one_that_comes_just_after_an_answer_waits_as_well() -> None:
    async def scenario(device: Inhabitant, diary: Diary) -> None:
        loop = asyncio.get_running_loop()

        def stopped() -> None:
            diary.on_stop = lambda: None
            loop.call_later(0.02, device.session.announce, "Two.")
            loop.call_later(0.08, device.listen)

        diary.on_stop = stopped
        device.session.announce("One.")
        await asyncio.sleep(10)

    diary = told(scenario)
    assert diary.texts == ["One.", "Two."]
    starts, stops = diary.times(TtsStart), diary.times(TtsStop)
    assert len(starts) == len(stops) == 2
    assert stops[1] - starts[1] > 1.0


def test_nobody_waits_for_a_device_that_has_not_to_say_anything() -> None:
    """In realtime and manual mode no `listen start` follows an answer."""
    for mode in ("realtime", "manual"):
        diary = told(two_at_once, mode=mode)
        assert diary.texts == ["One.", "Two."], mode
        assert diary.times(TtsStart)[1] - diary.times(TtsStop)[0] < 0.05, mode
