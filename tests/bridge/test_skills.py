"""Answers without a model: real tool boxes, a scripted device, both languages."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest

from bridge.skills import SkillReply, Skills, Timers
from bridge.skills.answers import decimal_text
from bridge.skills.phrases import phrases_for
from iot.toolbox import ToolBox
from providers.base import Intent
from providers.intent.hassil import HassilRecognizer
from tests.iot.scripted_device import ScriptedDevice, tool
from tests.iot.test_toolbox import OldDevice

MOMENT = datetime(2026, 11, 22, 15, 4, tzinfo=UTC)  # a Sunday
SKILLS = Skills(assistant_name="Robi", timezone="UTC")


class StillTimers(Timers):
    """Time stands still, so that a slow machine changes no answer."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        super().__init__(announce)
        self.moment_s = asyncio.get_running_loop().time()

    def _now_s(self) -> float:
        return self.moment_s


@dataclass
class Context:
    toolbox: ToolBox = field(default_factory=ToolBox)
    said: list[str] = field(default_factory=list)
    language: str = "en"
    timers: Timers = field(init=False)

    def __post_init__(self) -> None:
        self.timers = StillTimers(self.said.append)

    def now(self) -> datetime:
        return MOMENT


async def ask(context: Context, name: str, language: str = "en", /, **slots: Any) -> SkillReply:
    reply = await SKILLS.answer(Intent(name, slots, language), context)
    assert reply is not None
    return reply


async def say(context: Context, name: str, language: str = "en", /, **slots: Any) -> str:
    return (await ask(context, name, language, **slots)).text


@pytest.fixture
def device() -> ScriptedDevice:
    return ScriptedDevice()


@pytest.fixture
async def context(device: ScriptedDevice) -> Context:
    await device.mcp.initialize()
    return Context(ToolBox(mcp=device.mcp))


@pytest.fixture
async def bare() -> Context:
    """A device without any tool."""
    return Context()


# -- time --------------------------------------------------------------------------------------------------------------
async def test_time_and_date(bare: Context) -> None:
    assert await say(bare, "GetTime") == "It's 3:04 PM."
    assert await say(bare, "GetTime", "zh-CN") == "现在是下午3点零4分。"
    assert await say(bare, "GetDate", offset_days=0) == "Today is Sunday, November 22, 2026."
    assert await say(bare, "GetDate", offset_days=1) == "Tomorrow is Monday, November 23, 2026."
    assert await say(bare, "GetDate", "zh-CN") == "今天是2026年11月22日，星期日。"
    assert await say(bare, "GetDate", "zh-CN", offset_days=-1) == "昨天是2026年11月21日，星期六。"
    assert await say(bare, "GetDate", part="year") == "It's 2026."
    assert await say(bare, "GetDate", part="month") == "It's November."
    assert await say(bare, "GetDate", "zh-CN", part="year") == "今年是2026年。"
    assert await say(bare, "GetDate", "zh-CN", part="month") == "现在是11月。"


async def test_the_time_zone_counts(bare: Context) -> None:
    shanghai = Skills(assistant_name="Robi", timezone="Asia/Shanghai")
    reply = await shanghai.answer(Intent("GetTime", {}, "en"), bare)
    assert reply == SkillReply("It's 11:04 PM.")
    assert (await Skills(assistant_name="Robi").answer(Intent("GetTime", {}, "en"), bare)) is not None


@pytest.mark.parametrize(
    ("hour", "minute", "english", "chinese"),
    [
        (0, 0, "It's 12:00 AM.", "现在是凌晨0点整。"),
        (9, 30, "It's 9:30 AM.", "现在是上午9点30分。"),
        (12, 5, "It's 12:05 PM.", "现在是中午12点零5分。"),
        (23, 59, "It's 11:59 PM.", "现在是晚上11点59分。"),
    ],
)
def test_times_of_day(hour: int, minute: int, english: str, chinese: str) -> None:
    moment = MOMENT.replace(hour=hour, minute=minute)
    assert (phrases_for("en").time(moment), phrases_for("zh").time(moment)) == (english, chinese)


# -- volume, screen, status --------------------------------------------------------------------------------------------
async def test_volume(device: ScriptedDevice, context: Context) -> None:
    assert await say(context, "SetVolume", percent=30) == "Volume is at 30."
    assert await say(context, "GetVolume") == "Volume is at 70."
    assert await say(context, "ChangeVolume", direction="up") == "Volume is at 80."
    assert await say(context, "ChangeVolume", "zh-CN", direction="down", step=30) == "音量现在是40。"
    assert await say(context, "ChangeVolume", direction="up", step=90) == "Volume is at 100."
    device.answers["self.get_device_status"] = '{"audio_speaker":{"volume":100}}'
    assert await say(context, "ChangeVolume", direction="up") == "Volume is already at 100."
    sent = [call["arguments"] for call in device.calls() if call["name"].endswith("set_volume")]
    assert sent == [{"volume": 30}, {"volume": 80}, {"volume": 40}, {"volume": 100}]


async def test_mute_is_silent_and_unmute_brings_back_what_was(device: ScriptedDevice, context: Context) -> None:
    assert await ask(context, "Mute") == SkillReply("Muted.", silent=True)
    device.answers["self.get_device_status"] = '{"audio_speaker":{"volume":0}}'
    await ask(context, "Mute")  # twice: still 70
    assert await say(context, "Unmute") == "Volume is at 70."
    sent = [call["arguments"] for call in device.calls() if call["name"].endswith("set_volume")]
    assert sent == [{"volume": 0}, {"volume": 0}, {"volume": 70}]


async def test_screen(device: ScriptedDevice, context: Context) -> None:
    assert await say(context, "SetBrightness", percent=200) == "Screen brightness is at 100."
    assert await say(context, "ChangeBrightness", direction="down") == "Screen brightness is at 70."
    assert await say(context, "GetBrightness", "zh-CN") == "屏幕亮度现在是80。"
    assert await say(context, "SetTheme", theme="dark") == "The screen is dark now."
    assert await say(context, "SetTheme", "zh-CN", theme="light") == "屏幕已换成浅色主题。"
    assert device.calls()[-1]["arguments"] == {"theme": "light"}


async def test_battery_and_status(device: ScriptedDevice, context: Context) -> None:
    assert await say(context, "GetBattery") == "The battery is at 55 percent."
    assert await say(context, "GetBattery", "zh-CN") == "电量还有百分之55。"
    assert await say(context, "GetStatus") == "All is well: volume 70, screen brightness 80 and battery 55 percent."
    device.answers["self.get_device_status"] = '{"battery":{"level":5,"charging":true},"network":{"type":"wifi"}}'
    assert await say(context, "GetBattery") == "The battery is at 5 percent and charging."
    assert await say(context, "GetStatus", "zh-CN") == "一切正常：电量百分之5，网络是wifi。"
    device.answers["self.get_device_status"] = '{"battery":3}'
    assert await say(context, "GetBattery") == "Sorry, this device doesn't tell me its battery."
    assert await say(context, "GetStatus") == "I'm connected, and all is well."


LACKING = [
    ("SetVolume", {"percent": 30}),
    ("ChangeVolume", {"direction": "up"}),
    ("Mute", {}),
    ("Unmute", {}),
    ("SetBrightness", {"percent": 30}),
    ("ChangeBrightness", {"direction": "up"}),
    ("SetTheme", {"theme": "dark"}),
    ("GetBattery", {}),
    ("GetStatus", {}),
]


@pytest.mark.parametrize(("name", "slots"), LACKING)
async def test_a_device_without_the_tool_is_told_of(bare: Context, name: str, slots: dict[str, Any]) -> None:
    for language, sorry in (("en", "Sorry"), ("zh-CN", "抱歉")):
        reply = await ask(bare, name, language, **slots)
        assert reply.text.startswith(sorry)
        assert not reply.silent


async def test_a_device_that_does_not_do_it_is_told_of(device: ScriptedDevice, context: Context) -> None:
    device.answers["self.audio_speaker.set_volume"] = {"error": {"message": "no codec"}}
    assert await say(context, "SetVolume", percent=30) == "Sorry, I could not change the volume: the device did not do it."
    reply = await ask(context, "Mute", "zh-CN")
    assert (reply.text, reply.silent) == ("抱歉，没能调好音量，设备没有执行。", False)
    device.online = False
    assert "number from 0 to 100" in await say(context, "ChangeVolume", direction="up")
    assert "0到100" in await say(context, "GetVolume", "zh-CN")


async def test_check_086_skills_work_on_legacy_things() -> None:
    old = OldDevice()
    context = Context(old.toolbox)
    assert "number from 0 to 100" in await say(context, "ChangeVolume", direction="up")
    old.things.feed_states([{"name": "Speaker", "state": {"volume": 40}}, {"name": "Battery", "state": {"level": 9, "charging": True}}])
    assert await say(context, "ChangeVolume", direction="up") == "Volume is at 50."
    assert await say(context, "GetBattery") == "The battery is at 9 percent and charging."
    assert await say(context, "GetStatus") == "All is well: volume 40 and battery 9 percent."
    assert old.commands == [{"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 50}}]


# -- timers ------------------------------------------------------------------------------------------------------------
async def test_timers(bare: Context) -> None:
    for name in ("CancelTimer", "CancelAllTimers", "TimerStatus"):
        assert await say(bare, name) == "There is no timer running."
    assert await say(bare, "ExtendTimer", seconds=60) == "There is no timer running."
    assert "For how long?" in await say(bare, "StartTimer")
    assert await say(bare, "StartTimer", seconds=300) == "Timer set for 5 minutes."
    assert await say(bare, "TimerStatus") == "5 minutes left."
    assert await say(bare, "StartTimer", seconds=5415, name="pizza") == "Pizza timer set for 1 hour, 30 minutes and 15 seconds."
    assert await say(bare, "Remind", seconds=7200, reminder="call mom") == "I'll remind you in 2 hours: call mom."
    told = "5 minutes left on the timer for 5 minutes, 1 hour, 30 minutes and 15 seconds left on the pizza timer"
    assert await say(bare, "TimerStatus") == f"{told} and 2 hours left on the reminder call mom."
    assert await say(bare, "CancelTimer") == "Which one? There are the timer for 5 minutes, the pizza timer and the reminder call mom."
    assert await say(bare, "CancelTimer", name="tea") == "I can't find that timer."
    assert await say(bare, "TimerStatus", name="tea") == "I can't find that timer."
    assert await say(bare, "ExtendTimer", name="pizza", seconds=-15) == "Done: 1 hour and 30 minutes left on the pizza timer."
    assert await say(bare, "CancelTimer", seconds=300) == "I cancelled the timer for 5 minutes."
    assert await say(bare, "CancelTimer", name="the pizza") == "I cancelled the pizza timer."
    assert await say(bare, "CancelAllTimers") == "I cancelled the timer."
    assert [timer.announcement for timer in bare.timers.pending()] == []


async def test_timers_in_chinese(bare: Context) -> None:
    assert await say(bare, "StartTimer", "zh-CN", seconds=90) == "好的，1分30秒的计时器开始了。"
    assert await say(bare, "Remind", "zh-CN", seconds=3660, reminder="关火") == "好的，1小时1分钟后提醒你关火。"
    assert await say(bare, "TimerStatus", "zh-CN") == "1分30秒的计时器还剩1分30秒，“关火”的提醒还剩1小时1分钟。"
    assert [timer.announcement for timer in bare.timers.pending()] == ["时间到了，1分30秒计时器结束了。", "提醒你：关火。"]
    assert "哪一个" in await say(bare, "CancelTimer", "zh-CN")
    assert await say(bare, "CancelTimer", "zh-CN", name="关火") == "“关火”的提醒已取消。"
    assert await say(bare, "ExtendTimer", "zh-CN", seconds=30) == "好的，1分30秒的计时器还剩2分钟。"
    assert await say(bare, "CancelAllTimers", "zh-CN") == "计时器已取消。"
    assert await say(bare, "CancelAllTimers", "zh-CN") == "现在没有计时器。"


async def test_announcements(bare: Context) -> None:
    await ask(bare, "StartTimer", seconds=60)
    await ask(bare, "StartTimer", seconds=120, name="eggs")
    await ask(bare, "Remind", seconds=180)
    await ask(bare, "Remind", seconds=240, reminder="drink water")
    assert [timer.announcement for timer in bare.timers.pending()] == [
        "Time's up: your timer for 1 minute is done.",
        "Time's up: your eggs timer is done.",
        "Here is your reminder.",
        "Here is your reminder: drink water.",
    ]


async def test_too_many_timers(bare: Context) -> None:
    for _ in range(20):
        await ask(bare, "StartTimer", seconds=60)
    assert "too many timers" in await say(bare, "StartTimer", seconds=60)
    assert "太多" in await say(bare, "Remind", "zh-CN", seconds=60)
    assert await say(bare, "CancelAllTimers") == "I cancelled all 20 timers."


# -- the conversation --------------------------------------------------------------------------------------------------
async def test_never_mind_is_silent_and_goodbye_ends(bare: Context) -> None:
    assert await ask(bare, "Nevermind") == SkillReply("", silent=True)
    assert await ask(bare, "Goodbye") == SkillReply("Goodbye, talk to you soon!", end_session=True, emotion="happy")
    assert (await ask(bare, "Goodbye", "zh-CN", occasion="night")).text == "晚安，做个好梦！"


async def test_what_no_skill_answers_is_left_to_the_model(bare: Context) -> None:
    assert await SKILLS.answer(Intent("TellStory", {}, "en"), bare) is None


async def test_capabilities_name_what_the_device_really_has(bare: Context) -> None:
    assert await say(bare, "Capabilities") == (
        "I'm Robi. I can tell you the time and date, set timers and reminders and do sums. Or just talk to me."
    )
    device = ScriptedDevice([tool("self.audio_speaker.set_volume"), tool("self.lamp.turn_on"), tool("self.camera.take_photo")])
    await device.mcp.initialize()
    text = await say(Context(ToolBox(mcp=device.mcp)), "Capabilities")
    assert "change the volume" in text
    assert "look through the camera" in text
    assert "lamp turn on" in text
    assert "theme" not in text
    assert "调音量" in await say(Context(ToolBox(mcp=device.mcp)), "Capabilities", "zh-CN")


@pytest.mark.parametrize(
    ("expression", "english", "chinese"),
    [
        ("12 * 7", "12 times 7 is 84.", "12乘以7等于84。"),
        ("25 % * 80", "25 percent of 80 is 20.", "百分之25乘以80等于20。"),
        ("10 / 4", "10 divided by 4 is 2.5.", "10除以4等于2.5。"),
        ("1 / 3", "1 divided by 3 is about 0.3333.", "1除以3约等于0.3333。"),
        ("( 2 + 3 ) * 4", "That's 20.", "等于20。"),
        ("sqrt 16", "The square root of 16 is 4.", "根号16等于4。"),
        ("5 / 0", "You can't divide by zero.", "零不能做除数。"),
        ("9 ^ 60", "That number is too large for me.", "这个数太大了，我算不了。"),
        ("sqrt - 4", "A negative number has no real square root.", "负数没有实数平方根。"),
        ("5 +", "I can't work that out.", "这个我算不出来。"),
    ],
)
async def test_sums(bare: Context, expression: str, english: str, chinese: str) -> None:
    assert await say(bare, "Calculate", expression=expression) == english
    assert await say(bare, "Calculate", "zh-CN", expression=expression) == chinese


@pytest.mark.parametrize(
    ("value", "text", "exact"),
    [
        (Fraction(84), "84", True),
        (Fraction(-5, 2), "-2.5", True),
        (Fraction(10**18), "1" + "0" * 18, True),
        (Fraction(2, 3), "0.6667", False),
        (Fraction(1, 80000), "0.0000125", True),
        (Fraction(100), "100", True),
        (Fraction(0), "0", True),
    ],
)
def test_numbers_are_short(value: Fraction, text: str, exact: bool) -> None:
    assert decimal_text(value) == (text, exact)


def test_another_language_is_answered_in_english() -> None:
    assert phrases_for("de").no_timers() == "There is no timer running."


# -- from the sentence to the answer -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def recognizer() -> Iterator[HassilRecognizer]:
    built = HassilRecognizer(languages=("en", "zh-CN"))
    yield built
    built._executor.shutdown()


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("Can you set the volume to thirty, please?", "Volume is at 30."),
        ("Make it louder!", "Volume is at 80."),
        ("请把音量调到百分之三十", "音量现在是30。"),
        ("大声一点", "音量现在是80。"),
        ("What is 12 times 7?", "12 times 7 is 84."),
        ("12 加 30 等于多少？", "12加30等于42。"),
        ("Set a timer for half an hour.", "Timer set for 30 minutes."),
        ("五分钟后提醒我关火", "好的，5分钟后提醒你关火。"),
        ("现在几点了？", "现在是下午3点零4分。"),
        ("Okay, bye bye!", "Goodbye, talk to you soon!"),
    ],
)
async def test_from_sentence_to_answer(recognizer: HassilRecognizer, context: Context, sentence: str, answer: str) -> None:
    intent = await recognizer.recognize(sentence)
    assert intent is not None
    reply = await SKILLS.answer(intent, context)
    assert reply is not None
    assert reply.text == answer
