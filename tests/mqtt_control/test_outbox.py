"""What waits for devices at a broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.outbox import HELD_PER_DEVICE, Outbox

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


def taken(outbox: Outbox) -> list[tuple[str, bytes]]:
    items = []
    while (item := outbox.take()) is not None:
        items.append(item)
    return items


def test_first_in_first_out_and_the_newest_is_refused_when_full() -> None:
    outbox = Outbox(max_messages=2)
    assert [outbox.put(A, b"1"), outbox.put(B, b"2"), outbox.put(A, b"3")] == [True, True, False]
    assert taken(outbox) == [(A, b"1"), (B, b"2")]
    assert outbox.put(A, b"4")


def test_held_messages_wait_in_order_with_the_one_that_failed_first() -> None:
    outbox = Outbox(max_messages=10)
    for payload in (b"1", b"2"):
        outbox.put(A, payload)
    outbox.put(B, b"b")
    item = outbox.take()
    assert item == (A, b"1")
    outbox.put_back(item)
    outbox.hold([A, B])
    outbox.put(A, b"3")
    assert taken(outbox) == []
    assert outbox.release(A) == 3
    outbox.put(A, b"4")
    assert taken(outbox) == [(A, b"1"), (A, b"2"), (A, b"3"), (A, b"4")]
    assert outbox.release_all() == 1
    assert taken(outbox) == [(B, b"b")]
    assert outbox.release(B) == 0


def test_of_too_many_held_messages_the_newest_stay() -> None:
    outbox = Outbox(max_messages=1000)
    for number in range(50):
        outbox.put(A, b"%d" % number)
    outbox.hold([A])
    for number in range(50, 100):
        outbox.put(A, b"%d" % number)
    outbox.release(A)
    assert taken(outbox) == [(A, b"%d" % number) for number in range(100 - HELD_PER_DEVICE, 100)]
    assert outbox.held_dropped == 100 - HELD_PER_DEVICE
    for number in range(70):
        outbox.put(A, b"%d" % number)
    outbox.hold([A])
    outbox.release(A)
    assert taken(outbox)[0] == (A, b"6")


def test_nothing_waits_for_a_device_that_is_gone() -> None:
    outbox = Outbox(max_messages=10)
    outbox.put(A, b"0")
    outbox.drop(A)
    assert taken(outbox) == [(A, b"0")], "what may be sent is sent"
    outbox.put(A, b"1")
    outbox.put(B, b"2")
    outbox.hold([A])
    assert outbox.held_dropped == 1, "B is not known any more"
    outbox.drop(A)
    outbox.put(A, b"3")
    assert taken(outbox) == [(A, b"3")]


STEPS = st.lists(st.sampled_from(["put a", "put b", "take", "fail", "hold", "release a", "release all"]), max_size=60)


@given(steps=STEPS)
def test_each_device_gets_its_messages_once_and_in_order(steps: list[str]) -> None:
    outbox = Outbox(max_messages=1000)
    sent: dict[str, list[int]] = {A: [], B: []}
    put: dict[str, list[int]] = {A: [], B: []}
    for number, step in enumerate(steps):
        match step.split():
            case ["put", name]:
                device = A if name == "a" else B
                outbox.put(device, b"%d" % number)
                put[device].append(number)
            case ["take"] | ["fail"]:
                item = outbox.take()
                if item is not None and step == "fail":
                    outbox.put_back(item)
                elif item is not None:
                    sent[item[0]].append(int(item[1]))
            case ["hold"]:
                outbox.hold([A, B])
            case ["release", "a"]:
                outbox.release(A)
            case ["release", "all"]:
                outbox.release_all()
    outbox.release_all()
    for device, payload in taken(outbox):
        sent[device].append(int(payload))
    assert sent == put
