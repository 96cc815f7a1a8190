from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udp_audio.replay import ReplayWindow, Verdict


def test_check_069_forged_number_changes_nothing() -> None:
    window = ReplayWindow()
    window.commit(1)
    assert window.check(0xFFFFFFF0) is Verdict.FAR
    assert window.check(2) is Verdict.FRESH


def test_check_070_each_number_once() -> None:
    window = ReplayWindow()
    for sequence in (1, 2, 5, 3):
        assert window.check(sequence) is Verdict.FRESH
        window.commit(sequence)
    assert [window.check(sequence) for sequence in (0, 1, 2, 3, 5)] == [Verdict.DUPLICATE] * 5
    assert window.check(4) is Verdict.FRESH


def test_bounds_of_the_window() -> None:
    window = ReplayWindow()
    window.commit(100)
    assert window.check(37) is Verdict.FRESH
    assert window.check(36) is Verdict.OLD
    assert window.check(164) is Verdict.FRESH
    assert window.check(165) is Verdict.LEAP
    assert window.check(1099) is Verdict.LEAP
    assert window.check(1100) is Verdict.FAR


def test_check_alone_commits_nothing() -> None:
    window = ReplayWindow()
    assert window.check(7) is window.check(7) is Verdict.FRESH
    assert window.highest == 0


def test_commit_of_the_largest_number_is_cheap() -> None:
    window = ReplayWindow()
    window.commit(2**32 - 1)
    assert window.check(2**32 - 1) is Verdict.DUPLICATE
    assert window.check(2**32 - 2) is Verdict.FRESH


@pytest.mark.parametrize("size", [0, 32, 96, 2048])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="not possible"):
        ReplayWindow(size=size)


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), max_size=200), st.sampled_from([64, 128]))
def test_against_a_set(sequences: list[int], size: int) -> None:
    window = ReplayWindow(size=size)
    seen = {0}
    for sequence in sequences:
        highest = max(seen)
        verdict = window.check(sequence)
        if sequence <= highest - size:
            assert verdict is Verdict.OLD
        elif sequence > highest + size:
            assert verdict is Verdict.LEAP
        else:
            assert verdict is (Verdict.DUPLICATE if sequence in seen else Verdict.FRESH)
        window.commit(sequence)
        seen.add(sequence)
        assert window.highest == max(seen)
