"""The conformance page and the tests it speaks of agree."""

from __future__ import annotations

from tests.conformance import PAGE, SECTIONS, WITHOUT_TEST, numbered_tests, page


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.conformance > docs/conformance.md"


def test_every_point_has_tests_or_a_reason_but_not_both() -> None:
    points = [number for section in SECTIONS.values() for number in section]
    assert points == list(range(1, 99))
    numbered = {number for test in numbered_tests() for number in test.numbers}
    assert numbered | set(WITHOUT_TEST) == set(points)
    assert not numbered & set(WITHOUT_TEST)
