"""The codec against bytes written by hand from MQTT 3.1.1, and against noise."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.codec import (
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    PacketTooLarge,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    UnsupportedConnect,
    Will,
    _length,
    encode,
    encode_publish,
)

LIMIT = 131072

# What stock firmware sends: clean session, user name and password, keep-alive 240 s (protocol section 4).
FIRMWARE_CONNECT = bytes.fromhex("10 17 0004 4D515454 04 C2 00F0 0003 413042 0002 7573 0002 7077")

VECTORS: list[tuple[str, Packet]] = [
    ("10 17 0004 4D515454 04 C2 00F0 0003 413042 0002 7573 0002 7077", Connect("A0B", 240, True, "us", b"pw")),
    # figures 3.2 to 3.6: the flags byte of the non-normative example, with will QoS 1
    (
        "10 1C 0004 4D515454 04 CE 000A 0001 63 0003 612F62 0002 0102 0001 75 0001 70",
        Connect("c", 10, True, "u", b"p", Will("a/b", b"\x01\x02", 1, False)),
    ),
    ("10 0C 0004 4D515454 04 02 0000 0000", Connect("", 0, True)),
    ("20 02 00 00", Connack(0)),
    ("20 02 00 05", Connack(5)),
    ("20 02 01 00", Connack(0, session_present=True)),
    # figure 3.11 with topic a/b; QoS 1, packet identifier 10
    ("32 08 0003 612F62 000A 78", Publish("a/b", b"x", 1, False, False, 10)),
    ("3D 07 0003 612F62 000A", Publish("a/b", b"", 2, True, True, 10)),
    ("30 05 0003 612F62", Publish("a/b", b"")),
    ("40 02 0001", Puback(1)),
    ("50 02 0002", Pubrec(2)),
    ("62 02 0003", Pubrel(3)),
    ("70 02 FFFF", Pubcomp(65535)),
    # figure 3.23: two filters, a/b with QoS 1 and c/d with QoS 2
    ("82 0E 000A 0003 612F62 01 0003 632F64 02", Subscribe(10, (("a/b", 1), ("c/d", 2)))),
    ("82 06 0001 0001 23 00", Subscribe(1, (("#", 0),))),
    ("90 05 000A 00 02 80", Suback(10, (0, 2, 0x80))),
    # figure 3.30
    ("A2 0C 000A 0003 612F62 0003 632F64", Unsubscribe(10, ("a/b", "c/d"))),
    ("B0 02 000A", Unsuback(10)),
    ("C0 00", Pingreq()),
    ("D0 00", Pingresp()),
    ("E0 00", Disconnect()),
]


@pytest.mark.parametrize(("raw", "packet"), VECTORS, ids=lambda value: value[:11] if isinstance(value, str) else "")
def test_vectors_both_ways(raw: str, packet: Packet) -> None:
    assert Decoder(LIMIT).feed(bytes.fromhex(raw)) == [packet]
    assert encode(packet) == bytes.fromhex(raw)


@pytest.mark.parametrize(
    ("length", "digits"),
    # table 2.4
    [(127, "7F"), (128, "80 01"), (16383, "FF 7F"), (16384, "80 80 01"), (2097151, "FF FF 7F"), (2097152, "80 80 80 01")],
)
def test_remaining_length_of_table_2_4(length: int, digits: str) -> None:
    raw = b"\x30" + bytes.fromhex(digits) + b"\0\1a" + b"p" * (length - 3)
    assert encode(Publish("a", b"p" * (length - 3))) == raw
    assert encode_publish(b"a", b"p" * (length - 3)) == raw
    assert Decoder(length + 5).feed(raw) == [Publish("a", b"p" * (length - 3))]


@pytest.mark.parametrize(
    "raw",
    [
        "00 00",  # reserved type
        "F0 00",  # reserved type
        "11 0C 0004 4D515454 04 02 0000 0000",  # flags of CONNECT
        "36 05 0003 612F62",  # QoS 3
        "38 05 0003 612F62",  # repeated with QoS 0
        "60 02 0003",  # PUBREL without its flag
        "80 06 0001 0001 23 00",  # SUBSCRIBE without its flag
        "A0 05 0001 0001 23",  # UNSUBSCRIBE without its flag
        "C1 00",  # flags of PINGREQ
        "C0 01 00",  # PINGREQ with a body
        "E0 01 00",  # DISCONNECT with a body
        "40 03 0001 00",  # PUBACK too long
        "40 01 00",  # PUBACK too short
        "40 02 0000",  # packet identifier 0
        "30 80 80 80 80 01",  # remaining length of five bytes
        "30 00",  # PUBLISH without a topic
        "30 02 0000",  # empty topic
        "30 03 0005 61",  # topic longer than the packet
        "30 05 0003 612F23",  # wildcard in a topic name
        "30 04 0002 6100",  # U+0000
        "30 04 0002 C328",  # not UTF-8
        "30 05 0003 EDA080",  # surrogate
        "32 05 0003 612F62",  # QoS 1 without identifier
        "32 07 0003 612F62 0000",  # QoS 1 with identifier 0
        "10 00",
        "10 0C 0004 4D515454 04 03 0000 0000",  # reserved connect flag
        "10 0C 0004 4D515454 04 0A 0000 0000",  # will QoS without a will
        "10 0C 0004 4D515454 04 22 0000 0000",  # will retain without a will
        "10 0C 0004 4D515454 04 1E 0000 0000",  # will QoS 3
        "10 0F 0004 4D515454 04 42 0000 0000 0001 70",  # password without user name
        "10 0C 0004 4D515454 04 C2 0000 0000",  # user name announced and missing
        "10 0D 0004 4D515454 04 02 0000 0000 00",  # something behind
        "10 11 0004 4D515454 04 06 0000 0000 0001 23 0000",  # will topic with a wildcard
        "20 02 02 00",  # CONNACK with reserved flags
        "20 02 01 05",  # session present with a refusal
        "82 02 0001",  # no filter
        "82 06 0001 0001 23 03",  # QoS 3
        "82 05 0001 0001 23",  # filter without QoS
        "82 05 0001 0000 00",  # empty filter
        "82 08 0001 0003 232F61 00",  # '#' before the end
        "82 07 0001 0002 6123 00",  # '#' inside of a level
        "82 07 0001 0002 2B61 00",  # '+' inside of a level
        "A2 02 0001",
        "90 02 0001",
        "90 03 0001 03",
    ],
)
def test_what_the_standard_forbids_is_malformed(raw: str) -> None:
    with pytest.raises(MalformedPacket):
        Decoder(LIMIT).feed(bytes.fromhex(raw))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("10 0E 0006 4D5149736470 03 02 0000 0000", UnsupportedConnect(b"MQIsdp", 3)),
        ("10 0D 0004 4D515454 05 02 0000 00 0000", UnsupportedConnect(b"MQTT", 5)),
        ("10 0C 0004 4D515458 04 02 0000 0000", UnsupportedConnect(b"MQTX", 4)),
    ],
)
def test_check_028_other_protocols_are_recognised_as_such(raw: str, expected: UnsupportedConnect) -> None:
    assert Decoder(LIMIT).feed(bytes.fromhex(raw)) == [expected]


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"SSH-2.0-", b"\x00", b"\xff"])
def test_check_028_other_talk_is_malformed_from_its_first_byte(raw: bytes) -> None:
    with pytest.raises(MalformedPacket):
        Decoder(LIMIT).feed(raw[:1])


def test_check_025_too_large_is_known_from_the_header() -> None:
    decoder = Decoder(998)
    assert decoder.feed(b"\x30\xe4") == []
    with pytest.raises(PacketTooLarge) as caught:
        decoder.feed(b"\x07")  # 0x64 + 7 * 128 = 996, and 3 bytes of header
    assert caught.value.size == 999
    assert caught.value.limit == 998


def test_the_largest_allowed_packet_passes() -> None:
    raw = encode(Publish("t", b"x" * 991))
    assert len(raw) == 997
    assert len(Decoder(997).feed(raw)) == 1
    with pytest.raises(PacketTooLarge):
        Decoder(996).feed(raw)


ALL = b"".join(bytes.fromhex(raw) for raw, _ in VECTORS)
ALL_PACKETS = [packet for _, packet in VECTORS]


def test_check_024_one_byte_at_a_time() -> None:
    decoder = Decoder(LIMIT)
    assert [packet for byte in ALL for packet in decoder.feed(bytes((byte,)))] == ALL_PACKETS
    assert decoder.buffered_bytes == 0


def test_check_024_all_in_one_segment() -> None:
    assert Decoder(LIMIT).feed(ALL) == ALL_PACKETS


@given(st.lists(st.integers(0, len(ALL)), max_size=30))
def test_check_024_any_split(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ALL)]
    decoder = Decoder(LIMIT)
    assert [packet for start, end in itertools.pairwise(edges) for packet in decoder.feed(ALL[start:end])] == ALL_PACKETS


def test_packets_can_be_read_one_by_one_while_more_is_written() -> None:
    decoder = Decoder(LIMIT)
    decoder.write(b"\xc0\x00\xc0\x00\x30")
    assert decoder.read() == Pingreq()
    decoder.write(b"\x05\x00\x03a/b")
    assert decoder.buffered_bytes == 2 + 7
    assert decoder.read() == Pingreq()
    assert decoder.read() == Publish("a/b", b"")
    assert decoder.read() is None


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_check_098_noise_raises_nothing_but_the_two_errors(chunks: list[bytes]) -> None:
    decoder = Decoder(64)
    try:
        for chunk in chunks:
            decoder.feed(chunk)
    except (MalformedPacket, PacketTooLarge):
        return
    assert decoder.buffered_bytes <= 64


@given(st.sampled_from(VECTORS), st.integers(0, 60), st.integers(0, 255))
def test_check_098_damaged_packets_raise_nothing_but_the_two_errors(vector: tuple[str, Packet], position: int, byte: int) -> None:
    raw = bytearray.fromhex(vector[0])
    raw[position % len(raw)] = byte
    try:
        packets = Decoder(LIMIT).feed(bytes(raw))
    except (MalformedPacket, PacketTooLarge):
        return
    for packet in packets:
        if not isinstance(packet, UnsupportedConnect):
            assert Decoder(LIMIT).feed(encode(packet)) == [packet]


texts = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
topics = texts.filter(lambda text: text != "" and not set(text) & set("+#"))


@given(
    st.one_of(
        st.builds(lambda topic, payload, retain: Publish(topic, payload, 0, retain), topics, st.binary(max_size=300), st.booleans()),
        st.builds(Publish, topics, st.binary(max_size=300), st.integers(1, 2), st.booleans(), st.booleans(), st.integers(1, 65535)),
        st.builds(Connect, texts, st.integers(0, 65535), st.booleans(), texts, st.none() | st.binary(max_size=40)),
    )
)
def test_what_is_written_is_read_again(packet: Packet) -> None:
    assert Decoder(LIMIT).feed(encode(packet)) == [packet]


def test_fields_that_have_no_form_are_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        encode(Connect("x" * 65536))
    with pytest.raises(OverflowError):
        encode(Puback(65536))
    with pytest.raises(ValueError, match="268435455"):
        _length(268435456)


def test_a_connect_of_another_protocol_can_be_written() -> None:
    assert encode(UnsupportedConnect(b"MQIsdp", 3)) == bytes.fromhex("10 09 0006 4D5149736470 03")


def test_check_094_passwords_and_payloads_do_not_show() -> None:
    (connect,) = Decoder(LIMIT).feed(FIRMWARE_CONNECT)
    assert "pw" not in repr(connect)
    assert "secret" not in repr(Publish("t", b"secret"))
