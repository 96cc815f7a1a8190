"""The hello exchange as firmware reads it (pure): what it says, and which replies open an audio channel."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

from bridge.device.codec import MICROPHONE_RATE_HZ
from bridge.device.errors import FirmwareCrashError
from bridge.device.profiles import Profile

Message: TypeAlias = dict[str, Any]

HELLO_TIMEOUT_S: Final = 10.0
VALID_RATES_HZ: Final = (8_000, 12_000, 16_000, 24_000, 48_000)
VALID_FRAMES_MS: Final = (5, 10, 20, 40, 60, 80, 100, 120)
CTR: Final = "aes-128-ctr"
GCM: Final = "aes-128-gcm"
_HEX32: Final = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Downlink format. A value outside the firmware's lists creates no decoder: silence."""

    sample_rate_hz: int = 24_000
    frame_ms: int = 60

    @property
    def playable(self) -> bool:
        return self.sample_rate_hz in VALID_RATES_HZ and self.frame_ms in VALID_FRAMES_MS


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid hello reply grants. ``repr`` keeps the key out of logs."""

    session_id: str
    server: str = ""
    """Where UDP goes; empty over a WebSocket, which needs no address and no key."""
    port: int = 0
    key: bytes = b""
    nonce: bytes = b""
    audio: AudioFormat = AudioFormat()
    encryption: str = CTR

    def __repr__(self) -> str:
        return f"Grant(session_id={self.session_id!r}, server={self.server!r}, port={self.port}, audio={self.audio!r})"


def compose_hello(profile: Profile, *, aec: bool = False, aead: bool = False, websocket_version: int = 0) -> Message:
    """The device's hello. Firmware before 1.7 has no ``features``; ``aec`` stands only in builds with server AEC.

    ``aead``: a client that can authenticate its audio (docs/wire-aead.md); no stock firmware does. ``websocket_version``: of the
    binary messages, over a WebSocket.
    """
    message: Message = {"type": "hello", "version": 3, "transport": "udp"}
    if websocket_version:
        message |= {"version": websocket_version, "transport": "websocket"}
    if profile.mcp:
        message["features"] = ({"aec": True} if aec else {}) | {"mcp": True}
    if aead:
        message["features"] = message.get("features", {}) | {"aead": [GCM]}
    message["audio_params"] = {
        "format": "opus",
        "sample_rate": MICROPHONE_RATE_HZ,
        "channels": 1,
        "frame_duration": profile.frame_ms,
    }
    return message


def read_hello(message: Message, *, previous: AudioFormat, strict: bool, aead: bool = False) -> Grant | str:
    """The grant, or one clause that says why the firmware ignores this reply. Without ``aead``, ``udp.encryption`` is not looked at.

    With ``strict`` false (firmware <= 2.3) a missing member raises :class:`FirmwareCrashError`, as the hardware does.
    """
    if message.get("transport") != "udp":
        return f"transport is {message.get('transport')!r}, not 'udp'"
    udp = message.get("udp")
    fault = _udp_fault(udp)
    if fault:
        if strict:
            return fault
        raise FirmwareCrashError(f"The hello reply would crash firmware up to 2.3: {fault}.")
    assert isinstance(udp, dict)  # noqa: S101 - _udp_fault has looked; this tells the type checker
    session_id = message.get("session_id")
    return Grant(
        session_id=session_id if isinstance(session_id, str) else "",
        server=udp["server"],
        port=int(udp["port"]),
        key=bytes.fromhex(udp["key"]),
        nonce=bytes.fromhex(udp["nonce"]),
        audio=_audio_format(message.get("audio_params"), previous),
        encryption=GCM if aead and udp.get("encryption") == GCM else CTR,
    )


def read_websocket_hello(message: Message, *, previous: AudioFormat) -> Grant | str:
    """The same over a WebSocket. Without ``transport`` every firmware crashes: raises :class:`FirmwareCrashError`."""
    transport = message.get("transport")
    if not isinstance(transport, str):
        raise FirmwareCrashError("The hello reply would crash firmware: it has no transport.")
    if transport != "websocket":
        return f"transport is {transport[:20]!r}, not 'websocket'"
    session_id = message.get("session_id")
    return Grant(session_id=session_id if isinstance(session_id, str) else "", audio=_audio_format(message.get("audio_params"), previous))


def _udp_fault(udp: object) -> str:
    if not isinstance(udp, dict):
        return "udp is not an object"
    server = udp.get("server")
    if not isinstance(server, str) or not server:
        return "udp.server is not a name or address"
    port = udp.get("port")
    if not is_number(port) or not 1 <= port <= 65_535:
        return f"udp.port is {str(port)[:20]}, not a number from 1 to 65535"
    for name in ("key", "nonce"):
        value = udp.get(name)
        if not isinstance(value, str) or not _HEX32.fullmatch(value):
            return f"udp.{name} is not 32 hexadecimal digits"
    return ""


def _audio_format(parameters: object, previous: AudioFormat) -> AudioFormat:
    if not isinstance(parameters, dict):
        return previous
    rate, frame = parameters.get("sample_rate"), parameters.get("frame_duration")
    return AudioFormat(
        sample_rate_hz=int(rate) if is_number(rate) else previous.sample_rate_hz,
        frame_ms=int(frame) if is_number(frame) else previous.frame_ms,
    )


def is_number(value: object) -> TypeGuard[int | float]:
    """True for a JSON number that is one: Python reads ``1e999`` and ``NaN``, too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
