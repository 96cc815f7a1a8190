"""How numbers, dates, times and measures in a Chinese sentence are read. Pure.

The rules run from the special to the general: what a date, a clock time or a telephone number claims is written out
before the rule for plain numbers sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

import cn2an

Rule: TypeAlias = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_DIGITS: Final = "零一二三四五六七八九"
_HALF_WIDTH: Final = str.maketrans("０１２３４５６７８９％－＋＝／", "0123456789%-+=/")

_UNITS: Final = {
    "km/h": "公里每小时", "m/s": "米每秒", "km": "公里", "cm": "厘米", "mm": "毫米", "m": "米",
    "kg": "公斤", "mg": "毫克", "g": "克", "ml": "毫升", "mL": "毫升", "L": "升", "l": "升",
    "kWh": "千瓦时", "kW": "千瓦", "W": "瓦", "V": "伏", "mA": "毫安", "A": "安",
    "kHz": "千赫", "MHz": "兆赫", "GHz": "吉赫", "Hz": "赫兹", "dB": "分贝", "hPa": "百帕", "kPa": "千帕", "Pa": "帕",
    "ppm": "PPM", "μg/m³": "微克每立方米", "µg/m³": "微克每立方米", "m²": "平方米", "㎡": "平方米", "m³": "立方米",
    "ms": "毫秒", "s": "秒", "min": "分钟", "h": "小时",
}  # fmt: skip
_CURRENCIES: Final = {"¥": "元", "￥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_SIGNS: Final = {"+": "加", "×": "乘", "÷": "除以", "=": "等于", "-": "减", "−": "减"}
_COUNTED: Final = "个個条條只隻盏盞次位台臺张張件杯种種本块塊首间間把辆輛名句倍遍份套支瓶盒双雙点點秒周週岁歲天小分层層"

_UNIT_ALTERNATIVES: Final = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"


def written_out(text: str) -> str:
    """``text`` without Arabic digits: ``气温-5℃，下午3:30`` becomes ``气温零下五度，下午三点半``."""
    text = text.translate(_HALF_WIDTH)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def _number(text: str) -> str:
    try:
        return str(cn2an.an2cn(text, "low"))
    except ValueError:  # more digits than have names
        return _one_by_one(text)


def _one_by_one(text: str, *, one: str = "一") -> str:
    """Each digit by its name; what is no digit stays, the point becomes 点."""
    names = {str(value): name for value, name in enumerate(_DIGITS)} | {"1": one, ".": "点", "-": ""}
    return "".join(names.get(character, character) for character in text)


def _counted(text: str) -> str:
    """A number before what it counts: two is 两."""
    return "两" if text == "2" else _number(text)


def _date(match: re.Match[str]) -> str:
    """The date of year, separator, month, day."""
    return f"{_one_by_one(match[1])}年{_number(str(int(match[3])))}月{_number(str(int(match[4])))}日"


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match[1], match[2], match[3]
    spoken = f"{_counted(str(int(hour)))}点"
    if second:
        return f"{spoken}{_padded(minute)}分{_padded(second)}秒"
    if minute == "00":
        return spoken
    return f"{spoken}半" if minute == "30" else f"{spoken}{_padded(minute)}分"


def _padded(two_digits: str) -> str:
    return f"零{_number(two_digits[1])}" if two_digits[0] == "0" and two_digits != "00" else _number(str(int(two_digits)))


def _temperature(match: re.Match[str]) -> str:
    sign = "零下" if match[1] else ""
    scale = "华氏" if match[3] in {"°F", "℉"} else ""
    return f"{scale}{sign}{_counted(match[2])}度"


def _percent(match: re.Match[str]) -> str:
    sign = "负" if match[1] else ""
    return f"{sign}{'百' if match[3] == '%' else '千'}分之{_number(match[2])}"


def _rule(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Rule:
    return re.compile(pattern, re.ASCII), replacement


_MINUS: Final = r"((?<![0-9A-Za-z])[-−])?"
_CLOCK: Final = r"(?<![0-9.:])([01]?[0-9]|2[0-4])[:：]([0-5][0-9])(?:[:：]([0-5][0-9]))?(?![0-9:])"
_RULES: Final[tuple[Rule, ...]] = (
    _rule(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", ""),
    _rule(r"(?<![0-9])([0-9]{4})([-/.])(1[0-2]|0?[1-9])\2(3[01]|[12][0-9]|0?[1-9])(?![0-9])", _date),
    _rule(r"(?<![0-9])([0-9]{4})(?=\s?年)", lambda m: _one_by_one(m[1])),
    _rule(r"(?<![0-9.])[0-9]+(?:\.[0-9]+){2,}(?![0-9])", lambda m: _one_by_one(m[0])),
    _rule(r"(?<=[0-9][0-9])\s?[-~～–—]\s?(?=[0-9]{1,2}[:：][0-9]{2})", "至"),
    _rule(_CLOCK, _clock),
    _rule(r"(?<![0-9.])(?:0[0-9]{2,3}-[0-9]{7,8}|[48]00-[0-9]{3,4}-[0-9]{3,4})(?![0-9])", lambda m: _one_by_one(m[0], one="幺")),
    _rule(r"(?<![0-9.])(?:[0-9]{9,}|0[0-9]+)(?![0-9.])", lambda m: _one_by_one(m[0], one="幺")),
    _rule(rf"(?<=[0-9%℃°CF])\s?[~～–—]\s?(?={_NUMBER})|(?<=[0-9])-(?=[0-9])", "到"),
    _rule(rf"{_MINUS}({_NUMBER})\s?(°C|℃|°F|℉|°|摄氏度)", _temperature),
    _rule(rf"{_MINUS}({_NUMBER})\s?([%‰])", _percent),
    _rule(rf"([¥￥$€£])\s?({_NUMBER})", lambda m: _counted(m[2]) + _CURRENCIES[m[1]]),
    _rule(rf"({_NUMBER})\s?({_UNIT_ALTERNATIVES})(?![A-Za-z0-9²³/])", lambda m: _counted(m[1]) + _UNITS[m[2]]),
    _rule(r"(?<![0-9/.])([0-9]{1,4})/([0-9]{1,4})(?![0-9/.])", lambda m: f"{_number(m[2])}分之{_number(m[1])}"),
    _rule(r"(?<=[0-9])\s?([+×÷=])\s?(?=[-0-9])|(?<=[0-9])\s([-−])\s(?=[0-9])", lambda m: _SIGNS[m[1] or m[2]]),
    _rule(r"(?<=[0-9])[:：](?=[0-9])", "比"),
    _rule(rf"(?<![0-9.第])2(?=\s?[{_COUNTED}])(?!\s?小数)", "两"),
    _rule(r"(?<![0-9A-Za-z])[-−](?=[0-9])", "负"),
    _rule(r"(?<=[A-Za-z])-(?=[0-9])", " "),
    _rule(r"(?<=[A-Za-z])[0-9]{1,4}(?![0-9.])", lambda m: _one_by_one(m[0])),
    _rule(_NUMBER, lambda m: _number(m[0])),
)
