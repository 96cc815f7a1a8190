"""Sentences as recognisers of speech write them, and what must be left to the model."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.base import Intent
from providers.intent.hassil import HassilRecognizer, build
from providers.intent.normalise import normalise, variants
from settings.providers import HassilIntents

UNDERSTOOD: list[tuple[str, str, dict[str, Any]]] = [
    # volume
    ("Set the volume to thirty.", "SetVolume", {"percent": 30}),
    ("set volume to twenty-five percent", "SetVolume", {"percent": 25}),
    ("Can you set the volume to fifty percent, please?", "SetVolume", {"percent": 50}),
    ("Set the volume to 100%.", "SetVolume", {"percent": 100}),
    ("Turn it up to 11.", "SetVolume", {"percent": 11}),
    ("Volume 40", "SetVolume", {"percent": 40}),
    ("turn the volume to max", "SetVolume", {"percent": 100}),
    ("MAKE IT LOUDER!", "ChangeVolume", {"direction": "up"}),
    ("Louder.", "ChangeVolume", {"direction": "up"}),
    ("Turn it up a bit.", "ChangeVolume", {"direction": "up"}),
    ("Speak up, please.", "ChangeVolume", {"direction": "up"}),
    ("I can't hear you.", "ChangeVolume", {"direction": "up"}),
    ("Could you turn the volume down a little bit please", "ChangeVolume", {"direction": "down"}),
    ("Increase the volume by 20 percent", "ChangeVolume", {"direction": "up", "step": 20}),
    ("A bit quieter, thanks.", "ChangeVolume", {"direction": "down"}),
    ("Mute.", "Mute", {}),
    ("Unmute yourself", "Unmute", {}),
    ("What's the volume?", "GetVolume", {}),
    ("音量调到三十。", "SetVolume", {"percent": 30}),
    ("把音量调到百分之三十", "SetVolume", {"percent": 30}),
    ("请帮我把声音调到50%", "SetVolume", {"percent": 50}),
    ("音量50", "SetVolume", {"percent": 50}),
    ("音量最大", "SetVolume", {"percent": 100}),
    ("音量調到三十", "SetVolume", {"percent": 30}),
    ("大声一点。", "ChangeVolume", {"direction": "up"}),
    ("能不能大声点？", "ChangeVolume", {"direction": "up"}),
    ("请帮我把声音调大一点", "ChangeVolume", {"direction": "up"}),
    ("声音小一点吧", "ChangeVolume", {"direction": "down"}),
    ("太吵了", "ChangeVolume", {"direction": "down"}),
    ("静音", "Mute", {}),
    ("取消静音", "Unmute", {}),
    ("现在音量是多少？", "GetVolume", {}),
    ("Could you make the volume 30?", "SetVolume", {"percent": 30}),
    # screen
    ("Set the screen brightness to 50%.", "SetBrightness", {"percent": 50}),
    ("Make the screen a bit brighter.", "ChangeBrightness", {"direction": "up"}),
    ("Dim the display", "ChangeBrightness", {"direction": "down"}),
    ("Switch to dark mode.", "SetTheme", {"theme": "dark"}),
    ("Change the theme to light.", "SetTheme", {"theme": "light"}),
    ("亮度调到八十", "SetBrightness", {"percent": 80}),
    ("把屏幕亮度调到百分之二十", "SetBrightness", {"percent": 20}),
    ("屏幕亮一点", "ChangeBrightness", {"direction": "up"}),
    ("屏幕太亮了", "ChangeBrightness", {"direction": "down"}),
    ("切换到深色模式", "SetTheme", {"theme": "dark"}),
    # time
    ("What time is it?", "GetTime", {}),
    ("Hey, do you know what time it is?", "GetTime", {}),
    ("Tell me the time, please.", "GetTime", {}),
    ("What's the date today?", "GetDate", {"offset_days": 0}),
    ("What day is it?", "GetDate", {"offset_days": 0}),
    ("What day is tomorrow?", "GetDate", {"offset_days": 1}),
    ("What year is it?", "GetDate", {"part": "year"}),
    ("现在几点了？", "GetTime", {}),
    ("请问现在几点", "GetTime", {}),
    ("今天星期几？", "GetDate", {"offset_days": 0}),
    ("今天几号", "GetDate", {"offset_days": 0}),
    ("明天星期几", "GetDate", {"offset_days": 1}),
    ("Can you tell me what time it is?", "GetTime", {}),
    ("你知道现在几点了吗？", "GetTime", {}),
    # timers
    ("Can you set a timer for me for ten minutes?", "StartTimer", {"seconds": 600}),
    ("请在五分钟后提醒我关火", "Remind", {"seconds": 300, "reminder": "关火"}),
    ("把闹钟关了", "CancelTimer", {}),
    ("Set a timer for five minutes.", "StartTimer", {"seconds": 300}),
    ("Set a 10-minute timer.", "StartTimer", {"seconds": 600}),
    ("Start a timer for 1 hour and 20 minutes.", "StartTimer", {"seconds": 4800}),
    ("Set a timer for half an hour.", "StartTimer", {"seconds": 1800}),
    ("Set a timer for an hour and a half.", "StartTimer", {"seconds": 5400}),
    ("Set a timer for two and a half minutes", "StartTimer", {"seconds": 150}),
    ("Set a timer for 90 seconds", "StartTimer", {"seconds": 90}),
    ("Set a pizza timer for 12 minutes.", "StartTimer", {"seconds": 720, "name": "pizza"}),
    ("Set a timer for 12 minutes called eggs.", "StartTimer", {"seconds": 720, "name": "eggs"}),
    ("Start a timer.", "StartTimer", {}),
    ("Remind me to call mom in an hour.", "Remind", {"seconds": 3600, "reminder": "call mom"}),
    ("Remind me in ten minutes to check the oven.", "Remind", {"seconds": 600, "reminder": "check the oven"}),
    ("Remind me in 20 seconds.", "Remind", {"seconds": 20}),
    ("Cancel the timer.", "CancelTimer", {}),
    ("Cancel the pizza timer.", "CancelTimer", {"name": "pizza"}),
    ("Stop my 5 minute timer", "CancelTimer", {"seconds": 300}),
    ("Cancel all timers.", "CancelAllTimers", {}),
    ("How much time is left?", "TimerStatus", {}),
    ("How long is left on the pizza timer?", "TimerStatus", {"name": "pizza"}),
    ("What timers do I have?", "TimerStatus", {}),
    ("Add five minutes to the timer", "ExtendTimer", {"seconds": 300}),
    ("Take two minutes off the timer.", "ExtendTimer", {"seconds": -120}),
    ("设置一个五分钟的计时器", "StartTimer", {"seconds": 300}),
    ("帮我定一个十分钟的闹钟", "StartTimer", {"seconds": 600}),
    ("倒计时三分钟", "StartTimer", {"seconds": 180}),
    ("一个小时后叫我起床", "StartTimer", {"seconds": 3600}),
    ("五分钟后提醒我关火", "Remind", {"seconds": 300, "reminder": "关火"}),
    ("提醒我十分钟后喝水", "Remind", {"seconds": 600, "reminder": "喝水"}),
    ("两个半小时后提醒我开会", "Remind", {"seconds": 9000, "reminder": "开会"}),
    ("取消计时器", "CancelTimer", {}),
    ("取消所有闹钟", "CancelAllTimers", {}),
    ("计时器还有多久？", "TimerStatus", {}),
    ("计时器加五分钟", "ExtendTimer", {"seconds": 300}),
    # the conversation
    ("Never mind.", "Nevermind", {}),
    ("Stop!", "Nevermind", {}),
    ("Forget it", "Nevermind", {}),
    ("算了", "Nevermind", {}),
    ("别说了。", "Nevermind", {}),
    ("Goodbye!", "Goodbye", {}),
    ("Okay, bye bye.", "Goodbye", {}),
    ("Thank you, goodbye.", "Goodbye", {}),
    ("No, that's all for now.", "Goodbye", {}),
    ("Good night.", "Goodbye", {"occasion": "night"}),
    ("再见", "Goodbye", {}),
    ("好的，再见！", "Goodbye", {}),
    ("谢谢，拜拜", "Goodbye", {}),
    ("晚安", "Goodbye", {"occasion": "night"}),
    ("What can you do?", "Capabilities", {}),
    ("你能做什么？", "Capabilities", {}),
    ("你会什么", "Capabilities", {}),
    # device
    ("What's the battery level?", "GetBattery", {}),
    ("How much battery do you have left?", "GetBattery", {}),
    ("Device status", "GetStatus", {}),
    ("还有多少电", "GetBattery", {}),
    ("设备状态", "GetStatus", {}),
    # sums
    ("What is 12 times 7?", "Calculate", {"expression": "12 * 7"}),
    ("Can you calculate 25% of 80?", "Calculate", {"expression": "25 % * 80"}),
    ("12 加 30 等于多少？", "Calculate", {"expression": "12 + 30"}),
    ("请帮我算一下三乘以七", "Calculate", {"expression": "3 * 7"}),
]

NOT_OURS = """
Tell me a story.
Who was the first president of the United States?
What is love?
How are you today?
Can you sing a song?
What time is it in Tokyo?
What is the weather today?
What day is Christmas?
Tell me a joke about volume.
How loud is a jet engine?
How bright is the sun?
What is the volume of a sphere?
I want to stop smoking.
How do I cancel my subscription?
My mother says goodbye to me every morning.
How do you say goodbye in French?
What is a timer?
I set the timer on my oven yesterday.
What is 9/11?
Call me at 555-1234.
I have two cats and one dog.
My battery died yesterday.
Dark mode is better than light mode.
What is the time complexity of quicksort?
Time flies.
Remind me who wrote Hamlet.
Remind me to call mom tomorrow.
What can dogs do?
What can you tell me about dinosaurs?
How much is a new car?
What year was Einstein born?
Yes.
No.
Hello.
Thank you.
Good morning.
twenty five
I'll be back in five minutes.
Dinner is in an hour.
Turn on the light.
Turn off the kitchen light in ten minutes.
Play some music.
How long is the Great Wall?
Tell me in five minutes about the history of Rome.
I need help.
That's it!
What happened to the timer in the kitchen?
Set me free.
Start a new life.
Cancel culture is a problem.
How long is left until Christmas?
Are you a robot?
And then?
Go on.
Can you help me with my homework?
By the way, tell me a story.
Set the table for four.
Set the temperature to 20 degrees.
Make it bigger.
Speak English.
Nothing compares to you.
Count to ten.
给我讲个故事
今天天气怎么样
你叫什么名字
你是谁
唱首歌
为什么天是蓝的
时间过得真快
我没有时间
你知道时间简史吗
东京现在几点
什么是爱
电池是谁发明的
取消订阅怎么弄
法语的再见怎么说
晚安用英语怎么说
我妈妈总是很大声
他的声音很大
一加手机怎么样
星期天我们去公园
今天是什么节日
明天会下雨吗
五分钟能做什么
十分钟以后我要出门
我今年三十岁
你会说英语吗
你会唱歌吗
你好
谢谢
好的
继续
没事做什么好
我不想睡觉
停车场在哪里
今天是什么节日
你知道长城有多长吗
我想知道什么是计时器
请问怎么去火车站
开灯
打开客厅的灯
深圳有多大
苹果多少钱一斤
百分之八十的人都喜欢
计时器是什么
提醒我明天开会
""".strip().splitlines()


@pytest.fixture(scope="module")
def recognizer() -> Iterator[HassilRecognizer]:
    built = build(HassilIntents(), store=None)
    yield built
    asyncio.run(built.aclose())


@pytest.mark.parametrize(("sentence", "name", "slots"), UNDERSTOOD)
async def test_what_is_understood(recognizer: HassilRecognizer, sentence: str, name: str, slots: dict[str, Any]) -> None:
    intent = await recognizer.recognize(sentence)
    assert intent is not None
    assert (intent.name, intent.slots) == (name, slots)
    assert intent.language == ("zh-CN" if any("\u4e00" <= character <= "\u9fff" for character in sentence) else "en")


@pytest.mark.parametrize("sentence", NOT_OURS)
async def test_what_is_left_to_the_model(recognizer: HassilRecognizer, sentence: str) -> None:
    assert await recognizer.recognize(sentence) is None


async def test_a_wrong_guess_of_the_language_does_no_harm(recognizer: HassilRecognizer) -> None:
    for language in ("en", "zh", "zh-CN", "de", "", None):
        for sentence, name in (("现在几点了", "GetTime"), ("what time is it", "GetTime"), ("set volume 到 30", "SetVolume")):
            intent = await recognizer.recognize(sentence, language=language)
            assert intent is None or intent.name == name
            assert intent is not None or "到" in sentence


async def test_empty_and_endless_sentences_are_nothing(recognizer: HassilRecognizer) -> None:
    for sentence in ("", "   ", "?!", "。", "please", "请", "stop " * 100, "\x00", "\ud800"):
        assert await recognizer.recognize(sentence) is None


async def test_another_language_has_the_shared_sentences() -> None:
    german = HassilRecognizer(languages=["de", "xx"])
    await german.warm()
    await german.warm()
    for sentence, name, slots in (
        ("Wie spät ist es?", "GetTime", {}),
        ("Stelle die Lautstärke auf 30 Prozent", "SetVolume", {"percent": 30}),
        ("Lautstärke erhöhen", "ChangeVolume", {"direction": "up"}),
        ("Verringere die Lautstärke um 10 Prozent", "ChangeVolume", {"direction": "down", "step": 10}),
        ("Stelle einen Timer auf fünf Minuten", "StartTimer", {"seconds": 300}),
        ("Verkürze den Timer um fünf Minuten", "ExtendTimer", {"seconds": -300}),
    ):
        assert await german.recognize(sentence) == Intent(name, slots, "de")
    assert await german.recognize("Schalte das Licht im Wohnzimmer ein") is None
    assert (german.stats.sentences, german.stats.matched) == (7, 6)
    await german.aclose()
    await german.aclose()


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet=st.sampled_from("set the volume to 三十音量timer for 5 minutes,.%+- remind me 提醒我后"), max_size=40))
def test_any_text_may_come(recognizer: HassilRecognizer, text: str) -> None:
    recognizer._recognize(normalise(text) or "x", None)


def test_normalise() -> None:
    assert normalise("  Could you, PLEASE: turn it up?! ") == "could you please turn it up"
    assert normalise("３０％，好吗？") == "30% 好吗"
    assert normalise("It’s 3.5, or 1,250.") == "it's 3.5 or 1,250"
    assert normalise("x" * 201) == ""
    assert list(variants("could you please turn it up for me please")) == [
        "could you please turn it up for me please",
        "turn it up",
    ]
    assert list(variants("请帮我关掉好吗")) == ["请帮我关掉好吗", "关掉"]
    assert list(variants("please")) == ["please"]
