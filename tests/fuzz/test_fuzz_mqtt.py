"""Bytes at the MQTT core: whatever comes, in whatever pieces, nothing is raised and what is kept stays bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.codec import Connect, Disconnect, Pingreq, Publish, Pubrel, Subscribe, Unsubscribe, encode
from mqtt_control.connection import Closed, Connection, ConnectRequested, ReturnCode, State
from tests.fuzz.effort import effort

MAX_PACKET_BYTES = 65536

topics = st.text(st.characters(codec="utf-8", exclude_characters="\0#+"), min_size=1, max_size=20)
packets = st.one_of(
    st.builds(
        lambda keepalive_s, password: encode(Connect("GID_x@@@02_00_00_00_00_01@@@y", keepalive_s, username="u", password=password)),
        st.integers(0, 65535),
        st.binary(max_size=40),
    ),
    st.builds(lambda topic, payload: encode(Publish(topic, payload)), topics, st.binary(max_size=300)),
    st.builds(
        lambda topic, qos, number: encode(Publish(topic, b"{}", qos=qos, packet_id=number)),
        topics,
        st.integers(1, 2),
        st.integers(1, 65535),
    ),
    st.builds(lambda number: encode(Pubrel(number)), st.integers(1, 65535)),
    st.builds(lambda number, topic: encode(Subscribe(number, ((topic, 0),))), st.integers(1, 65535), topics),
    st.builds(lambda number, topic: encode(Unsubscribe(number, (topic,))), st.integers(1, 65535), topics),
    st.just(encode(Pingreq())),
    st.just(encode(Disconnect())),
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Good packets, some bytes of them changed, cut anywhere; or noise."""
    data = bytearray(b"".join(draw(st.lists(st.one_of(packets, packets, st.binary(max_size=60)), max_size=12))))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4)):
        if place < len(data):
            data[place] = value
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [bytes(data[begin:end]) for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@effort(4)
@given(streams(), st.booleans(), st.floats(0, 500))
def test_any_stream(pieces: list[bytes], let_in: bool, pause_s: float) -> None:
    now = 10.0
    connection = Connection(now=now, connect_timeout_s=10, max_packet_bytes=MAX_PACKET_BYTES)
    over = False

    def perform(events: list[object]) -> None:
        nonlocal over
        for event in events:
            assert not over, "nothing comes after the last event"
            if isinstance(event, ConnectRequested):
                verdict = connection.accept() if let_in else connection.refuse(ReturnCode.NOT_AUTHORIZED)
                perform(list(verdict))
            over = over or isinstance(event, Closed)

    for piece in pieces:
        now += 0.01
        perform(list(connection.receive_data(piece, now)))
        assert connection._decoder.buffered_bytes <= MAX_PACKET_BYTES + len(piece)
        connection.data_to_send()
    now += pause_s
    due = connection.next_timeout()
    perform(list(connection.handle_timer(now)))
    assert over == (connection.state is State.CLOSED)
    assert connection.state is State.CLOSED or due is None or now < due
    assert not (let_in is False and connection.state is State.CONNECTED)


@effort(4)
@given(st.binary(min_size=1, max_size=200))
def test_noise_before_connect_never_gets_in(noise: bytes) -> None:
    connection = Connection(now=0.0, connect_timeout_s=10, max_packet_bytes=MAX_PACKET_BYTES)
    connection.receive_data(noise, 0.1)
    connection.handle_timer(11.0)
    assert connection.state in {State.CLOSED, State.JUDGING}
