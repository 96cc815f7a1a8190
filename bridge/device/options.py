"""How a simulated device is set up."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.device.dialogue import Mode
from bridge.device.events import Event
from bridge.device.hello import HELLO_TIMEOUT_S
from bridge.device.impairment import Impairment
from bridge.device.mcp import Tool
from bridge.device.microphone import WARM_UP_S, LiveSource
from bridge.device.ota_client import OtaTiming, Transport
from bridge.device.profiles import DEFAULT_PROFILE


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """Everything but ``ota_url`` has the stock device's value."""

    ota_url: str
    device_id: str = "02:00:00:00:00:01"
    client_id: str = ""
    """A UUID; empty: one that follows from ``device_id``, as if it were kept in flash."""
    board: str = "simulated"
    """Its name, as servers choose firmware by it."""
    rolls_back: bool = False
    """New firmware does not start: after each update the old version is back."""
    mode: Mode = "auto"
    profile: str = DEFAULT_PROFILE
    """A name of :data:`bridge.device.profiles.PROFILES`."""
    aec: bool = False
    """A build with server-side echo cancellation: says so in hello and echoes timestamps."""
    aead: bool = False
    """A client that can authenticate its audio, and says so in hello; a server that cannot is talked to as by any device."""
    transport: Transport = "auto"
    websocket_version: int = 0
    """Of the binary messages, whatever the OTA answer says; 0: as it says."""
    impairment: Impairment | None = None
    """Bad network, both directions: of UDP alone."""
    downlink_impairment: Impairment | None = None
    """For the downlink instead of ``impairment``."""
    realtime: bool = True
    """False: what is said goes out as fast as the loop turns."""
    decode: bool = True
    """False: downlink packets are timed but not decoded, for benches; nothing is heard then."""
    microphone: LiveSource | None = None
    """A live microphone instead of silence between sayings."""
    extra_tools: tuple[Tool, ...] = ()
    ota_timing: OtaTiming = field(default_factory=OtaTiming)
    hello_timeout_s: float = HELLO_TIMEOUT_S
    reconnect_s: float = 10.0
    """From the loss of the MQTT connection to the next attempt."""
    main_loop_pass_s: float = 0.02
    """From ``tts start`` to the clearing of the decode queue: how long the display keeps the main task."""
    warm_up_s: float = WARM_UP_S
    """From ``listen start`` to the first microphone packet."""
    channel_timeout_s: float = 120.0
    """Without any input for so long the channel counts as closed."""
    tls: ssl.SSLContext | None = None
    """For port 8883 instead of the public CAs."""
    on_activation: Callable[[str, str], None] = lambda _code, _message: None
    """Called with code and message each time the server asks for activation."""
    on_event: Callable[[Event], None] = lambda _event: None
    """Called with each message received."""
