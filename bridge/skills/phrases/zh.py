"""Chinese (Mandarin, simplified characters)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from bridge.skills.phrases.base import CalculationReason, Part, TimerLine

_WEEKDAYS = "一二三四五六日"
_DAYS = {-2: "前天是", -1: "昨天是", 0: "今天是", 1: "明天是", 2: "后天是"}
_DAY_TIMES = ((5, "凌晨"), (8, "早上"), (12, "上午"), (13, "中午"), (18, "下午"), (24, "晚上"))
_PARTS = {
    Part.VOLUME: "音量",
    Part.BRIGHTNESS: "屏幕亮度",
    Part.THEME: "屏幕主题",
    Part.BATTERY: "电量",
    Part.STATUS: "状态",
    Part.CAMERA: "摄像头",
}
_ABILITIES = {
    Part.VOLUME: "调音量",
    Part.BRIGHTNESS: "调屏幕亮度",
    Part.THEME: "切换深色和浅色主题",
    Part.BATTERY: "查电量",
    Part.STATUS: "报告设备状态",
    Part.CAMERA: "用摄像头看东西",
}
_THEMES = {"dark": "深色", "light": "浅色"}
_SIGNS = {"+": "加", "-": "减", "*": "乘以", "/": "除以", "^": "的次方", "sqrt": "根号"}


class Chinese:
    def time(self, now: datetime) -> str:
        part = next(name for limit, name in _DAY_TIMES if now.hour < limit)
        minutes = "整" if now.minute == 0 else f"{now.minute}分" if now.minute >= 10 else f"零{now.minute}分"
        return f"现在是{part}{now.hour if now.hour <= 12 else now.hour - 12}点{minutes}。"

    def day(self, day: date, *, offset_days: int) -> str:
        return f"{_DAYS.get(offset_days, '那天是')}{day.year}年{day.month}月{day.day}日，星期{_WEEKDAYS[day.weekday()]}。"

    def year(self, day: date) -> str:
        return f"今年是{day.year}年。"

    def month(self, day: date) -> str:
        return f"现在是{day.month}月。"

    def level_is(self, part: Part, percent: int) -> str:
        return f"{_PARTS[part]}现在是{percent}。"

    def level_already(self, part: Part, percent: int) -> str:
        return f"{_PARTS[part]}已经是{percent}了。"

    def level_unknown(self, part: Part) -> str:
        return f"我不知道现在的{_PARTS[part]}，请说一个0到100的数。"

    def muted(self) -> str:
        return "已静音。"

    def theme_is(self, theme: str) -> str:
        return f"屏幕已换成{_THEMES.get(theme, theme)}主题。"

    def lacks(self, part: Part) -> str:
        if part in (Part.BATTERY, Part.STATUS):
            return f"抱歉，这台设备不报告{_PARTS[part]}。"
        return f"抱歉，这台设备不能调{_PARTS[part]}。"

    def failed(self, part: Part) -> str:
        return f"抱歉，没能调好{_PARTS[part]}，设备没有执行。"

    def battery(self, percent: int, *, charging: bool) -> str:
        return f"电量还有百分之{percent}{'，正在充电' if charging else ''}。"

    def status(self, *, volume: int | None, brightness: int | None, battery: int | None, network: str) -> str:
        facts = []
        if volume is not None:
            facts.append(f"音量{volume}")
        if brightness is not None:
            facts.append(f"屏幕亮度{brightness}")
        if battery is not None:
            facts.append(f"电量百分之{battery}")
        if network:
            facts.append(f"网络是{network}")
        return f"一切正常：{'，'.join(facts)}。" if facts else "已连接，一切正常。"

    def timer_started(self, length_s: int, name: str) -> str:
        return f"好的，{_duration(length_s)}的{name}计时器开始了。"

    def reminder_set(self, length_s: int, text: str) -> str:
        return f"好的，{_duration(length_s)}后提醒你{text}。"

    def timer_due(self, length_s: int, name: str) -> str:
        return f"时间到了，{name or _duration(length_s)}计时器结束了。"

    def reminder_due(self, text: str) -> str:
        return f"提醒你：{text}。" if text else "你让我提醒你的时间到了。"

    def timer_needs_time(self) -> str:
        return "要多长时间？可以说：设置一个五分钟的计时器。"

    def timers_full(self) -> str:
        return "抱歉，计时器太多了，请先取消一个。"

    def no_timers(self) -> str:
        return "现在没有计时器。"

    def no_such_timer(self) -> str:
        return "没有找到这个计时器。"

    def which_timer(self, timers: Sequence[TimerLine]) -> str:
        return f"哪一个？现在有{'、'.join(_line_name(timer) for timer in timers)}。"

    def timer_cancelled(self, timer: TimerLine) -> str:
        return f"{_line_name(timer)}已取消。"

    def timers_cancelled(self, count: int) -> str:
        return f"{count}个计时器都取消了。" if count > 1 else "计时器已取消。"

    def timer_changed(self, timer: TimerLine) -> str:
        return f"好的，{_line_name(timer)}还剩{_duration(timer.remaining_s)}。"

    def timers_left(self, timers: Sequence[TimerLine]) -> str:
        if len(timers) == 1 and not timers[0].name:
            return f"还剩{_duration(timers[0].remaining_s)}。"
        return "，".join(f"{_line_name(timer)}还剩{_duration(timer.remaining_s)}" for timer in timers) + "。"

    def goodbye(self, *, night: bool) -> str:
        return "晚安，做个好梦！" if night else "再见，下次再聊！"

    def result(self, expression: str, value: str, *, exact: bool) -> str:
        equals = "等于" if exact else "约等于"
        tokens = expression.split()
        if "(" in tokens or "^" in tokens:
            return f"{equals}{value}。"
        return f"{_say(tokens)}{equals}{value}。"

    def no_result(self, reason: CalculationReason) -> str:
        match reason:
            case "division by zero":
                return "零不能做除数。"
            case "too large":
                return "这个数太大了，我算不了。"
            case "no real root":
                return "负数没有实数平方根。"
            case "syntax":
                return "这个我算不出来。"

    def capabilities(self, assistant: str, parts: Sequence[Part], tools: Sequence[str]) -> str:
        abilities = ["报时间和日期", "设计时器和提醒", "做算术", *(_ABILITIES[part] for part in parts)]
        extra = f"这台设备还有：{'、'.join(tools)}。" if tools else ""
        return f"我是{assistant}，我会{'、'.join(abilities)}。{extra}也可以直接跟我聊天。"


def _say(tokens: Sequence[str]) -> str:
    """The sum in words; a percentage is said before its number."""
    words: list[str] = []
    for token in tokens:
        if token == "%":  # noqa: S105 - a token of an expression
            words[-1] = f"百分之{words[-1]}"
        else:
            words.append(_SIGNS.get(token, token))
    return "".join(words)


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{hours}小时" if hours else ""
    if minutes:
        text += f"{minutes}分钟" if not seconds else f"{minutes}分"
    return f"{text}{seconds}秒" if seconds or not text else text


def _line_name(timer: TimerLine) -> str:
    if timer.reminder:
        return f"“{timer.name}”的提醒" if timer.name else "提醒"
    return f"{timer.name}计时器" if timer.name else f"{_duration(timer.length_s)}的计时器"
