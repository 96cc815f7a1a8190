"""Messages as real firmware writes them, and everything a broken or hostile device could write instead."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.messages import (
    Abort,
    Alert,
    AudioParams,
    Features,
    Goodbye,
    Hello,
    HelloReply,
    Inbound,
    Iot,
    IotCommands,
    Listen,
    LlmEmotion,
    Mcp,
    McpOut,
    MessageError,
    Outbound,
    Stt,
    System,
    TextFont,
    TtsSentenceStart,
    TtsStart,
    TtsStop,
    UdpParams,
    dump,
    parse,
    sanitise,
)

FIRMWARE_HELLO = (
    b'{"type":"hello","version":3,"transport":"udp","features":{"aec":true,"mcp":true,"glyph_push":true},'
    b'"text_font":{"bundle":"noto-v1","charset":"common","size":20,"bpp":4},'
    b'"audio_params":{"format":"opus","sample_rate":16000,"channels":1,"frame_duration":60}}'
)
KEY = "00112233445566778899aabbccddeeff"


def test_hello_of_current_firmware() -> None:
    assert parse(FIRMWARE_HELLO) == Hello(
        version=3,
        transport="udp",
        features=Features(aec=True, mcp=True, glyph_push=True),
        audio_params=AudioParams(format="opus", sample_rate=16000, channels=1, frame_duration=60),
        text_font=TextFont(bundle="noto-v1", charset="common", size=20, bpp=4),
    )


@pytest.mark.parametrize("frame_duration", [20, 40, 60])
def test_check_037_hello_without_features_and_with_unknown_members(frame_duration: int) -> None:
    raw = b'{"type":"hello","version":3,"transport":"udp","new":{"a":[1]},"audio_params":{"frame_duration":%d,"x":1}}' % frame_duration
    assert parse(raw) == Hello(audio_params=AudioParams(frame_duration=frame_duration))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"type":"hello"}', Hello()),
        (b'{"type":"hello","features":null,"audio_params":null,"text_font":null}', Hello()),
        (b'{"type":"hello","features":[],"audio_params":"opus","text_font":7}', Hello()),
        (b'{"type":"hello","features":{"mcp":true,"aec":"maybe"}}', Hello(features=Features(mcp=True))),
        (
            b'{"type":"hello","audio_params":{"frame_duration":"60","sample_rate":"24000"}}',
            Hello(audio_params=AudioParams(sample_rate=24000)),
        ),
        (b'{"type":"hello","audio_params":{"frame_duration":20.0}}', Hello(audio_params=AudioParams(frame_duration=20))),
        (
            b'{"type":"hello","audio_params":{"frame_duration":-1,"sample_rate":1e9,"channels":2}}',
            Hello(audio_params=AudioParams(channels=2)),
        ),
        (b'{"type":"hello","text_font":{"bundle":"' + b"x" * 200 + b'"}}', Hello()),
    ],
)
def test_check_037_a_wrong_member_does_not_kill_a_hello(raw: bytes, expected: Hello) -> None:
    assert parse(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"type":"hello","version":1,"transport":"websocket"}', Hello(version=1, transport="websocket")),
        (b'{"type":"hello","version":"three"}', Hello(version=0)),
        (b'{"type":"hello","version":-3}', Hello(version=0)),
        (b'{"type":"hello","transport":5,"features":0}', Hello(transport="")),
        (b'{"type":"hello","transport":{}}', Hello(transport="")),
    ],
)
def test_check_038_wrong_transport_or_version_is_for_the_session_to_refuse(raw: bytes, expected: Hello) -> None:
    assert parse(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"session_id":"s","type":"listen","state":"start","mode":"auto"}', Listen(session_id="s", state="start", mode="auto")),
        (b'{"session_id":"s","type":"listen","state":"start","mode":"realtime"}', Listen(session_id="s", state="start", mode="realtime")),
        (b'{"session_id":"s","type":"listen","state":"start"}', Listen(session_id="s", state="start", mode="auto")),
        (b'{"session_id":"s","type":"listen","state":"start","mode":"new"}', Listen(session_id="s", state="start", mode="auto")),
        (b'{"session_id":null,"type":"listen","state":"stop","text":null}', Listen(session_id="", state="stop")),
        (
            '{"session_id":"s","type":"listen","state":"detect","text":"你好小智"}'.encode(),
            Listen(session_id="s", state="detect", text="你好小智"),
        ),
        (b'{"session_id":"s","type":"abort"}', Abort(session_id="s")),
        (b'{"session_id":"s","type":"abort","reason":"wake_word_detected"}', Abort(session_id="s", reason="wake_word_detected")),
        (b'{"session_id":"s","type":"abort","reason":3}', Abort(session_id="s")),
        (b'{"session_id":"s","type":"goodbye"}', Goodbye(session_id="s")),
        (
            b'{"session_id":"","type":"mcp","payload":{"jsonrpc":"2.0","id":1,"result":{}}}',
            Mcp(payload={"jsonrpc": "2.0", "id": 1, "result": {}}),
        ),
        (
            b'{"session_id":"s","type":"iot","update":true,"descriptors":[{"name":"Speaker"}]}',
            Iot(session_id="s", update=True, descriptors=[{"name": "Speaker"}]),
        ),
        (
            b'{"session_id":"s","type":"iot","update":true,"states":[{"name":"Speaker","state":{"volume":70}}]}',
            Iot(session_id="s", update=True, states=[{"name": "Speaker", "state": {"volume": 70}}]),
        ),
    ],
)
def test_messages_of_devices(raw: bytes, expected: Inbound) -> None:
    assert parse(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"{",
        b"null",
        b"[]",
        b'"hello"',
        b"{}",
        b'{"type":null}',
        b'{"type":5}',
        b'{"type":["hello"]}',
        b'{"type":"HELLO"}',
        b'{"type":"custom","payload":{}}',
        b'{"type":"custom","payload":}',
        b'{"type":"listen"}',
        b'{"type":"listen","state":"pause"}',
        b'{"type":"listen","state":"start","session_id":5}',
        b'{"type":"listen","state":"start","session_id":"' + b"x" * 65 + b'"}',
        b'{"type":"mcp"}',
        b'{"type":"mcp","payload":"{}"}',
        b'{"type":"mcp","payload":null}',
        b'{"type":"iot","states":{}}',
        b'{"type":"iot","states":["x"]}',
        b'{"type":"mcp","payload":{"error":{"message":"say "hi""}}}',
        b'{"type":"mcp","payload":{"x":NaN}}',
        b'{"type":"hello"} trailing',
        b'{"type":"hello"}{"type":"hello"}',
        b'\xef\xbb\xbf{"type":"hello"}',
        b'{"type":"listen","state":"detect","text":"\xff\xfe"}',
        b'{"type":"hello","skipped":"\xc3\x28"}',
        b'{"type":"listen","state":"detect","text":"\\ud800"}',
    ],
)
def test_check_026_unreadable_messages_raise_one_error(raw: bytes) -> None:
    with pytest.raises(MessageError):
        parse(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'Unknown "lamp"', 'Unknown "lamp"'),
        (b'line\nbreak \\ and "}}}" more', 'line break \\ and "}}}" more'),
        (b'"', '"'),
        (b'x" ' * 20_000, None),
    ],
)
def test_check_081_an_error_that_the_firmware_does_not_escape_is_read(raw: bytes, message: str | None) -> None:
    head = b'{"session_id":"abc","type":"mcp","payload":{"jsonrpc":"2.0","id":7,"error":{"message":"'
    read = parse(head + raw + b'"}}}')
    assert isinstance(read, Mcp)
    assert (read.session_id, read.payload["id"], set(read.payload)) == ("abc", 7, {"jsonrpc", "id", "error"})
    told = read.payload["error"]["message"]
    assert told == message if message else len(told) == 500


def test_check_049_a_wake_word_that_the_firmware_does_not_escape_is_read() -> None:
    read = parse(b'{"session_id":"abc","type":"listen","state":"detect","text":"hi "esp""}')
    assert read == Listen(session_id="abc", state="detect", text='hi "esp"')


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"mcp","payload":' + b'{"a":' * 100_00 + b"1" + b"}" * 100_00 + b"}",
        b'{"type":"mcp","payload":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
        b'{"type":"mcp","payload":{"a":' + b"[" * 40 + b"]" * 40 + b"}}",
        b'{"type":"iot","states":[{"a":' + b"[" * 40 + b"]" * 40 + b"}]}",
        b'{"type":"hello","unknown":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b"[" * 100_000,
    ],
)
def test_check_026_deep_nesting_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        parse(raw)


def test_nesting_as_deep_as_a_tool_schema_needs_is_taken() -> None:
    payload: dict[str, Any] = {"leaf": [1]}
    for _ in range(20):
        payload = {"inner": payload}
    assert parse(json.dumps({"type": "mcp", "payload": payload}).encode()) == Mcp(payload=payload)


def test_check_025_64_kb_of_mcp_result_is_taken_and_more_than_the_limit_is_not() -> None:
    raw = b'{"type":"mcp","payload":{"text":"' + b"x" * 65536 + b'"}}'
    message = parse(raw)
    assert isinstance(message, Mcp)
    assert len(message.payload["text"]) == 65536
    with pytest.raises(MessageError):
        parse(raw, max_bytes=65536)


def test_text_of_devices_is_cleaned_and_capped() -> None:
    message = parse(json.dumps({"type": "listen", "state": "detect", "text": "hi\x1b[31m\n\u202ethere" + "x" * 1000}).encode())
    assert isinstance(message, Listen)
    assert message.text.startswith("hi[31m therex")
    assert len(message.text) <= 200


def test_sanitise_keeps_emoji_sequences_and_scripts() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert sanitise(f"你好 {family}", 100) == f"你好 {family}"
    assert sanitise("a\x00b\x85c\td\ud800", 100) == "ab c d"


def test_errors_do_not_repeat_what_was_sent_without_bounds() -> None:
    with pytest.raises(MessageError) as caught:
        parse(json.dumps({"type": "x\n\x1b" * 1000}).encode())
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@given(st.binary(max_size=200))
def test_check_098_any_bytes_parse_or_raise_message_error(data: bytes) -> None:
    with pytest.raises(MessageError):  # random bytes are never a message
        parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
member_names = st.sampled_from(
    [
        "session_id",
        "state",
        "mode",
        "text",
        "reason",
        "payload",
        "update",
        "descriptors",
        "states",
        "version",
        "transport",
        "features",
        "audio_params",
        "text_font",
    ]
)


@given(st.sampled_from(["hello", "listen", "abort", "goodbye", "mcp", "iot"]), st.dictionaries(member_names, json_values, max_size=6))
def test_check_098_any_members_parse_or_raise_message_error(kind: str, members: dict[str, Any]) -> None:
    raw = json.dumps({"type": kind, **members}).encode()
    try:
        message = parse(raw)
    except MessageError:
        assert kind != "hello"
        return
    assert msgspec.to_builtins(message)["type"] == kind


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Goodbye("s"), {"type": "goodbye", "session_id": "s"}),
        (Stt("s", "你好"), {"type": "stt", "session_id": "s", "text": "你好"}),
        (LlmEmotion("s", "happy", "🙂"), {"type": "llm", "session_id": "s", "emotion": "happy", "text": "🙂"}),
        (TtsStart("s"), {"type": "tts", "state": "start", "session_id": "s"}),
        (TtsStart("s", sample_rate=24000), {"type": "tts", "state": "start", "session_id": "s", "sample_rate": 24000}),
        (TtsSentenceStart("s", "Hi."), {"type": "tts", "state": "sentence_start", "session_id": "s", "text": "Hi."}),
        (TtsStop("s"), {"type": "tts", "state": "stop", "session_id": "s"}),
        (McpOut("", {"jsonrpc": "2.0", "id": 1}), {"type": "mcp", "session_id": "", "payload": {"jsonrpc": "2.0", "id": 1}}),
        (System("s"), {"type": "system", "session_id": "s", "command": "reboot"}),
        (Alert("s", "Error", "No.", "sad"), {"type": "alert", "session_id": "s", "status": "Error", "message": "No.", "emotion": "sad"}),
        (
            IotCommands("s", [{"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 50}}]),
            {"type": "iot", "session_id": "s", "commands": [{"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 50}}]},
        ),
        (
            HelloReply("s", AudioParams(sample_rate=24000), UdpParams("192.168.1.10", 8884, KEY, "01" + "0" * 30)),
            {
                "type": "hello",
                "version": 3,
                "transport": "udp",
                "session_id": "s",
                "audio_params": {"format": "opus", "sample_rate": 24000, "channels": 1, "frame_duration": 60},
                "udp": {"server": "192.168.1.10", "port": 8884, "encryption": "aes-128-ctr", "key": KEY, "nonce": "01" + "0" * 30},
            },
        ),
        (
            HelloReply("s", AudioParams(sample_rate=24000), version=1, transport="websocket"),
            {
                "type": "hello",
                "version": 1,
                "transport": "websocket",
                "session_id": "s",
                "audio_params": {"format": "opus", "sample_rate": 24000, "channels": 1, "frame_duration": 60},
            },
        ),
    ],
)
def test_check_030_messages_to_devices_are_one_json_object_with_type(message: Outbound, expected: dict[str, Any]) -> None:
    assert json.loads(dump(message)) == expected


def test_check_030_nothing_of_8_kb_or_more_goes_to_a_device() -> None:
    with pytest.raises(MessageError):
        dump(McpOut("", {"x": "y" * 8192}))
    assert len(dump(Stt("s", "你" * 100_000))) < 8192
    assert len(dump(Alert("s", "e" * 9999, "m" * 9999))) < 8192


def test_text_to_devices_is_valid_unicode() -> None:
    assert json.loads(dump(Stt("s", "a\ud800b\nc")))["text"] == "ab c"
    with pytest.raises(MessageError):
        dump(McpOut("", {"x": "\ud800"}))


def test_check_094_the_key_does_not_show() -> None:
    udp = UdpParams("h", 1, KEY, "01" + "0" * 22 + "deadbeef")
    reply = HelloReply("s", AudioParams(), udp)
    assert KEY not in repr(reply)
    assert "deadbeef" not in repr(reply)
    assert KEY not in str(list(udp.__rich_repr__()))


@pytest.mark.parametrize(
    ("features", "offered"),
    [
        ('{"mcp":true}', ()),
        ('{"mcp":true,"aead":["aes-128-gcm"]}', ("aes-128-gcm",)),
        ('{"mcp":true,"aead":["chacha20-poly1305","aes-128-gcm"]}', ("chacha20-poly1305", "aes-128-gcm")),
        ('{"mcp":true,"aead":true}', ()),
        ('{"mcp":true,"aead":[1]}', ()),
        ('{"mcp":true,"aead":"aes-128-gcm"}', ()),
        ('{"mcp":true,"aead":null}', ()),
    ],
)
def test_offers_of_authenticated_audio(features: str, offered: tuple[str, ...]) -> None:
    hello = parse(b'{"type":"hello","version":3,"transport":"udp","features":' + features.encode() + b"}")
    assert isinstance(hello, Hello)
    assert hello.features.aead == offered
    assert hello.features.mcp
