"""What the processes of a load run tell each other: JSON on standard input and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge.device.impairment import Impairment

SAYINGS = {"loss": "loss", "duplicate": "duplicate", "reorder": "reorder", "jitter": "jitter_ms", "delay": "delay_ms", "seed": "seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """One process of devices."""

    ota_url: str
    first: int
    """Number of its first device; numbers make MAC addresses."""
    devices: int
    turns: int
    ramp_s: float
    """Over how long the devices boot; only then the turns begin."""
    think_s: float
    """Mean pause between turns."""
    recording: str
    frame_ms: int = 60
    impair: dict[str, float] = field(default_factory=dict)
    aead: bool = False
    timeout_s: float = 30.0
    cores: Sequence[int] = ()


@dataclass(slots=True, kw_only=True)
class FleetResult:
    """What one process has measured, in milliseconds."""

    turns: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    stt_ms: list[float] = field(default_factory=list)
    first_audio_ms: list[float] = field(default_factory=list)
    """From the end of speech, the closing silence of the endpointer included."""
    pacing_ms: list[float] = field(default_factory=list)
    lead_frames: list[int] = field(default_factory=list)
    gaps: int = 0
    lost: int = 0
    packets: int = 0
    underruns: int = 0
    lag_ms: list[float] = field(default_factory=list)
    """How late this process's own loop was: what is above the pacing error's size makes that error ours."""


def mac(number: int) -> str:
    """The address of a device."""
    return f"02:10:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def parse_impairment(text: str) -> dict[str, float]:
    """``loss=0.02,jitter=20`` as the options of an impairment. Raises ValueError with a sentence."""
    options: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name.strip() not in SAYINGS:
            raise ValueError(f"{name!r} is no impairment: known are {', '.join(SAYINGS)}")
        options[SAYINGS[name.strip()]] = float(value)
    impairment(options)
    return options


def impairment(options: dict[str, float], *, seed: int = 0) -> Impairment | None:
    """Both directions of a device's network; None when nothing is wrong with it."""
    if not options:
        return None
    rest = {name: value for name, value in options.items() if name != "seed"}
    return Impairment(seed=int(options.get("seed", 0)) + seed, **rest)
