"""One voice turn on a virtual clock, with scripted engines and real Opus."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from bridge.codec_pool import CodecPool
from bridge.ear import Utterance
from bridge.history import INTERRUPTED, History
from bridge.phrases import phrases
from bridge.skills import SkillReply
from bridge.turn import START_GUARD_S, Engines, Request, Turn, TurnLimits
from iot.toolbox import ToolBox
from providers.base import Intent, ProviderUnavailable, ToolCall, Transcript
from providers.tools import ToolResult, tool
from settings.model import Audio
from tests.scripted import ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts, tone
from tests.virtual_time import InlineExecutor, run

FRAME_S = 0.06
AUDIO = Audio(lead_frames=4)
BROKEN = ProviderUnavailable("the engine is broken")


@dataclass
class Recorder:
    """A turn's output with the time of each event."""

    events: list[tuple[float, str, str]] = field(default_factory=list)
    reachable: asyncio.Event = field(default_factory=asyncio.Event)
    speaking: bool = False

    def _note(self, what: str, text: str = "") -> None:
        self.events.append((asyncio.get_running_loop().time(), what, text))

    def heard(self, text: str) -> None:
        self._note("stt", text)

    def emotion(self, name: str) -> None:
        self._note("llm", name)

    def speech_starts(self) -> None:
        assert not self.speaking
        self.speaking = True
        self._note("start")

    def sentence(self, text: str) -> None:
        self._note("sentence", text)

    def audio(self, packet: bytes) -> None:
        assert self.speaking
        self._note("audio")

    def speech_stops(self) -> None:
        if self.speaking:
            self.speaking = False
            self._note("stop")

    def alert(self, text: str) -> None:
        self._note("alert", text)

    async def address_known(self) -> None:
        await self.reachable.wait()

    def times(self, what: str) -> list[float]:
        return [when for when, name, _ in self.events if name == what]

    def texts(self, what: str) -> list[str]:
        return [text for _, name, text in self.events if name == what]

    @property
    def order(self) -> list[str]:
        """The events without repetitions."""
        names = [name for _, name, _ in self.events]
        return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


@dataclass
class Stage:
    """Everything a turn needs."""

    asr: ScriptedAsr = field(default_factory=ScriptedAsr)
    llm: ScriptedLlm = field(default_factory=ScriptedLlm)
    tts: ScriptedTts = field(default_factory=ScriptedTts)
    intents: ScriptedIntents = field(default_factory=ScriptedIntents)
    toolbox: ToolBox = field(default_factory=ToolBox)
    history: History = field(default_factory=lambda: History(turns=10))
    skill: SkillReply | None = None
    tools: list[asyncio.Task[ToolResult]] = field(default_factory=list)
    output: Recorder = field(default_factory=Recorder)

    def turn(self, request: Request | None = None) -> Turn:
        self.output.reachable.set()
        utterance = Utterance(speech_end=asyncio.get_running_loop().time())
        utterance.add(tone(1.0))
        return Turn(
            number=1,
            request=request or Request(utterance=utterance),
            output=self.output,
            engines=Engines(asr=self.asr, llm=self.llm, tts=self.tts, intents=self.intents, codec=CodecPool(InlineExecutor(), at_once=2)),
            audio=AUDIO,
            limits=TurnLimits(),
            history=self.history,
            system_prompt=lambda: "You are a test.",
            toolbox=self.toolbox,
            answer_intent=self._answer,
            run_tool=self._run_tool,
            heard_text=lambda text: text,
        )

    async def _answer(self, _intent: Intent) -> SkillReply | None:
        return self.skill

    def _run_tool(self, call: Coroutine[Any, Any, ToolResult]) -> asyncio.Task[ToolResult]:
        task = asyncio.get_running_loop().create_task(call)
        self.tools.append(task)
        return task


def played(stage: Stage, request: Request | None = None) -> Turn:
    """Run a whole turn."""

    async def main() -> Turn:
        turn = stage.turn(request)
        await turn.run()
        return turn

    return run(main())


def test_a_slow_model_is_heard_before_its_first_sentence_ends() -> None:
    words = "The weather in the town will be fine until late in the evening. Then it rains. ".split(" ")
    stage = Stage(llm=ScriptedLlm(answers=[[f"{word} " for word in words]], pace_s=0.1))
    played(stage)
    assert stage.output.texts("sentence") == ["The weather in the town", "will be fine until late in the evening.", "Then it rains."]
    (stt,), first_audio = stage.output.times("stt"), stage.output.times("audio")[0]
    assert first_audio - stt == pytest.approx(0.5, abs=0.06)


def test_check_054_order_of_a_turn() -> None:
    stage = Stage()
    turn = played(stage)
    assert stage.output.order == ["stt", "llm", "start", "sentence", "audio", "sentence", "audio", "stop"]
    assert stage.output.texts("sentence") == ["It works.", "Really."]
    assert turn.outcome == "answered"


def test_check_056_first_audio_comes_100_ms_after_start() -> None:
    stage = Stage()
    played(stage)
    assert stage.output.times("audio")[0] - stage.output.times("start")[0] >= 0.1


def test_start_does_not_wait_for_the_model() -> None:
    """A slow model leaves the device all the time it needs: the guard adds nothing to it."""
    stage = Stage(llm=ScriptedLlm(delay_s=1.0))
    played(stage)
    start, first = stage.output.times("start")[0], stage.output.times("audio")[0]
    assert first - start == pytest.approx(1.0, abs=0.001)
    assert first - start > START_GUARD_S


def test_check_062_never_more_than_the_lead_ahead_and_never_late() -> None:
    stage = Stage(llm=ScriptedLlm([[f"This is sentence number {n} of a long answer. " for n in range(20)]]))
    played(stage)
    times = stage.output.times("audio")
    assert len(times) > 100
    for index, when in enumerate(times):
        plays_at = times[0] + index * FRAME_S
        assert plays_at - when <= AUDIO.lead_frames * FRAME_S + 1e-6
        assert when <= plays_at + 1e-6


def test_check_057_stop_follows_the_end_of_playback() -> None:
    stage = Stage()
    played(stage)
    times = stage.output.times("audio")
    playback_end = times[0] + len(times) * FRAME_S
    assert 0 <= stage.output.times("stop")[0] - playback_end <= 0.3


def test_check_058_text_accompanies_its_audio() -> None:
    stage = Stage(llm=ScriptedLlm([["One two three four five six seven. ", "Eight nine ten."]]))
    played(stage)
    names = [name for _, name, _ in stage.output.events]
    for index, name in enumerate(names):
        if name == "sentence":
            assert names[index + 1] == "audio"
            assert stage.output.events[index + 1][0] == stage.output.events[index][0]


def test_the_next_sentence_is_made_while_one_plays() -> None:
    stage = Stage(
        llm=ScriptedLlm([["This is the first sentence of three. ", "This is the second sentence. ", "This is the third one."]]),
        tts=ScriptedTts(delay_s=0.4, seconds_per_character=0.03),
    )
    played(stage)
    times = stage.output.times("audio")
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= FRAME_S + 1e-6


def test_check_055_nothing_heard_nothing_said() -> None:
    stage = Stage(asr=ScriptedAsr([" ... "]))
    turn = played(stage)
    assert stage.output.events == []
    assert turn.outcome == "nothing heard"
    assert stage.llm.histories == []


@pytest.mark.parametrize("failing", ["asr", "llm", "tts"])
def test_check_090_a_failure_is_told_and_speech_stops_once(failing: str) -> None:
    stage = Stage()
    match failing:
        case "asr":
            stage.asr = ScriptedAsr([BROKEN])
        case "llm":
            stage.llm = ScriptedLlm([[BROKEN]])
        case _:
            stage.tts = ScriptedTts(error=BROKEN)
    turn = played(stage)
    assert len(stage.output.times("start")) == len(stage.output.times("stop")) == 1
    expected = {"asr": phrases("en").did_not_hear, "llm": phrases("en").cannot_think}
    if failing == "tts":
        assert "It works." in stage.output.texts("alert")[0]
    else:
        assert stage.output.texts("sentence") == [expected[failing]]
        assert stage.output.times("audio")
    assert turn.outcome == "failed"
    assert turn.failures == [failing]


@pytest.mark.parametrize("stalling", ["asr", "llm", "tts"])
def test_check_090_a_stall_is_a_failure(stalling: str) -> None:
    stage = Stage()
    getattr(stage, stalling).delay_s = 3600.0
    turn = played(stage)
    assert stalling in turn.failures
    assert len(stage.output.times("start")) == len(stage.output.times("stop")) == 1
    assert stage.output.times("stop")[0] - 1000.0 < 45


def test_check_090_a_recogniser_that_stalls_is_not_waited_for_twice() -> None:
    """The early transcription has used up the time: the user is told after one time-out, not after two."""
    stage = Stage(asr=ScriptedAsr(delay_s=60))

    async def main() -> float:
        async def early() -> Transcript | None:
            await asyncio.sleep(TurnLimits().asr_s)
            return None

        began = asyncio.get_running_loop().time()
        turn = stage.turn()
        turn.request.transcript = asyncio.get_running_loop().create_task(early())
        await turn.run()
        return stage.output.times("start")[0] - began

    assert run(main()) <= TurnLimits().asr_s + 1.5
    assert stage.output.texts("sentence") == [phrases("en").did_not_hear]


def test_a_model_that_breaks_off_keeps_what_it_said() -> None:
    stage = Stage(llm=ScriptedLlm([["The first half is fine. ", "And then", BROKEN]]))
    played(stage)
    assert stage.output.texts("sentence") == ["The first half is fine.", phrases("en").cannot_think]


def test_an_empty_answer_is_not_silence() -> None:
    stage = Stage(llm=ScriptedLlm([[]]))
    played(stage)
    assert stage.output.texts("sentence") == [phrases("en").went_wrong]


def test_check_052_a_cancelled_turn_stops_at_once_and_keeps_what_was_heard() -> None:
    stage = Stage(llm=ScriptedLlm([[f"Sentence number {n} takes its time to be said aloud. " for n in range(10)]]))

    async def main() -> float:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(stage.turn().run())
            await asyncio.sleep(2.5)
            task.cancel()
        return asyncio.get_running_loop().time()

    cancelled_at = run(main())
    assert stage.output.times("stop") == [cancelled_at]
    assert all(when <= cancelled_at for when in stage.output.times("audio"))
    answer = stage.history.messages()[-1]
    assert answer.role == "assistant"
    assert answer.content.endswith(INTERRUPTED)
    assert answer.content.count("Sentence") < len(stage.tts.texts)


def test_check_066_audio_waits_for_the_address() -> None:
    stage = Stage()

    async def main() -> float:
        turn = stage.turn()
        stage.output.reachable.clear()
        loop = asyncio.get_running_loop()
        loop.call_later(2.0, stage.output.reachable.set)
        known_at = loop.time() + 2.0
        await turn.run()
        return known_at

    known_at = run(main())
    assert min(stage.output.times("audio")) >= known_at


def test_an_intent_is_answered_without_the_model() -> None:
    stage = Stage(
        intents=ScriptedIntents(lambda _text: Intent("GetTime", {}, "en")),
        skill=SkillReply("It is noon.", end_session=True, emotion="cool"),
    )
    turn = played(stage)
    assert stage.output.texts("sentence") == ["It is noon."]
    assert "cool" in stage.output.texts("llm")
    assert stage.llm.histories == []
    assert turn.end_session


def test_a_silent_intent_says_nothing() -> None:
    stage = Stage(intents=ScriptedIntents(lambda _text: Intent("Nevermind", {}, "en")), skill=SkillReply("", silent=True))
    turn = played(stage)
    assert stage.output.order == ["stt"]
    assert turn.outcome == "silent"


def test_tools_run_and_the_model_answers() -> None:
    asked: list[int] = []

    @tool
    async def set_volume(volume: int) -> str:
        """Set the volume."""
        asked.append(volume)
        return "the volume is now 30"

    stage = Stage(
        llm=ScriptedLlm([[ToolCall("c1", "set_volume", {"volume": 30})], ["Volume is at thirty."]]), toolbox=ToolBox(local=[set_volume])
    )
    played(stage)
    assert asked == [30]
    assert stage.output.texts("sentence") == ["Volume is at thirty."]
    assert [message.role for message in stage.llm.histories[1]] == ["system", "user", "assistant", "tool"]
    assert stage.llm.histories[1][-1].content == "the volume is now 30"
    assert [message.role for message in stage.history.messages()] == ["user", "assistant", "tool", "assistant"]


def test_slow_tools_are_covered_by_a_filler() -> None:
    @tool
    async def look_it_up() -> str:
        """Look it up."""
        await asyncio.sleep(5)
        return "found"

    stage = Stage(llm=ScriptedLlm([[ToolCall("c1", "look_it_up", {})], ["Here it is."]]), toolbox=ToolBox(local=[look_it_up]))
    played(stage)
    assert stage.output.texts("sentence") == [phrases("en").one_moment, "Here it is."]


def test_a_tool_goes_on_when_the_turn_is_interrupted() -> None:
    done: list[str] = []

    @tool
    async def water_the_plants() -> str:
        """Water the plants."""
        await asyncio.sleep(3)
        done.append("watered")
        return "done"

    stage = Stage(llm=ScriptedLlm([[ToolCall("c1", "water_the_plants", {})]]), toolbox=ToolBox(local=[water_the_plants]))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(stage.turn().run())
            await asyncio.sleep(1)
            task.cancel()
        await asyncio.sleep(5)

    run(main())
    assert done == ["watered"]


def test_a_loop_of_tool_calls_ends() -> None:
    @tool
    async def again() -> str:
        """Call me again."""
        return "again"

    stage = Stage(llm=ScriptedLlm([[ToolCall("c", "again", {})]] * 4 + [["Enough."]]), toolbox=ToolBox(local=[again]))
    played(stage)
    assert stage.output.texts("sentence") == ["Enough."]
    assert stage.llm.offered[-1] == []


def test_an_announcement_is_said_as_it_is() -> None:
    stage = Stage()
    turn = played(stage, Request(say="Your tea is ready."))
    assert stage.output.order == ["llm", "start", "sentence", "audio", "stop"]
    assert stage.output.texts("sentence") == ["Your tea is ready."]
    assert turn.stamps.first_packet
    assert turn.stamps.since_speech_ms() == {}


def test_emoji_become_faces_and_are_not_spoken() -> None:
    stage = Stage(llm=ScriptedLlm([["That is great! 😄 ", "**Really** great."]]))
    played(stage)
    assert "happy" in stage.output.texts("llm")
    assert stage.tts.texts == ["That is great!", "Really great."]


def test_code_is_not_read_aloud_and_what_follows_it_is() -> None:
    stage = Stage(llm=ScriptedLlm([["Here it is:\n``", "`python\nprint('hi'). And", " more.\n\nx = 1\n`", "``\nThat is all."]]))
    played(stage)
    assert stage.tts.texts == ["Here it is:", "That is all."]


def test_check_081_a_local_tool_that_raises_is_told_to_the_model() -> None:
    @tool
    async def fragile() -> str:
        """Breaks."""
        raise KeyError("x")

    stage = Stage(llm=ScriptedLlm([[ToolCall("c1", "fragile", {})], ["That did not work."]]), toolbox=ToolBox(local=[fragile]))
    turn = played(stage)
    assert turn.outcome == "answered"
    assert "fragile has failed" in stage.llm.histories[1][-1].content
    assert stage.output.texts("sentence") == ["That did not work."]
    assert [task.exception() for task in stage.tools] == [None]


def test_an_error_of_ours_ends_the_turn_and_not_more() -> None:
    stage = Stage(intents=ScriptedIntents(lambda _text: 1 / 0))  # type: ignore[arg-type,return-value]
    turn = played(stage)
    assert stage.output.texts("alert") == [phrases("en").went_wrong]
    assert turn.outcome == "failed"


def test_a_model_is_not_asked_in_a_language_that_it_does_not_speak() -> None:
    stage = Stage(llm=ScriptedLlm(languages=frozenset({"zh"})))
    played(stage)
    assert stage.llm.histories == []
    assert stage.output.texts("sentence") == [phrases("en").no_model]


def test_a_model_of_one_language_is_not_shown_the_others() -> None:
    stage = Stage(llm=ScriptedLlm(languages=frozenset({"en"})))
    stage.history.add(user="现在几点", heard=["八点。"], language="zh")
    stage.history.add(user="hello", heard=["Hi."], language="en")
    played(stage)
    assert [message.content for message in stage.llm.histories[0][1:-1]] == ["hello", "Hi."]


def test_a_call_that_cannot_be_read_is_told_to_the_model() -> None:
    call = ToolCall("c1", "set_volume", {}, malformed="{oops")
    stage = Stage(llm=ScriptedLlm([[call], ["Sorry, once more."]]))
    played(stage)
    assert stage.llm.histories[1][-1].content == "The arguments are not a JSON object: {oops"


@pytest.mark.parametrize(("fails", "said"), [(False, phrases("en").done), (True, phrases("en").went_wrong)])
def test_a_model_without_words_for_what_a_tool_did(*, fails: bool, said: str) -> None:
    @tool
    async def switch_on() -> ToolResult:
        """Switch on."""
        return ToolResult("x", is_error=fails)

    stage = Stage(llm=ScriptedLlm([[ToolCall("c1", "switch_on", {})], []]), toolbox=ToolBox(local=[switch_on]))
    played(stage)
    assert stage.output.texts("sentence") == [said]


def test_a_tool_that_wants_silence_gets_it() -> None:
    @tool
    async def switch_off() -> ToolResult:
        """Switch off."""
        return ToolResult("", next="silent")

    stage = Stage(llm=ScriptedLlm([[ToolCall("c1", "switch_off", {})]]), toolbox=ToolBox(local=[switch_off]))
    turn = played(stage)
    assert stage.output.texts("sentence") == []
    assert len(stage.output.times("start")) == len(stage.output.times("stop")) == 1
    assert turn.outcome == "silent"
