"""English."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from bridge.skills.phrases.base import CalculationReason, Part, TimerLine

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS = {-2: "The day before yesterday was", -1: "Yesterday was", 0: "Today is", 1: "Tomorrow is", 2: "The day after tomorrow is"}
_PARTS = {
    Part.VOLUME: "volume",
    Part.BRIGHTNESS: "screen brightness",
    Part.THEME: "screen theme",
    Part.BATTERY: "battery",
    Part.STATUS: "status",
    Part.CAMERA: "camera",
}
_ABILITIES = {
    Part.VOLUME: "change the volume",
    Part.BRIGHTNESS: "change the screen brightness",
    Part.THEME: "switch between the light and dark theme",
    Part.BATTERY: "tell you the battery level",
    Part.STATUS: "tell you how this device is doing",
    Part.CAMERA: "look through the camera",
}
_SIGNS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by", "^": "to the power of", "sqrt": "the square root of", "%": "percent"}
_UNITS = ((3600, "hour"), (60, "minute"), (1, "second"))


class English:
    def time(self, now: datetime) -> str:
        return f"It's {now.hour % 12 or 12}:{now.minute:02d} {'AM' if now.hour < 12 else 'PM'}."

    def day(self, day: date, *, offset_days: int) -> str:
        return f"{_DAYS.get(offset_days, 'That is')} {_WEEKDAYS[day.weekday()]}, {_MONTHS[day.month - 1]} {day.day}, {day.year}."

    def year(self, day: date) -> str:
        return f"It's {day.year}."

    def month(self, day: date) -> str:
        return f"It's {_MONTHS[day.month - 1]}."

    def level_is(self, part: Part, percent: int) -> str:
        return f"{_PARTS[part].capitalize()} is at {percent}."

    def level_already(self, part: Part, percent: int) -> str:
        return f"{_PARTS[part].capitalize()} is already at {percent}."

    def level_unknown(self, part: Part) -> str:
        return f"I can't tell what the {_PARTS[part]} is right now. Give me a number from 0 to 100."

    def muted(self) -> str:
        return "Muted."

    def theme_is(self, theme: str) -> str:
        return f"The screen is {theme} now."

    def lacks(self, part: Part) -> str:
        if part in (Part.BATTERY, Part.STATUS):
            return f"Sorry, this device doesn't tell me its {_PARTS[part]}."
        return f"Sorry, I can't change the {_PARTS[part]} on this device."

    def failed(self, part: Part) -> str:
        return f"Sorry, I could not change the {_PARTS[part]}: the device did not do it."

    def battery(self, percent: int, *, charging: bool) -> str:
        return f"The battery is at {percent} percent{' and charging' if charging else ''}."

    def status(self, *, volume: int | None, brightness: int | None, battery: int | None, network: str) -> str:
        facts = []
        if volume is not None:
            facts.append(f"volume {volume}")
        if brightness is not None:
            facts.append(f"screen brightness {brightness}")
        if battery is not None:
            facts.append(f"battery {battery} percent")
        if network:
            facts.append(f"connected by {network}")
        return f"All is well: {_and(facts)}." if facts else "I'm connected, and all is well."

    def timer_started(self, length_s: int, name: str) -> str:
        return f"{_timer_name(name).capitalize()} set for {_duration(length_s)}."

    def reminder_set(self, length_s: int, text: str) -> str:
        return f"I'll remind you in {_duration(length_s)}{f': {text}' if text else ''}."

    def timer_due(self, length_s: int, name: str) -> str:
        return f"Time's up: your {name} timer is done." if name else f"Time's up: your timer for {_duration(length_s)} is done."

    def reminder_due(self, text: str) -> str:
        return f"Here is your reminder: {text}." if text else "Here is your reminder."

    def timer_needs_time(self) -> str:
        return "For how long? Say, for example: set a timer for five minutes."

    def timers_full(self) -> str:
        return "Sorry, there are too many timers already. Cancel one first."

    def no_timers(self) -> str:
        return "There is no timer running."

    def no_such_timer(self) -> str:
        return "I can't find that timer."

    def which_timer(self, timers: Sequence[TimerLine]) -> str:
        return f"Which one? There are {_and([f'the {_line_name(timer)}' for timer in timers])}."

    def timer_cancelled(self, timer: TimerLine) -> str:
        return f"I cancelled the {_line_name(timer)}."

    def timers_cancelled(self, count: int) -> str:
        return f"I cancelled {'the timer' if count == 1 else f'all {count} timers'}."

    def timer_changed(self, timer: TimerLine) -> str:
        return f"Done: {_duration(timer.remaining_s)} left on the {_line_name(timer)}."

    def timers_left(self, timers: Sequence[TimerLine]) -> str:
        if len(timers) == 1 and not timers[0].name:
            return f"{_duration(timers[0].remaining_s).capitalize()} left."
        return _sentence(_and([f"{_duration(timer.remaining_s)} left on the {_line_name(timer)}" for timer in timers]))

    def goodbye(self, *, night: bool) -> str:
        return "Good night, sleep well!" if night else "Goodbye, talk to you soon!"

    def result(self, expression: str, value: str, *, exact: bool) -> str:
        if "(" in expression:
            return f"That's {'' if exact else 'about '}{value}."
        words = " ".join("percent of" if pair == "%*" else _SIGNS.get(pair, pair) for pair in _pairs(expression))
        return _sentence(f"{words} is {'' if exact else 'about '}{value}")

    def no_result(self, reason: CalculationReason) -> str:
        match reason:
            case "division by zero":
                return "You can't divide by zero."
            case "too large":
                return "That number is too large for me."
            case "no real root":
                return "A negative number has no real square root."
            case "syntax":
                return "I can't work that out."

    def capabilities(self, assistant: str, parts: Sequence[Part], tools: Sequence[str]) -> str:
        abilities = ["tell you the time and date", "set timers and reminders", "do sums", *(_ABILITIES[part] for part in parts)]
        extra = f" This device also has: {', '.join(tools)}." if tools else ""
        return f"I'm {assistant}. I can {_and(abilities)}.{extra} Or just talk to me."


def _pairs(expression: str) -> list[str]:
    """The tokens, a percentage and its "of" together."""
    return expression.replace("% *", "%*").split()


def _duration(seconds: int) -> str:
    parts = []
    for size, unit in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return _and(parts) if parts else "0 seconds"


def _timer_name(name: str) -> str:
    return f"{name} timer" if name else "timer"


def _line_name(timer: TimerLine) -> str:
    if timer.reminder:
        return f"reminder {timer.name}".strip()
    return f"{timer.name} timer" if timer.name else f"timer for {_duration(timer.length_s)}"


def _and(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
