"""The connection's state machine: bytes by hand in, events and bytes out, on a clock that the test sets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mqtt_control.codec import Connect, Publish, Pubrel, Subscribe, encode
from mqtt_control.connection import Closed, CloseReason, Connection, ConnectRequested, Event, MessageReceived, ReturnCode, State

FIRMWARE_CONNECT = bytes.fromhex("10 17 0004 4D515454 04 C2 00F0 0003 413042 0002 7573 0002 7077")
CONNACK_OK = bytes.fromhex("20 02 00 00")
PINGREQ = bytes.fromhex("C0 00")
PINGRESP = bytes.fromhex("D0 00")
LIMIT = 131072


def new(*, now: float = 0.0, limit: int = LIMIT) -> Connection:
    return Connection(now=now, connect_timeout_s=10, max_packet_bytes=limit)


def let_in(connect: bytes = FIRMWARE_CONNECT, *, now: float = 0.0, limit: int = LIMIT) -> Connection:
    connection = new(now=now, limit=limit)
    (request,) = connection.receive_data(connect, now)
    assert isinstance(request, ConnectRequested)
    assert connection.accept() == []
    assert connection.data_to_send() == CONNACK_OK
    return connection


def reasons(events: list[Event]) -> list[CloseReason]:
    return [event.reason for event in events if isinstance(event, Closed)]


def test_check_018_firmware_connect_is_put_to_the_shell_before_any_answer() -> None:
    connection = new()
    assert connection.receive_data(FIRMWARE_CONNECT, 0) == [ConnectRequested("A0B", "us", b"pw", 240, True)]
    assert connection.data_to_send() == b""
    assert connection.accept() == []
    assert connection.data_to_send() == CONNACK_OK
    assert connection.data_to_send() == b""
    assert connection.state is State.CONNECTED


def test_check_018_nothing_behind_a_refused_connect_is_looked_at() -> None:
    connection = new()
    events = connection.receive_data(FIRMWARE_CONNECT + bytes.fromhex("30 04 0001 61 78") + PINGREQ, 0)
    assert len(events) == 1
    assert reasons(connection.refuse(ReturnCode.NOT_AUTHORIZED)) == [CloseReason.REFUSED]
    assert connection.data_to_send() == bytes.fromhex("20 02 00 05")
    assert connection.receive_data(PINGREQ, 0) == []
    assert connection.data_to_send() == b""


def test_what_came_with_the_connect_is_handled_after_acceptance_in_order() -> None:
    connection = new()
    connection.receive_data(FIRMWARE_CONNECT + bytes.fromhex("30 04 0001 61 78") + PINGREQ + bytes.fromhex("E0 00") + PINGREQ, 0)
    events = connection.accept()
    assert events[0] == MessageReceived("a", b"x")
    assert reasons(events) == [CloseReason.DISCONNECT]
    assert connection.data_to_send() == CONNACK_OK + PINGRESP


def test_a_large_publish_may_follow_the_connect_at_once() -> None:
    connection = new()
    publish = encode(Publish("t", b"x" * 65536))
    connection.receive_data(FIRMWARE_CONNECT + publish[:30000], 0)
    connection.receive_data(publish[30000:], 0)
    assert connection.accept() == [MessageReceived("t", b"x" * 65536)]


def test_bytes_kept_while_a_connect_is_judged_are_bounded() -> None:
    connection = new(limit=65536)
    connection.receive_data(FIRMWARE_CONNECT, 0)
    assert connection.receive_data(b"\x30" * 65536, 0) == []
    assert reasons(connection.receive_data(b"\x30", 0)) == [CloseReason.TOO_LARGE]


def test_judging_needs_a_connect() -> None:
    with pytest.raises(RuntimeError):
        new().accept()
    with pytest.raises(RuntimeError):
        let_in().refuse(ReturnCode.NOT_AUTHORIZED)


@pytest.mark.parametrize(
    ("raw", "reason", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", CloseReason.MALFORMED, b""),
        (PINGREQ, CloseReason.VIOLATION, b""),
        (bytes.fromhex("30 04 0001 61 78"), CloseReason.VIOLATION, b""),
        (bytes.fromhex("20 02 00 00"), CloseReason.VIOLATION, b""),
        (bytes.fromhex("10 0D 0004 4D515454 05 02 0000 00 0000"), CloseReason.UNSUPPORTED_PROTOCOL, bytes.fromhex("20 02 00 01")),
        (bytes.fromhex("10 0E 0006 4D5149736470 03 02 0000 0000"), CloseReason.UNSUPPORTED_PROTOCOL, bytes.fromhex("20 02 00 01")),
        (bytes.fromhex("10 0C 0004 4D515454 04 00 0000 0000"), CloseReason.REFUSED, bytes.fromhex("20 02 00 02")),
        (bytes.fromhex("10 FF FF 7F"), CloseReason.TOO_LARGE, b""),
    ],
)
def test_check_028_what_is_no_connect_ends_the_connection(raw: bytes, reason: CloseReason, answer: bytes) -> None:
    connection = new()
    assert reasons(connection.receive_data(raw, 0)) == [reason]
    assert connection.data_to_send() == answer
    assert connection.state is State.CLOSED
    assert connection.next_timeout() is None


def test_nobody_unknown_makes_us_keep_more_than_8_kb() -> None:
    assert new().receive_data(bytes.fromhex("10 FD 3F"), 0) == []  # 8189 and 3 of header
    assert reasons(new().receive_data(bytes.fromhex("10 FE 3F"), 0)) == [CloseReason.TOO_LARGE]


def test_check_028_slow_connect_is_timed_out() -> None:
    connection = new(now=100.0)
    assert connection.next_timeout() == 110.0
    for index in range(10):  # a byte a second does not help
        assert connection.receive_data(FIRMWARE_CONNECT[index : index + 1], 100.0 + index) == []
    assert connection.handle_timer(109.9) == []
    assert reasons(connection.handle_timer(110.0)) == [CloseReason.CONNECT_TIMEOUT]
    assert connection.handle_timer(111.0) == []


def test_check_022_silence_of_one_and_a_half_keepalives_ends_the_connection() -> None:
    connection = let_in(now=50.0)
    assert connection.next_timeout() == 50.0 + 360.0
    assert connection.receive_data(PINGREQ, 170.0) == []
    assert connection.data_to_send() == PINGRESP
    assert connection.next_timeout() == 170.0 + 360.0
    assert connection.handle_timer(410.0) == []
    connection.receive_data(b"\x30", 500.0)  # part of a packet is none
    assert connection.next_timeout() == 530.0
    assert reasons(connection.handle_timer(530.0)) == [CloseReason.KEEPALIVE_TIMEOUT]


def test_check_022_keepalive_0_means_none() -> None:
    connection = let_in(bytes.fromhex("10 17 0004 4D515454 04 C2 0000 0003 413042 0002 7573 0002 7077"))
    assert connection.next_timeout() is None
    assert connection.handle_timer(1e9) == []
    assert connection.state is State.CONNECTED


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_check_020_subscriptions_are_confirmed_with_qos_0(qos: int) -> None:
    connection = let_in()
    assert connection.receive_data(bytes.fromhex(f"82 0A 0001 0001 23 0{qos} 0001 61 0{qos}"), 1) == []
    assert connection.data_to_send() == bytes.fromhex("90 04 0001 00 00")
    assert connection.receive_data(bytes.fromhex("A2 05 0002 0001 23"), 1) == []
    assert connection.data_to_send() == bytes.fromhex("B0 02 0002")


def test_check_020_a_long_subscribe_gets_as_many_return_codes() -> None:
    connection = let_in()
    connection.receive_data(encode(Subscribe(7, tuple((f"topic/{index}", index % 3) for index in range(500)))), 1)
    # 2 + 500 bytes: a remaining length of two digits, 0xF6 0x03
    assert connection.data_to_send() == bytes.fromhex("90 F6 03 0007") + b"\0" * 500


def test_check_027_qos_1_is_acknowledged() -> None:
    connection = let_in()
    assert connection.receive_data(bytes.fromhex("32 06 0001 61 000A 78"), 1) == [MessageReceived("a", b"x")]
    assert connection.data_to_send() == bytes.fromhex("40 02 000A")


def test_check_027_qos_2_is_handed_out_once() -> None:
    connection = let_in()
    first, repeated, release = bytes.fromhex("34 06 0001 61 000A 78"), bytes.fromhex("3C 06 0001 61 000A 78"), bytes.fromhex("62 02 000A")
    assert connection.receive_data(first, 1) == [MessageReceived("a", b"x")]
    assert connection.receive_data(repeated, 1) == []
    assert connection.data_to_send() == bytes.fromhex("50 02 000A 50 02 000A")
    assert connection.receive_data(release + release, 1) == []
    assert connection.data_to_send() == bytes.fromhex("70 02 000A 70 02 000A")
    assert connection.receive_data(first, 1) == [MessageReceived("a", b"x")]  # the identifier is free again


def test_check_027_qos_2_without_release_is_bounded() -> None:
    connection = let_in()
    for packet_id in range(1, 65):
        assert connection.receive_data(encode(Publish("a", b"", 2, packet_id=packet_id)), 1)
    connection.receive_data(encode(Pubrel(1)), 1)
    assert reasons(connection.receive_data(encode(Publish("a", b"", 2, packet_id=65)), 1)) == []
    assert reasons(connection.receive_data(encode(Publish("a", b"", 2, packet_id=66)), 1)) == [CloseReason.VIOLATION]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (FIRMWARE_CONNECT, CloseReason.VIOLATION),
        (bytes.fromhex("10 0D 0004 4D515454 05 02 0000 00 0000"), CloseReason.VIOLATION),
        (bytes.fromhex("40 02 0001"), CloseReason.VIOLATION),
        (bytes.fromhex("90 03 0001 00"), CloseReason.VIOLATION),
        (bytes.fromhex("D0 00"), CloseReason.VIOLATION),
        (bytes.fromhex("30 00"), CloseReason.MALFORMED),
        (bytes.fromhex("30 FF FF FF 7F"), CloseReason.TOO_LARGE),
        (bytes.fromhex("E0 00"), CloseReason.DISCONNECT),
    ],
)
def test_what_ends_a_connection_that_was_let_in(raw: bytes, reason: CloseReason) -> None:
    connection = let_in()
    events = connection.receive_data(bytes.fromhex("30 04 0001 61 78") + raw + PINGREQ, 1)
    assert events[0] == MessageReceived("a", b"x")
    assert reasons(events) == [reason]
    assert connection.data_to_send() == b""
    assert not connection.publish(b"t", b"x")


def test_check_029_publish_is_qos_0_and_not_retained() -> None:
    connection = let_in()
    assert connection.publish(b"a/b", b"{}")
    assert connection.data_to_send() == bytes.fromhex("30 07 0003 612F62 7B7D")


def test_nothing_is_published_before_acceptance() -> None:
    connection = new()
    assert not connection.publish(b"a", b"x")
    connection.receive_data(FIRMWARE_CONNECT, 0)
    assert not connection.publish(b"a", b"x")
    assert connection.data_to_send() == b""


def test_close_sends_what_is_queued_and_nothing_more() -> None:
    connection = let_in()
    connection.publish(b"a", b"x")
    connection.close()
    assert connection.data_to_send() == bytes.fromhex("30 04 0001 61 78")
    assert not connection.publish(b"a", b"x")
    connection.close()


def test_check_024_one_byte_at_a_time() -> None:
    connection = new()
    events: list[Event] = []
    for byte in FIRMWARE_CONNECT:
        events += connection.receive_data(bytes((byte,)), 1)
    assert len(events) == 1
    connection.accept()
    events = [event for byte in bytes.fromhex("30 04 0001 61 78") for event in connection.receive_data(bytes((byte,)), 1)]
    assert events == [MessageReceived("a", b"x")]


def test_check_094_a_password_does_not_show() -> None:
    (request,) = new().receive_data(FIRMWARE_CONNECT, 0)
    assert "pw" not in repr(request)


class Machine(RuleBasedStateMachine):
    """Any order of bytes, judgements and time: at most one end, nothing after it, no exception."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.connection = new(now=0.0, limit=65536)
        self.ends = 0

    def take(self, events: list[Event]) -> None:
        for event in events:
            assert self.ends == 0
            self.ends += isinstance(event, Closed)

    @rule(
        data=st.one_of(
            st.binary(max_size=40),
            st.sampled_from([FIRMWARE_CONNECT, PINGREQ, bytes.fromhex("30 04 0001 61 78"), bytes.fromhex("34 06 0001 61 000A 78")]),
            st.builds(encode, st.builds(Connect, st.just("c"), st.integers(0, 100))),
        )
    )
    def receive(self, data: bytes) -> None:
        self.take(self.connection.receive_data(data, self.now))

    @rule(accept=st.booleans())
    def judge(self, *, accept: bool) -> None:
        if self.connection.state is State.JUDGING:
            self.take(self.connection.accept() if accept else self.connection.refuse(ReturnCode.NOT_AUTHORIZED))

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.connection.handle_timer(self.now))

    @rule()
    def send(self) -> None:
        assert self.connection.publish(b"t", b"x") == (self.connection.state is State.CONNECTED)
        self.connection.data_to_send()

    @invariant()
    def closed_is_closed(self) -> None:
        assert (self.ends == 1) == (self.connection.state is State.CLOSED)
        if self.connection.state is State.CLOSED:
            assert self.connection.next_timeout() is None


TestMachine = Machine.TestCase


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_check_098_noise_after_acceptance_never_raises(chunks: list[bytes]) -> None:
    connection = let_in()
    for chunk in chunks:
        connection.receive_data(chunk, 1)
    connection.data_to_send()


def test_check_098_a_hundred_thousand_damaged_packets() -> None:
    noise = random.Random(98)
    good = [FIRMWARE_CONNECT, PINGREQ, bytes.fromhex("30 04 0001 61 78"), bytes.fromhex("34 06 0001 61 000A 78")]
    good += [bytes.fromhex("62 02 000A"), bytes.fromhex("82 0A 0001 0001 23 01 0001 61 02"), bytes.fromhex("A2 05 0002 0001 23")]
    connection = new()
    ends = 0
    for _ in range(100_000):
        raw = bytearray(noise.choice(good))
        raw[noise.randrange(len(raw))] = noise.randrange(256)
        for event in connection.receive_data(bytes(raw), 0):
            if isinstance(event, ConnectRequested):
                ends += len(reasons(connection.accept()))
            ends += isinstance(event, Closed)
        connection.data_to_send()
        if connection.state is State.CLOSED:
            connection = let_in() if noise.random() < 0.8 else new()
    assert ends > 1000
