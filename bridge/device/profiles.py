"""How firmware generations differ on the wire, as data. Sources: firmware tags named in each profile's ``firmware_version``."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One firmware generation (or the desktop client py-xiaozhi)."""

    name: str
    firmware_version: str
    activation_version: str = "1"
    mcp: bool = True
    iot: bool = False
    """Legacy things: descriptors and states instead of MCP tools (firmware < 1.8)."""
    frame_ms: int = 60
    queue_packets: int = 40
    """Length of the decode queue in packets, whatever their duration."""
    keeps_nonce_timestamp: bool = False
    """Uplink bytes 8..11 are the nonce's instead of a timestamp."""
    checks_downlink: bool = True
    """False: type, length and sequence of downlink packets are not looked at."""
    equal_sequence_accepted: bool = False
    audio_in_any_state: bool = False
    """True: downlink audio is queued in every state, not only while speaking."""
    strict_hello: bool = True
    """False: a hello reply with missing members crashes the firmware instead of being ignored."""
    goodbye_needs_session_id: bool = True
    answers_goodbye: bool = False
    disconnects_on_goodbye: bool = False
    stop_truncates: bool = False
    """``tts stop`` throws away what is still queued instead of letting it play out."""
    subscribes_qos: int | None = None
    wraps_activation: bool = False


_PROFILES = (
    Profile(name="2.4", firmware_version="2.4.2"),
    Profile(
        name="2.1",
        firmware_version="2.1.0",
        equal_sequence_accepted=True,
        strict_hello=False,
        goodbye_needs_session_id=False,
        answers_goodbye=True,
        stop_truncates=True,
    ),
    Profile(
        name="1.8",
        firmware_version="1.8.0",
        equal_sequence_accepted=True,
        strict_hello=False,
        goodbye_needs_session_id=False,
        answers_goodbye=True,
        stop_truncates=True,
    ),
    Profile(
        name="1.6.2",
        firmware_version="1.6.2",
        mcp=False,
        iot=True,
        queue_packets=10,
        equal_sequence_accepted=True,
        audio_in_any_state=True,
        strict_hello=False,
        goodbye_needs_session_id=False,
        answers_goodbye=True,
        stop_truncates=True,
    ),
    Profile(
        name="py-xiaozhi",
        firmware_version="2.0.0",
        activation_version="2.0.0",
        frame_ms=20,
        keeps_nonce_timestamp=True,
        checks_downlink=False,
        goodbye_needs_session_id=False,
        disconnects_on_goodbye=True,
        subscribes_qos=1,
        wraps_activation=True,
    ),
)

PROFILES: Final = MappingProxyType({profile.name: profile for profile in _PROFILES})
DEFAULT_PROFILE: Final = "2.4"
