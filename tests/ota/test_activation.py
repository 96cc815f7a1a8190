"""Activation codes, with the clock in the test's hand."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.activation import Activations, TooManyAttemptsError, TooManyOffersError, UnknownCodeError

A = ("02:00:00:00:00:01", "one")
B = ("02:00:00:00:00:02", "two")


def test_code_stays_until_it_expires() -> None:
    activations = Activations()
    first = activations.offer(A, source="x", now=0)
    again = activations.offer(A, source="x", now=599)
    assert (first.fresh, again.fresh) == (True, False)
    assert (again.code, again.challenge) == (first.code, first.challenge)
    assert re.fullmatch("[0-9]{6}", first.code)
    later = activations.offer(A, source="x", now=600)
    assert later.fresh
    assert later.challenge != first.challenge
    with pytest.raises(UnknownCodeError):
        activations.confirm(first.code if first.code != later.code else "none", source="x", now=601)


def test_confirmation() -> None:
    activations = Activations()
    a, b = activations.offer(A, source="x", now=0), activations.offer(B, source="x", now=0)
    assert a.code != b.code
    assert activations.state(A, challenge=None, now=1) == "pending"
    assert activations.confirm(f" {a.code} ", source="x", now=1) == A
    assert activations.state(A, challenge=a.challenge, now=2) == "confirmed"
    assert activations.state(A, challenge=b.challenge, now=2) == "none"
    assert activations.state(B, challenge=b.challenge, now=2) == "pending"
    assert activations.state(A, challenge=a.challenge, now=600) == "none"
    with pytest.raises(UnknownCodeError):  # a code serves once
        activations.confirm(a.code, source="x", now=3)


def test_confirmation_taken_back() -> None:
    activations = Activations()
    offer = activations.offer(A, source="x", now=0)
    activations.confirm(offer.code, source="x", now=1)
    activations.unconfirm(A)
    activations.unconfirm(B)
    assert activations.state(A, challenge=None, now=1) == "pending"
    assert activations.confirm(offer.code, source="x", now=2) == A


def test_confirmed_pair_that_asks_again_gets_a_new_code() -> None:
    activations = Activations()
    offer = activations.offer(A, source="x", now=0)
    activations.confirm(offer.code, source="x", now=1)
    assert activations.offer(A, source="x", now=2).challenge != offer.challenge


def test_guesses_are_limited_by_source_and_in_all() -> None:
    activations = Activations()
    code = activations.offer(A, source="x", now=0).code
    for source in range(10):
        for _ in range(10):
            with pytest.raises(UnknownCodeError):
                activations.confirm("none", source=str(source), now=0)
    with pytest.raises(TooManyAttemptsError):
        activations.confirm(code, source="0", now=0)
    with pytest.raises(TooManyAttemptsError):
        activations.confirm(code, source="fresh", now=0)
    assert activations.confirm(code, source="other", now=60) == A


def test_offers_are_bounded() -> None:
    activations = Activations(max_offers=2)
    activations.offer(A, source="x", now=0)
    activations.offer(B, source="x", now=100)
    with pytest.raises(TooManyOffersError):
        activations.offer(("c", "c"), source="x", now=200)
    assert activations.offer(("c", "c"), source="x", now=600).fresh  # the first has expired


def test_one_source_cannot_take_all_offers() -> None:
    activations = Activations()
    for n in range(300):
        activations.offer((str(n), "x"), source="flood", now=0)
    with pytest.raises(TooManyOffersError):
        activations.offer(("more", "x"), source="flood", now=0)
    assert activations.offer(A, source="honest", now=0).fresh


def test_proof_is_kept_with_the_offer() -> None:
    activations = Activations()
    activations.record_proof(A, serial_number="S", hmac_hex="ab")
    assert activations.proof(A) == ("", "")
    activations.offer(A, source="x", now=0)
    activations.record_proof(A, serial_number="S", hmac_hex="ab")
    assert activations.proof(A) == ("S", "ab")


@given(st.text())
def test_any_text_may_come_as_code_or_challenge(text: str) -> None:
    activations = Activations()
    offer = activations.offer(A, source="x", now=0)
    if text.strip() != offer.code:
        with pytest.raises(UnknownCodeError):
            activations.confirm(text, source="x", now=0)
    assert activations.state(A, challenge=text, now=0) == "none"
