"""Sums in words: what they are, and what is none."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.intent import numerals
from providers.intent.arithmetic import CalculationError, evaluate, find_expression
from providers.intent.normalise import has_chinese, normalise

SUMS = [
    ("What is 12 times 7?", 84),
    ("What's 12 x 7", 84),
    ("what is 12×7", 84),
    ("How much is 25% of 80?", 20),
    ("what is twenty five percent of eighty", 20),
    ("What's 3.5 plus 4?", Fraction(15, 2)),
    ("three point five plus four", Fraction(15, 2)),
    ("Calculate 1,250 divided by 5", 250),
    ("100 / 4 = ?", 25),
    ("what is two hundred and fifty minus thirty-seven", 213),
    ("what is one million plus a hundred", 1_000_100),
    ("what is 2 + 3 * 4", 14),
    ("what is (2 + 3) * 4", 20),
    ("what's the square root of 144", 12),
    ("what is 5 squared", 25),
    ("What is 10-3?", 7),
    ("What is 10 - 3?", 7),
    ("What's 3/4?", Fraction(3, 4)),
    ("what is 2 to the power of 10", 1024),
    ("what is minus 5 plus 3", -2),
    ("what does 7 plus 8 equal", 15),
    ("what is half of 90", 45),
    ("12 加 30 等于多少？", 42),
    ("12加30等于多少", 42),
    ("三乘以七是多少", 21),
    ("一百减二十五等于几", 75),
    ("两百五十除以五等于多少", 50),
    ("80的百分之25是多少", 20),
    ("百分之二十乘五十等于多少", 10),
    ("计算3.5乘4", 14),
    ("三点五加一点五等于几", 5),
    ("十六的平方根是多少", 4),
    ("五的平方等于多少", 25),
    ("一万二加三千等于多少", 15_000),
    ("2加3乘4等于多少", 14),
    ("负五加三等于多少", -2),
    ("100的一半是多少", 50),
]


@pytest.mark.parametrize(("sentence", "value"), SUMS)
def test_sums_are_found_and_worked_out(sentence: str, value: Fraction) -> None:
    plain = normalise(sentence)
    expression = find_expression(plain, chinese=has_chinese(plain))
    assert expression is not None
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "sentence",
    [
        "what is love",
        "what is 9/11",
        "24/7",
        "555-1234",
        "what is 2024-11-22",
        "what is five",
        "how much is 5 percent",
        "What is 7-Eleven?",
        "what is 20/20",
        "10-3",
        "3/4",
        "minus five",
        "twenty five",
        "two cats and one dog",
        "what is 5 plus",
        "what is plus 5 5",
        "what is (5 + 3",
        "one two three",
        "a plus b",
        "",
        "一加手机怎么样",
        "一加",
        "加油",
        "一二三四五",
        "百分之八十的人都喜欢",
        "一共多少",
        "三个苹果加两个梨",
        "百分之百分之五",
        "的平方根",
    ],
)
def test_other_sentences_are_no_sums(sentence: str) -> None:
    plain = normalise(sentence)
    assert find_expression(plain, chinese=has_chinese(plain)) is None


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("5 / 0", "division by zero"),
        ("0 ^ - 1", "division by zero"),
        ("9 ^ 99", "too large"),
        ("9 ^ 60", "too large"),
        ("999999999999 * 999999999999", "too large"),
        ("2 ^ 0.5", "too large"),
        ("sqrt - 4", "no real root"),
        ("", "syntax"),
        ("5 +", "syntax"),
        ("( 5", "syntax"),
        ("5 5", "syntax"),
        ("( " * 20 + "5" + " )" * 20, "syntax"),
        ("- " * 30 + "5", "syntax"),
        ("1 + " * 100 + "1", "syntax"),
        ("__import__ ( 5 )", "syntax"),
    ],
)
def test_what_has_no_answer_says_why(expression: str, reason: str) -> None:
    with pytest.raises(CalculationError) as caught:
        evaluate(expression)
    assert caught.value.reason == reason


def test_a_sum_without_an_answer_is_still_a_sum() -> None:
    assert find_expression("what is 5 divided by 0", chinese=False) == "5 / 0"


def test_roots_that_are_not_whole() -> None:
    assert abs(float(evaluate("sqrt 2")) - 1.4142135) < 1e-6


@given(st.lists(st.sampled_from(["1", "0", "2.5", "+", "-", "*", "/", "^", "%", "(", ")", "sqrt", "x", "99999999"]), max_size=45))
def test_no_expression_escapes_the_bounds(tokens: list[str]) -> None:
    try:
        value = evaluate(" ".join(tokens))
    except CalculationError:
        return
    assert abs(value) <= 10**18


@given(st.text(max_size=60), st.booleans())
def test_any_text_may_come(text: str, chinese: bool) -> None:
    find_expression(normalise(text), chinese=chinese)


@pytest.mark.parametrize(
    ("words", "value", "used"),
    [
        ("twenty five", 25, 2),
        ("two hundred and five", 205, 4),
        ("a thousand", 1000, 2),
        ("three million two hundred thousand", 3_200_000, 5),
        ("nineteen hundred", 1900, 2),
        ("five point oh two", "5.02", 4),
        ("five point", 5, 1),
        ("five and", 5, 1),
        ("two two", 2, 1),
        ("zero", 0, 1),
    ],
)
def test_english_numbers(words: str, value: int | str, used: int) -> None:
    assert numerals.english(words.split()) == (Decimal(value), used)


def test_no_english_number() -> None:
    assert numerals.english(["a", "dog"]) is None
    assert numerals.english(["and", "five"]) is None
    assert numerals.english([]) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("三十", 30),
        ("十二", 12),
        ("一百零五", 105),
        ("三百五", 350),
        ("一万五", 15_000),
        ("两千零二十六", 2026),
        ("二零二六", 2026),
        ("一亿两千万", 120_000_000),
        ("三点一四", "3.14"),
        ("零", 0),
        ("百", 100),
    ],
)
def test_chinese_numbers(text: str, value: int | str) -> None:
    assert numerals.chinese(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "点五", "五点", "三三百", "五点十", "三个", "一" * 40, "一点" + "二" * 20])
def test_no_chinese_number(text: str) -> None:
    assert numerals.chinese(text) is None


def test_digits() -> None:
    assert numerals.digits("1,250.5") == Decimal("1250.5")
    assert numerals.digits("12,5") is None
    assert numerals.digits("1" * 30) is None
