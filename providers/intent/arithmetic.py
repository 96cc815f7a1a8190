"""Sums that are asked for in words, found and worked out without ``eval`` (P).

:func:`find_expression` reads a sentence ("what is 25% of 80", "12 加 30 等于多少") into a canonical expression whose tokens stand apart by
spaces: numbers, ``+ - * / ^ ( )``, ``sqrt`` before and ``%`` after its operand. :func:`evaluate` works such an expression out exactly.
Both are bounded: 40 tokens, 12 levels, exponents to 64, values to 10**18.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Final, Literal

from providers.intent import numerals

TOKEN_LIMIT: Final = 40
DEPTH_LIMIT: Final = 12
EXPONENT_LIMIT: Final = 64
VALUE_LIMIT: Final = 10**18

Reason = Literal["syntax", "division by zero", "too large", "no real root"]


class CalculationError(Exception):
    """The expression has no answer; ``reason`` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


# -- from words to an expression ---------------------------------------------------------------------------------------
_ASKED_EN = re.compile(
    r"^(?:what is|what's|whats|what does|how much is|how much are|how much|what are|calculate|compute|work out|tell me|solve|evaluate|"
    r"what do you get (?:for|if you (?:take|calculate)))\s+(?:the (?:result|sum|value) of )?"
)
_ASKED_EN_AFTER = re.compile(r"\s*(?:equals?|equal to|make|makes|is|is what|equals what|=)\s*(?:what|how much)?$")
_ASKED_ZH = re.compile(r"^(?:请问|帮我|请|你知道|那么|那)*(?:计算一下|计算|算一下|算一算|算算|算|求)?")
_ASKED_ZH_AFTER = re.compile(r"(?:的结果)?(?:等于多少|等于几|等于什么|是多少|得多少|得几|是几|一共多少|多少|等于|=)[呢啊呀]?$")
# 9/11 and 7-eleven are names, 2024-11-22 is a date, 555-1234 a telephone number; "10-3" is a sum only when it is asked for
_NAMES = re.compile(r"(?:9[/-]11|7/11|24/7|50/50|20/20|\d+-[a-z]+|\d+-\d+(?:-\d+)+|\d+/\d+/\d+|\d*-?\d{3,}-\d{4,})")
_BARE_RANGE = re.compile(r"\d+[-/]\d+")

_WORDS_EN: Final[dict[str, tuple[str, ...]]] = {
    "plus": ("+",),
    "add": ("+",),
    "minus": ("-",),
    "negative": ("-",),
    "times": ("*",),
    "multiplied by": ("*",),
    "x": ("*",),
    "divided by": ("/",),
    "over": ("/",),
    "to the power of": ("^",),
    "squared": ("^", "2"),
    "cubed": ("^", "3"),
    "percent of": ("%", "*"),
    "per cent of": ("%", "*"),
    "% of": ("%", "*"),
    "percent": ("%",),
    "per cent": ("%",),
    "the square root of": ("sqrt",),
    "square root of": ("sqrt",),
    "a half of": ("0.5", "*"),
    "half of": ("0.5", "*"),
    "a quarter of": ("0.25", "*"),
    "open parenthesis": ("(",),
    "close parenthesis": (")",),
}
_WORDS_ZH: Final[dict[str, tuple[str, ...]]] = {
    "加上": ("+",),
    "加": ("+",),
    "减去": ("-",),
    "减": ("-",),
    "乘以": ("*",),
    "乘上": ("*",),
    "乘": ("*",),
    "除以": ("/",),
    "负": ("-",),
    "的平方根": ("root",),
    "的平方": ("^", "2"),
    "的立方": ("^", "3"),
    "根号": ("sqrt",),
    "的一半": ("*", "0.5"),
    "左括号": ("(",),
    "右括号": (")",),
}
_SIGNS: Final[dict[str, tuple[str, ...]]] = {
    "+": ("+",),
    "-": ("-",),
    "*": ("*",),
    "×": ("*",),
    "/": ("/",),
    "÷": ("/",),
    "^": ("^",),
    "%": ("%",),
    "(": ("(",),
    ")": (")",),
}
_ENGLISH_WORDS = sorted(_WORDS_EN, key=len, reverse=True)
_CHINESE_WORDS = sorted(_WORDS_ZH, key=len, reverse=True)
_NUMBER_ZH = re.compile(r"(\d[\d,]*(?:\.\d+)?)([万亿]?)|([零〇一二两三四五六七八九十百千万亿]+(?:点[零〇一二两三四五六七八九]+)?)")
_NUMBER_EN = re.compile(r"\d[\d,]*(?:\.\d+)?")
_PERCENT_ZH = "百分之"


def find_expression(text: str, *, chinese: bool) -> str | None:
    """The sum that a normalised sentence asks for, None when it asks for none.

    The whole sentence must be the sum (and its "what is ..."), with at least one operation in it.
    """
    core = _strip_question_zh(text) if chinese else _strip_question_en(text)
    if not core or len(core) > 120 or _NAMES.fullmatch(core) or (core == text and _BARE_RANGE.fullmatch(core)):
        return None
    tokens = _read_chinese(core.replace(" ", "")) if chinese else _read_english(core)
    if tokens is None or not _is_operation(tokens):
        return None
    expression = " ".join(tokens)
    try:
        evaluate(expression)
    except CalculationError as error:
        if error.reason == "syntax":
            return None
    return expression


def _is_operation(tokens: list[str]) -> bool:
    """True for at least two operands, or one and a power, root or percentage; "-5" and "20 %" ask for nothing."""
    operands = sum(token[0].isdigit() for token in tokens)
    return operands >= 2 or "sqrt" in tokens


def _strip_question_en(text: str) -> str:
    return _ASKED_EN_AFTER.sub("", _ASKED_EN.sub("", text.strip(" ="))).strip()


def _strip_question_zh(text: str) -> str:
    return _ASKED_ZH.sub("", _ASKED_ZH_AFTER.sub("", text.strip(" ="))).strip()


def _read_english(text: str) -> list[str] | None:
    tokens: list[str] = []
    rest = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)  # twenty-five
    while rest and len(tokens) < TOKEN_LIMIT:
        number = _NUMBER_EN.match(rest)
        if number is not None:
            value = numerals.digits(number.group())
            if value is None:
                return None
            tokens.append(str(value))
            rest = rest[number.end() :].lstrip()
            continue
        spoken = numerals.english(rest.split(" "))
        if spoken is not None:
            tokens.append(str(spoken[0]))
            rest = " ".join(rest.split(" ")[spoken[1] :])
            continue
        taken = _take(rest, _ENGLISH_WORDS, _WORDS_EN, tokens, words=True)
        if not taken:
            return None
        rest = rest[taken:].lstrip()
    return tokens if not rest else None


def _read_chinese(text: str) -> list[str] | None:
    tokens: list[str] = []
    rest = text
    percent = False
    while rest and len(tokens) < TOKEN_LIMIT:
        if rest.startswith(_PERCENT_ZH) and not percent:
            percent = True
            rest = rest[len(_PERCENT_ZH) :]
            continue
        number = _NUMBER_ZH.match(rest)
        if number is not None:
            value = _chinese_value(number)
            if value is None:
                return None
            tokens += [str(value), "%"] if percent else [str(value)]
            percent = False
            rest = rest[number.end() :]
            continue
        if percent:
            return None
        if rest.startswith("的") and tokens and (rest.startswith("的百分之") or rest[1:2].isdigit()):
            tokens.append("*")  # 80的百分之二十, 20%的80
            rest = rest[1:]
            continue
        taken = _take(rest, _CHINESE_WORDS, _WORDS_ZH, tokens, words=False)
        if not taken:
            return None
        rest = rest[taken:]
    return _root_before(tokens) if not rest and not percent else None


def _chinese_value(number: re.Match[str]) -> Decimal | None:
    if number.group(3):
        return numerals.chinese(number.group(3))
    value = numerals.digits(number.group(1))
    return None if value is None else value * {"": 1, "万": 10**4, "亿": 10**8}[number.group(2)]


def _root_before(tokens: list[str]) -> list[str] | None:
    """16的平方根: the sign comes after the number that it belongs to."""
    for index, token in enumerate(tokens):
        if token == "root":  # noqa: S105 - a token of an expression
            if index == 0 or not tokens[index - 1][0].isdigit():
                return None
            tokens[index - 1], tokens[index] = "sqrt", tokens[index - 1]
    return tokens


def _take(rest: str, ordered: list[str], table: dict[str, tuple[str, ...]], tokens: list[str], *, words: bool) -> int:
    """Reads one operator: appends its tokens and says how many characters it takes, 0 when there is none."""
    for word in ordered:
        if rest.startswith(word) and not (words and rest[len(word) : len(word) + 1].isalpha()):
            tokens += table[word]
            return len(word)
    if rest[0] in _SIGNS:
        tokens += _SIGNS[rest[0]]
        return 1
    return 0


# -- from an expression to a value -------------------------------------------------------------------------------------
def evaluate(expression: str) -> Fraction:
    """The value of a canonical expression. Raises CalculationError."""
    tokens = expression.split()
    if not 0 < len(tokens) <= TOKEN_LIMIT:
        raise CalculationError("syntax")
    parser = _Parser(tokens)
    value = parser.sum(0)
    if parser.at != len(tokens):
        raise CalculationError("syntax")
    return value


class _Parser:
    """Recursive descent; ``at`` is the next token."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = self.take()
            other = self.product(depth)
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while self.peek() in ("*", "/"):
            sign = self.take()
            other = self.signed(depth)
            if sign == "/" and other == 0:
                raise CalculationError("division by zero")
            value = _bounded(value * other if sign == "*" else value / other)
        return value

    def signed(self, depth: int) -> Fraction:
        if depth > DEPTH_LIMIT:
            raise CalculationError("syntax")
        if self.peek() == "-":
            self.take()
            return -self.signed(depth + 1)
        if self.peek() == "sqrt":
            self.take()
            return _root(self.signed(depth + 1))
        return self.power(depth)

    def power(self, depth: int) -> Fraction:
        value = self.operand(depth)
        if self.peek() == "^":
            self.take()
            return _power(value, self.signed(depth + 1))
        return value

    def operand(self, depth: int) -> Fraction:
        token = self.take()
        if token == "(":  # noqa: S105 - a token of an expression
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise CalculationError("syntax")
        else:
            number = numerals.digits(token)
            if number is None:
                raise CalculationError("syntax")
            value = _bounded(Fraction(number))
        if self.peek() == "%":
            self.take()
            value /= 100
        return value


def _bounded(value: Fraction) -> Fraction:
    if abs(value) > VALUE_LIMIT or value.denominator > VALUE_LIMIT**2:
        raise CalculationError("too large")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > EXPONENT_LIMIT:
        raise CalculationError("too large")
    if base == 0 and exponent < 0:
        raise CalculationError("division by zero")
    result = Fraction(1)
    for _ in range(abs(int(exponent))):
        result = _bounded(result * base)
    return result if exponent >= 0 else 1 / result


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise CalculationError("no real root")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        return Fraction(top, bottom)
    return Fraction(math.sqrt(value)).limit_denominator(10**9)
