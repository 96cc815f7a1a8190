"""From an intent to an answer, without a language model.

Each skill does what was asked and says what happened; where the device lacks the tool or does not answer, the reply says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from bridge.skills.phrases import Part, Phrases, TimerLine, phrases_for
from bridge.skills.timers import Timer, Timers, TimersFullError
from iot.toolbox import ToolBox
from providers.base import Intent
from providers.intent.arithmetic import CalculationError, evaluate
from providers.tools import ToolResult

DEFAULT_STEP: Final = 10
DEFAULT_VOLUME: Final = 50
_DECIMALS: Final = 4
_TOLD_TOOLS: Final = 3


@dataclass(frozen=True, slots=True)
class SkillReply:
    """``text`` is spoken unless ``silent``; ``end_session`` hangs up afterwards; ``emotion`` is one of the device's 21."""

    text: str
    end_session: bool = False
    silent: bool = False
    emotion: str = "neutral"


class SkillContext(Protocol):
    """What a skill may use of the session."""

    @property
    def toolbox(self) -> ToolBox: ...

    @property
    def timers(self) -> Timers: ...

    @property
    def language(self) -> str:
        """The session's language, for an intent without one."""
        ...

    def now(self) -> datetime:
        """The wall clock, aware of its time zone."""
        ...


@dataclass(frozen=True, slots=True)
class _Ask:
    """One question to a skill."""

    slots: dict[str, Any]
    toolbox: ToolBox
    timers: Timers
    say: Phrases
    now: datetime


_Skill = Callable[[_Ask], Awaitable[SkillReply]]


class Skills:
    """All skills. Holds no session: what an answer depends on comes with its context."""

    def __init__(self, *, assistant_name: str, timezone: str | None = None) -> None:
        """``timezone`` is an IANA name, None for the machine's. Raises zoneinfo.ZoneInfoNotFoundError."""
        self._name = assistant_name
        self._timezone = ZoneInfo(timezone) if timezone else None
        self._skills: dict[str, _Skill] = {
            "GetTime": _time,
            "GetDate": _date,
            "SetVolume": _set_volume,
            "ChangeVolume": _change_volume,
            "GetVolume": _get_volume,
            "Mute": _mute,
            "Unmute": _unmute,
            "SetBrightness": _set_brightness,
            "ChangeBrightness": _change_brightness,
            "GetBrightness": _get_brightness,
            "SetTheme": _set_theme,
            "GetBattery": _battery,
            "GetStatus": _status,
            "StartTimer": _start_timer,
            "Remind": _remind,
            "CancelTimer": _cancel_timer,
            "CancelAllTimers": _cancel_all_timers,
            "ExtendTimer": _extend_timer,
            "TimerStatus": _timer_status,
            "Nevermind": _nevermind,
            "Goodbye": _goodbye,
            "Calculate": _calculate,
            "Capabilities": self._capabilities,
        }

    async def answer(self, intent: Intent, context: SkillContext) -> SkillReply | None:
        """The reply, in the language of the sentence; None for an intent without a skill.

        Cancellation may leave a device call done whose answer nobody hears.
        """
        skill = self._skills.get(intent.name)
        if skill is None:
            return None
        say = phrases_for(intent.language or context.language)
        now = context.now().astimezone(self._timezone)
        return await skill(_Ask(intent.slots, context.toolbox, context.timers, say, now))

    async def _capabilities(self, ask: _Ask) -> SkillReply:
        box = ask.toolbox
        can = {
            Part.VOLUME: box.can_set_volume,
            Part.BRIGHTNESS: box.can_set_brightness,
            Part.THEME: box.can_set_theme,
            Part.CAMERA: box.can_take_photo,
            Part.STATUS: box.can_tell_status,
        }
        parts = [part for part, there in can.items() if there]
        return SkillReply(ask.say.capabilities(self._name, parts, box.other_tools()[:_TOLD_TOOLS]), emotion="happy")


# -- time --------------------------------------------------------------------------------------------------------------
async def _time(ask: _Ask) -> SkillReply:
    return SkillReply(ask.say.time(ask.now))


async def _date(ask: _Ask) -> SkillReply:
    today = ask.now.date()
    match ask.slots.get("part"):
        case "year":
            return SkillReply(ask.say.year(today))
        case "month":
            return SkillReply(ask.say.month(today))
    offset_days = int(ask.slots.get("offset_days", 0))
    return SkillReply(ask.say.day(today + timedelta(days=offset_days), offset_days=offset_days))


# -- volume and screen -------------------------------------------------------------------------------------------------
def _changed(ask: _Ask, part: Part, result: ToolResult | None, text: str, *, silent: bool = False) -> SkillReply:
    """What to say after the device was told to change something."""
    if result is None:
        return SkillReply(ask.say.lacks(part), emotion="embarrassed")
    if result.is_error:
        return SkillReply(ask.say.failed(part), emotion="embarrassed")
    return SkillReply(text, silent=silent)


async def _set_volume(ask: _Ask) -> SkillReply:
    percent = _percent(ask.slots["percent"])
    return _changed(ask, Part.VOLUME, await ask.toolbox.set_volume(percent), ask.say.level_is(Part.VOLUME, percent))


async def _set_brightness(ask: _Ask) -> SkillReply:
    percent = _percent(ask.slots["percent"])
    return _changed(ask, Part.BRIGHTNESS, await ask.toolbox.set_brightness(percent), ask.say.level_is(Part.BRIGHTNESS, percent))


async def _change_volume(ask: _Ask) -> SkillReply:
    if not ask.toolbox.can_set_volume:
        return SkillReply(ask.say.lacks(Part.VOLUME), emotion="embarrassed")
    return await _change(ask, Part.VOLUME, await ask.toolbox.get_volume(), ask.toolbox.set_volume)


async def _change_brightness(ask: _Ask) -> SkillReply:
    if not ask.toolbox.can_set_brightness:
        return SkillReply(ask.say.lacks(Part.BRIGHTNESS), emotion="embarrassed")
    return await _change(ask, Part.BRIGHTNESS, await ask.toolbox.get_brightness(), ask.toolbox.set_brightness)


async def _change(ask: _Ask, part: Part, current: int | None, change: Callable[[int], Awaitable[ToolResult | None]]) -> SkillReply:
    if current is None:
        return SkillReply(ask.say.level_unknown(part))
    step = int(ask.slots.get("step", DEFAULT_STEP))
    wanted = _percent(current + step if ask.slots["direction"] == "up" else current - step)
    if wanted == current:
        return SkillReply(ask.say.level_already(part, current))
    return _changed(ask, part, await change(wanted), ask.say.level_is(part, wanted))


async def _get_volume(ask: _Ask) -> SkillReply:
    return _level(ask, Part.VOLUME, await ask.toolbox.get_volume())


async def _get_brightness(ask: _Ask) -> SkillReply:
    return _level(ask, Part.BRIGHTNESS, await ask.toolbox.get_brightness())


def _level(ask: _Ask, part: Part, percent: int | None) -> SkillReply:
    return SkillReply(ask.say.level_unknown(part) if percent is None else ask.say.level_is(part, percent))


async def _mute(ask: _Ask) -> SkillReply:
    # A spoken "muted" would not be heard.
    return _changed(ask, Part.VOLUME, await ask.toolbox.mute(), ask.say.muted(), silent=True)


async def _unmute(ask: _Ask) -> SkillReply:
    percent = ask.toolbox.volume_before_mute or DEFAULT_VOLUME
    return _changed(ask, Part.VOLUME, await ask.toolbox.set_volume(percent), ask.say.level_is(Part.VOLUME, percent))


async def _set_theme(ask: _Ask) -> SkillReply:
    theme = str(ask.slots["theme"])
    return _changed(ask, Part.THEME, await ask.toolbox.set_theme(theme), ask.say.theme_is(theme))


def _percent(value: Any) -> int:
    return max(0, min(100, int(value)))


# -- status ------------------------------------------------------------------------------------------------------------
async def _battery(ask: _Ask) -> SkillReply:
    status = await ask.toolbox.status()
    level = _battery_of(status)
    if status is None or level is None:
        return SkillReply(ask.say.lacks(Part.BATTERY), emotion="embarrassed")
    return SkillReply(ask.say.battery(level, charging=_section(status, "battery").get("charging") is True))


async def _status(ask: _Ask) -> SkillReply:
    status = await ask.toolbox.status()
    if status is None:
        return SkillReply(ask.say.lacks(Part.STATUS), emotion="embarrassed")
    network = _section(status, "network").get("type")
    return SkillReply(
        ask.say.status(
            volume=_number(_section(status, "audio_speaker").get("volume", _section(status, "speaker").get("volume"))),
            brightness=_number(_section(status, "screen").get("brightness")),
            battery=_battery_of(status),
            network=network[:20] if isinstance(network, str) else "",
        )
    )


def _section(status: dict[str, Any], name: str) -> dict[str, Any]:
    section = status.get(name)
    return section if isinstance(section, dict) else {}


def _battery_of(status: dict[str, Any] | None) -> int | None:
    return _number(_section(status, "battery").get("level")) if status is not None else None


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return round(value)


# -- timers ------------------------------------------------------------------------------------------------------------
async def _start_timer(ask: _Ask) -> SkillReply:
    length_s = ask.slots.get("seconds")
    if length_s is None:
        return SkillReply(ask.say.timer_needs_time())
    name = str(ask.slots.get("name", ""))
    try:
        timer = ask.timers.start(int(length_s), announcement=ask.say.timer_due(int(length_s), name), name=name)
    except TimersFullError:
        return SkillReply(ask.say.timers_full(), emotion="embarrassed")
    return SkillReply(ask.say.timer_started(timer.length_s, name))


async def _remind(ask: _Ask) -> SkillReply:
    text = str(ask.slots.get("reminder", ""))
    try:
        timer = ask.timers.start(int(ask.slots["seconds"]), announcement=ask.say.reminder_due(text), name=text, reminder=True)
    except TimersFullError:
        return SkillReply(ask.say.timers_full(), emotion="embarrassed")
    return SkillReply(ask.say.reminder_set(timer.length_s, text))


async def _cancel_timer(ask: _Ask) -> SkillReply:
    timer = _one_timer(ask, length_s=ask.slots.get("seconds"))
    if isinstance(timer, SkillReply):
        return timer
    ask.timers.cancel(timer)
    return SkillReply(ask.say.timer_cancelled(_line(ask, timer)))


async def _cancel_all_timers(ask: _Ask) -> SkillReply:
    count = ask.timers.cancel_all()
    return SkillReply(ask.say.timers_cancelled(count) if count else ask.say.no_timers())


async def _extend_timer(ask: _Ask) -> SkillReply:
    timer = _one_timer(ask)
    if isinstance(timer, SkillReply):
        return timer
    return SkillReply(ask.say.timer_changed(_line(ask, ask.timers.shift(timer, int(ask.slots["seconds"])))))


async def _timer_status(ask: _Ask) -> SkillReply:
    found = ask.timers.find(name=str(ask.slots.get("name", "")), length_s=ask.slots.get("seconds"))
    if found:
        return SkillReply(ask.say.timers_left([_line(ask, timer) for timer in found]))
    return SkillReply(ask.say.no_such_timer() if ask.timers.pending() else ask.say.no_timers())


def _one_timer(ask: _Ask, *, length_s: int | None = None) -> Timer | SkillReply:
    """The timer that is meant, or the reply that there is none or more than one."""
    if not ask.timers.pending():
        return SkillReply(ask.say.no_timers())
    found = ask.timers.find(name=str(ask.slots.get("name", "")), length_s=length_s)
    if not found:
        return SkillReply(ask.say.no_such_timer())
    if len(found) > 1:
        return SkillReply(ask.say.which_timer([_line(ask, timer) for timer in found]))
    return found[0]


def _line(ask: _Ask, timer: Timer) -> TimerLine:
    return TimerLine(timer.name, timer.length_s, ask.timers.remaining_s(timer), timer.reminder)


# -- the rest ----------------------------------------------------------------------------------------------------------
async def _nevermind(_: _Ask) -> SkillReply:
    return SkillReply("", silent=True)


async def _goodbye(ask: _Ask) -> SkillReply:
    return SkillReply(ask.say.goodbye(night=ask.slots.get("occasion") == "night"), end_session=True, emotion="happy")


async def _calculate(ask: _Ask) -> SkillReply:
    expression = str(ask.slots["expression"])
    try:
        value = evaluate(expression)
    except CalculationError as error:
        return SkillReply(ask.say.no_result(error.reason))
    text, exact = decimal_text(value)
    return SkillReply(ask.say.result(expression, text, exact=exact))


def decimal_text(value: Fraction) -> tuple[str, bool]:
    """The value with at most four decimals (more only for what is smaller than one), and whether that is all of it."""
    with localcontext() as context:
        context.prec = 40
        exact = Decimal(value.numerator) / Decimal(value.denominator)
        places = _DECIMALS if abs(exact) >= 1 or exact == 0 else _DECIMALS - exact.adjusted() - 1
        rounded = round(exact, min(places, 20))
        text = f"{rounded:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text, Fraction(text) == value
