"""The JSON messages between device and server: one tagged struct each, tag field ``type``.

:func:`parse` turns the payload of one PUBLISH into an :data:`Inbound`; :func:`dump` turns an :data:`Outbound` into
payload. What a device sent is bounded and cleaned here, before it can reach a log, a screen or a model: control
characters go, texts are capped, nesting and size are limited. Members we do not know are ignored.

A struct is frozen; its containers (`payload`, `descriptors`, ...) are what the JSON said and belong to the receiver.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import force_setattr

MAX_INBOUND_BYTES: Final = 131072
"""Largest message taken from a device; big MCP results and tool lists stay far below it."""

MAX_OUTBOUND_BYTES: Final = 8191
"""Devices parse on a stack of 4 KB and reassemble what exceeds 1 KB: everything to them stays under 8 KB."""

MAX_DEPTH: Final = 32
"""Deepest nesting of objects and arrays; a tool's JSON schema needs about ten."""

MAX_DISPLAY_CHARS: Final = 500
MAX_HEARD_CHARS: Final = 200

SessionId: TypeAlias = Annotated[str, Meta(max_length=64)]
JsonObject: TypeAlias = dict[str, Any]


class MessageError(ValueError):
    """A message cannot be read, or not be sent. The sentence is short and clean enough for a log."""


def sanitise(text: str, max_chars: int) -> str:
    """`text` on one line, without control characters, lone surrogates and bidirectional overrides, cut to `max_chars`."""
    if len(text) > max_chars:
        text = text[:max_chars]
    if text.isprintable():
        return text
    return "".join(_clean(character) for character in text)


def _clean(character: str) -> str:
    if character.isspace():
        return " "
    if unicodedata.category(character) in {"Cc", "Cs"} or "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069":
        return ""
    return character


# -- parts -------------------------------------------------------------------------------------------------------------
class AudioParams(Struct, frozen=True):
    """Format of the Opus packets that the sender of the hello will send. `frame_duration` in ms, `sample_rate` in Hz."""

    format: Annotated[str, Meta(max_length=16)] = "opus"
    sample_rate: Annotated[int, Meta(ge=8000, le=48000)] = 16000
    channels: Annotated[int, Meta(ge=1, le=2)] = 1
    frame_duration: Annotated[int, Meta(ge=5, le=120)] = 60


class Features(Struct, frozen=True):
    """What the device can do; firmware before 1.7 announces nothing."""

    aec: bool = False
    mcp: bool = False
    glyph_push: bool = False
    aead: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=8)] = ()
    """Authenticated encryptions of audio that the device can do, best first; no stock firmware has any (docs/wire-aead.md)."""


class TextFont(Struct, frozen=True):
    """The font whose missing glyphs could be pushed."""

    bundle: Annotated[str, Meta(max_length=64)] = ""
    charset: Annotated[str, Meta(max_length=64)] = ""
    size: Annotated[int, Meta(ge=0, le=255)] = 0
    bpp: Annotated[int, Meta(ge=0, le=32)] = 0


class UdpParams(Struct, frozen=True):
    """Where audio goes and how it is encrypted. `key` and `nonce` are 32 hexadecimal digits and stay out of the representation."""

    server: str
    port: int
    key: str
    nonce: str
    encryption: str = "aes-128-ctr"

    def __repr__(self) -> str:
        return f"UdpParams(server={self.server!r}, port={self.port}, encryption={self.encryption!r})"

    def __rich_repr__(self) -> Any:
        yield "server", self.server
        yield "port", self.port


# -- both directions ---------------------------------------------------------------------------------------------------
class Goodbye(Struct, frozen=True, tag="goodbye", tag_field="type"):
    """The audio channel is closed. A device obeys it only with its current `session_id`."""

    session_id: SessionId = ""


# -- device to server --------------------------------------------------------------------------------------------------
class Hello(Struct, frozen=True, tag="hello", tag_field="type"):
    """The device opens (or reopens) its audio channel.

    Never refused for its content: a member of the wrong type counts as absent, except that an unreadable `version`
    becomes 0 and an unreadable `transport` becomes "", so that the session can turn both down.
    """

    version: Annotated[int, Meta(ge=0, le=65535)] = 3
    transport: Annotated[str, Meta(max_length=16)] = "udp"
    features: Features = Features()
    audio_params: AudioParams = AudioParams()
    text_font: TextFont | None = None


class Listen(Struct, frozen=True, tag="listen", tag_field="type"):
    """The microphone is on (`start`) or off (`stop`), or a wake word was spoken (`detect`, with its `text`)."""

    state: Literal["start", "stop", "detect"]
    session_id: SessionId = ""
    mode: Literal["auto", "manual", "realtime"] = "auto"
    text: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "text", sanitise(self.text, MAX_HEARD_CHARS))


class Abort(Struct, frozen=True, tag="abort", tag_field="type"):
    """Stop speaking. `reason` is "wake_word_detected", or empty for the button."""

    session_id: SessionId = ""
    reason: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "reason", sanitise(self.reason, 64))


class Mcp(Struct, frozen=True, tag="mcp", tag_field="type"):
    """A JSON-RPC object of the device's MCP server. `session_id` is empty while no session exists."""

    payload: JsonObject
    session_id: SessionId = ""


class Iot(Struct, frozen=True, tag="iot", tag_field="type"):
    """Things of firmware before 1.8: what they are (`descriptors`) or how they are (`states`)."""

    session_id: SessionId = ""
    update: bool = False
    descriptors: Annotated[list[JsonObject], Meta(max_length=64)] = msgspec.field(default_factory=list)
    states: Annotated[list[JsonObject], Meta(max_length=64)] = msgspec.field(default_factory=list)


Inbound: TypeAlias = Hello | Listen | Abort | Goodbye | Mcp | Iot


# -- server to device --------------------------------------------------------------------------------------------------
class HelloReply(Struct, frozen=True, tag="hello", tag_field="type"):
    """The answer to a hello, due within 10 s. Old firmware crashes without one of them: ``udp`` is left out only with the
    transport "websocket", whose `version` is that of the binary protocol."""

    session_id: str
    audio_params: AudioParams
    udp: UdpParams | UnsetType = UNSET
    version: int = 3
    transport: str = "udp"


class Stt(Struct, frozen=True, tag="stt", tag_field="type"):
    """What the user was heard to say, for the screen; cut to 500 characters."""

    session_id: str
    text: str

    def __post_init__(self) -> None:
        force_setattr(self, "text", sanitise(self.text, MAX_DISPLAY_CHARS))


class LlmEmotion(Struct, frozen=True, tag="llm", tag_field="type"):
    """The face to show. `emotion` is one of the device's names; `text` (an emoji by custom) is ignored by devices."""

    session_id: str
    emotion: str
    text: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "text", sanitise(self.text, MAX_DISPLAY_CHARS))


class TtsStart(Struct, frozen=True, tag="tts", tag_field="type"):
    """Speech begins; the device clears its queue on it, so audio comes at least 100 ms later."""

    session_id: str
    sample_rate: int | UnsetType = UNSET
    state: Literal["start"] = "start"


class TtsSentenceStart(Struct, frozen=True, tag="tts", tag_field="type"):
    """The subtitle of the sentence whose audio begins; cut to 500 characters."""

    session_id: str
    text: str
    state: Literal["sentence_start"] = "sentence_start"

    def __post_init__(self) -> None:
        force_setattr(self, "text", sanitise(self.text, MAX_DISPLAY_CHARS))


class TtsStop(Struct, frozen=True, tag="tts", tag_field="type"):
    """Speech has ended."""

    session_id: str
    state: Literal["stop"] = "stop"


class McpOut(Struct, frozen=True, tag="mcp", tag_field="type"):
    """A JSON-RPC object for the device's MCP server. `id` must be a number; `params` an object or absent, not null."""

    session_id: str
    payload: JsonObject


class System(Struct, frozen=True, tag="system", tag_field="type"):
    """An order to the device itself; the firmware knows "reboot" alone."""

    session_id: str
    command: str = "reboot"


class Alert(Struct, frozen=True, tag="alert", tag_field="type"):
    """A text on the screen with a sound, in any state of the device. All three strings are required by the firmware."""

    session_id: str
    status: str
    message: str
    emotion: str = "neutral"

    def __post_init__(self) -> None:
        force_setattr(self, "status", sanitise(self.status, 64))
        force_setattr(self, "message", sanitise(self.message, MAX_DISPLAY_CHARS))


class IotCommands(Struct, frozen=True, tag="iot", tag_field="type"):
    """Orders to things of firmware before 1.8, each ``{"name", "method", "parameters"}`` with every parameter present."""

    session_id: str
    commands: list[JsonObject]


Outbound: TypeAlias = (
    HelloReply | Goodbye | Stt | LlmEmotion | TtsStart | TtsSentenceStart | TtsStop | McpOut | System | Alert | IotCommands
)

_decoder: Final[msgspec.json.Decoder[Inbound]] = msgspec.json.Decoder(Inbound, strict=False)
_encoder: Final = msgspec.json.Encoder()


# -- reading -----------------------------------------------------------------------------------------------------------
def parse(data: bytes, *, max_bytes: int = MAX_INBOUND_BYTES) -> Inbound:
    """The message in one PUBLISH payload.

    Raises :class:`MessageError`, and nothing else, for what is no JSON object in UTF-8 with a known ``type`` and
    readable members. Optional members of hello, listen and abort that are null or of a wrong type count as absent.
    The two messages into which firmware puts a text without escaping it (an MCP error, a wake word) may hold any.
    """
    if len(data) > max_bytes:
        raise MessageError(f"the message has {len(data)} bytes, more than {max_bytes}")
    try:
        if not data.isascii():
            data.decode()  # the decoder does not look into members that it skips
        message = _decode(data)
    except UnicodeDecodeError:
        raise MessageError("the message is not UTF-8") from None
    except RecursionError:
        raise MessageError("the message is nested too deeply") from None
    except msgspec.DecodeError as error:
        salvaged = _with_a_text_unescaped(data)
        if salvaged is None:
            raise MessageError(f"the message is not JSON: {sanitise(str(error), 120)}") from None
        message = salvaged
    if isinstance(message, Mcp):
        _check_depth([message.payload])
    elif isinstance(message, Iot):
        _check_depth([*message.descriptors, *message.states])
    return message


def _decode(data: bytes) -> Inbound:
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as error:
        return _second_look(data, error)


_ERROR: Final = re.compile(
    rb'"type"\s*:\s*"mcp"\s*,\s*"payload"\s*:\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(\d{1,9})\s*,'
    rb'\s*"error"\s*:\s*\{\s*"message"\s*:\s*"'
)
_WAKE_WORD: Final = re.compile(rb'"type"\s*:\s*"listen"\s*,\s*"state"\s*:\s*"detect"\s*,\s*"text"\s*:\s*"')
_SESSION: Final = re.compile(rb'\s*\{\s*"session_id"\s*:\s*"([^"\\]{0,64})"')
_CLOSING: Final = b" \t\r\n}"


def _with_a_text_unescaped(data: bytes) -> Inbound | None:
    """The message that the firmware has put together around a text with a quote or a line break in it; None for all else.

    Without this the caller of a tool waits for its time-out although the device has refused at once.
    """
    session = _SESSION.match(data)
    session_id = session[1].decode(errors="replace") if session else ""
    if (error := _ERROR.search(data)) is not None and (text := _raw_text(data, error.end())):
        return Mcp({"jsonrpc": "2.0", "id": int(error[1]), "error": {"message": sanitise(text, MAX_DISPLAY_CHARS)}}, session_id)
    if (wake := _WAKE_WORD.search(data)) is not None and (text := _raw_text(data, wake.end())):
        return Listen(session_id=session_id, state="detect", text=text)
    return None


def _raw_text(data: bytes, begin: int) -> str:
    """The text from ``begin`` to the last quote of the message; empty when it holds nothing that should have been escaped."""
    end = data.rstrip(_CLOSING)
    text = end[begin:-1] if end.endswith(b'"') else b""
    return text.decode(errors="replace") if any(mark in text for mark in (b'"', b"\n", b"\r", b"\t")) else ""


def _check_depth(containers: list[Any]) -> None:
    """Raise :class:`MessageError` when one of the containers nests deeper than allowed."""
    for _ in range(MAX_DEPTH):
        inner = (child for outer in containers for child in (outer.values() if isinstance(outer, dict) else outer))
        containers = [child for child in inner if isinstance(child, dict | list)]
        if not containers:
            return
    raise MessageError("the message is nested too deeply")


_FORGIVEN: Final[dict[type[Struct], frozenset[str]]] = {
    Hello: frozenset({"version", "transport", "features", "audio_params", "text_font"}),
    Listen: frozenset({"mode", "text"}),
    Abort: frozenset({"reason"}),
}
_KINDS: Final[dict[object, type[Inbound]]] = {
    "hello": Hello,
    "listen": Listen,
    "abort": Abort,
    "goodbye": Goodbye,
    "mcp": Mcp,
    "iot": Iot,
}


def _second_look(data: bytes, error: msgspec.ValidationError) -> Inbound:
    """Read a message with a member of the wrong type as if that member were absent, where this does no harm."""
    members = msgspec.json.decode(data)
    if not isinstance(members, dict):
        raise MessageError("the message is not a JSON object")
    tag = members.get("type")
    kind = _KINDS.get(tag) if isinstance(tag, str) else None
    if kind is None:
        raise MessageError("the message has no type" if tag is None else f"unknown message type {sanitise(str(tag), 32)!r}")
    given = {name: value for name, value in members.items() if value is not None}
    try:
        if kind is Hello:
            return _lenient(Hello, _with_refusable_basics(given))
        kept = {name: value for name, value in given.items() if name not in _FORGIVEN.get(kind, ()) or _readable(kind, name, value)}
        return msgspec.convert(kept, kind, strict=False)
    except msgspec.ValidationError:
        raise MessageError(f"bad {tag} message: {sanitise(str(error), 120)}") from None


def _with_refusable_basics(members: JsonObject) -> JsonObject:
    """The hello with an unreadable version or transport replaced by one that no session takes."""
    basics = {
        name: fallback for name, fallback in (("version", 0), ("transport", "")) if not _readable(Hello, name, members.get(name, fallback))
    }
    return members | basics


AnyStruct = TypeVar("AnyStruct", bound=Struct)


def _lenient(kind: type[AnyStruct], members: JsonObject) -> AnyStruct:
    """`kind` from those members that are readable; nested structs are salvaged in the same way."""
    kept: JsonObject = {}
    for member in msgspec.structs.fields(kind):
        value = members.get(member.name)
        if isinstance(value, dict) and isinstance(member.type, type) and issubclass(member.type, Struct):
            kept[member.name] = _lenient(member.type, value)
        elif value is not None and _readable(kind, member.name, value):
            kept[member.name] = msgspec.convert(value, member.type, strict=False)
    return kind(**kept)


def _readable(kind: type[Struct], name: str, value: object) -> bool:
    expected = next(member.type for member in msgspec.structs.fields(kind) if member.name == name)
    try:
        msgspec.convert(value, expected, strict=False)
    except msgspec.ValidationError:
        return False
    return True


# -- writing -----------------------------------------------------------------------------------------------------------
def dump(message: Outbound) -> bytes:
    """The message as one JSON object in UTF-8; :class:`MessageError` when it exceeds what devices can take."""
    try:
        data = _encoder.encode(message)
    except UnicodeEncodeError:
        raise MessageError("the message holds text that is not Unicode") from None
    if len(data) > MAX_OUTBOUND_BYTES:
        raise MessageError(f"the message has {len(data)} bytes, more than the {MAX_OUTBOUND_BYTES} that devices take")
    return data
