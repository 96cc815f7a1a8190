"""Numbers that are said in words, English and Chinese (P)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

DIGIT_LIMIT: Final = 18
"""Longer numbers are not read."""

# fmt: off
_UNITS: Final = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
}
# fmt: on
_TENS: Final = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")

_ZH_DIGITS: Final = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_ZH_UNITS: Final = {"十": 10, "百": 100, "千": 1000}
_ZH_SCALES: Final = {"万": 10**4, "亿": 10**8}


def digits(text: str) -> Decimal | None:
    """The number written in digits, as "1,250.5"."""
    if len(text) > DIGIT_LIMIT or not _DIGITS.fullmatch(text):
        return None
    return Decimal(text.replace(",", ""))


def english(words: Sequence[str]) -> tuple[Decimal, int] | None:
    """The number at the start of ``words`` ("two hundred and five point two") and how many words it takes. None when there is none."""
    total, group, used, spoken = 0, 0, 0, False
    last = 10**18  # the value that the next unit must be smaller than
    while used < len(words):
        word = words[used]
        if word in _UNITS and (_UNITS[word] < last):
            group, last, spoken = group + _UNITS[word], 1, True
        elif word in _TENS and last > 10:
            group, last, spoken = group + _TENS[word], 10, True
        elif word == "hundred" and spoken and 0 < group < 100:
            group, last = group * 100, 100
        elif word in _SCALES and spoken and group:
            total, group, last = total + group * _SCALES[word], 0, 1000
        elif word in ("a", "an") and not spoken and used + 1 < len(words) and (words[used + 1] == "hundred" or words[used + 1] in _SCALES):
            group, spoken = 1, True
        elif not (word == "and" and spoken and last >= 100 and used + 1 < len(words) and words[used + 1] in _UNITS | _TENS):
            break
        used += 1
    if not spoken:
        return None
    decimals, taken = _english_decimals(words[used:])
    return Decimal(f"{total + group}{decimals}"), used + taken


def _english_decimals(words: Sequence[str]) -> tuple[str, int]:
    if len(words) < 2 or words[0] != "point":
        return "", 0
    found = ""
    for word in words[1:13]:
        value = 0 if word in ("oh", "o") else _UNITS.get(word, 10)
        if value > 9:
            break
        found += str(value)
    return (f".{found}", 1 + len(found)) if found else ("", 0)


def chinese(text: str) -> Decimal | None:
    """The value of a Chinese numeral such as 三百二十, 一万五, 二点五 or 二零二六; None when it is none."""
    whole, _, fraction = text.partition("点")
    value = _chinese_whole(whole)
    if value is None or ("点" in text and not fraction):
        return None
    if not fraction:
        return Decimal(value)
    if len(fraction) > 12 or any(character not in _ZH_DIGITS for character in fraction):
        return None
    return Decimal(f"{value}.{''.join(str(_ZH_DIGITS[character]) for character in fraction)}")


def _chinese_whole(text: str) -> int | None:
    if not text or len(text) > DIGIT_LIMIT:
        return None
    if all(character in _ZH_DIGITS for character in text):
        return int("".join(str(_ZH_DIGITS[character]) for character in text))
    total, section, digit, last_unit = 0, 0, -1, 0
    for character in text:
        if character in _ZH_DIGITS:
            if digit > 0:
                return None
            digit = _ZH_DIGITS[character]
            if digit == 0:
                last_unit = 0
        elif character in _ZH_UNITS:
            last_unit = _ZH_UNITS[character]
            section += (1 if digit < 0 else digit) * last_unit
            digit = -1
        elif character in _ZH_SCALES:
            last_unit = _ZH_SCALES[character]
            section += max(digit, 0)
            # 一亿两千万 adds a smaller scale, 一万亿 multiplies by a larger one
            total = total + section * last_unit if total >= last_unit else (total + section) * last_unit
            section, digit = 0, -1
        else:
            return None
    # 三百五 is 350: a last digit without a unit counts a tenth of the unit before it
    tail = max(digit, 0) * (last_unit // 10 if last_unit > 10 else 1)
    return total + section + tail
