"""What may not have arrived, from the number of bytes that were not acknowledged."""

from __future__ import annotations

from mqtt_control.unconfirmed import MAX_KEPT, Unconfirmed


def test_bytes_are_confirmed_from_the_front() -> None:
    sent: Unconfirmed[str] = Unconfirmed()
    for message, size in (("a", 10), ("b", 20), ("c", 30)):
        sent.wrote(size)
        sent.sent(message)
    sent.wrote(2)  # a pong
    sent.confirm(unacknowledged=62)
    assert sent.messages == ["a", "b", "c"]
    sent.confirm(unacknowledged=52)
    assert sent.messages == ["b", "c"]
    sent.confirm(unacknowledged=32)  # the whole of c is missing, and the pong
    assert sent.messages == ["c"]
    sent.confirm(unacknowledged=2)
    assert not sent
    assert sent.messages == []


def test_more_unacknowledged_than_written_confirms_nothing() -> None:
    sent: Unconfirmed[str] = Unconfirmed()
    sent.wrote(10)
    sent.sent("a")
    sent.confirm(unacknowledged=5000)
    assert sent.messages == ["a"]


def test_it_is_bounded() -> None:
    sent: Unconfirmed[int] = Unconfirmed()
    for number in range(MAX_KEPT + 5):
        sent.wrote(1)
        sent.sent(number)
    assert sent.messages == list(range(5, MAX_KEPT + 5))
