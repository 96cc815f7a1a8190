"""One turn as the device saw it (pure): what was understood, said and heard, and when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge.device.codec import SPEAKER_RATE_HZ, Pcm
from bridge.device.events import Event


@dataclass(slots=True)
class Stamps:
    """Loop times; None for what did not happen."""

    speech_end: float | None = None
    stt: float | None = None
    tts_start: float | None = None
    first_audio: float | None = None
    """When the answer became audible."""
    tts_stop: float | None = None
    playback_end: float | None = None

    def after_speech(self, name: str) -> float | None:
        """Seconds from the end of speech to the stamp of this name."""
        stamp: float | None = getattr(self, name)
        return None if stamp is None or self.speech_end is None else stamp - self.speech_end


@dataclass(slots=True)
class TurnCounters:
    """What this turn added to the device's counters."""

    uplink_packets: int = 0
    downlink_packets: int = 0
    played_packets: int = 0
    lost_packets: int = 0
    underruns: int = 0
    underrun_s: float = 0.0
    max_depth: int = 0
    """Since the device was made."""
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class TurnRecord:
    """``heard_wav`` are 24 kHz mono samples; ``sentences`` the subtitles in order."""

    stt: str = ""
    emotion: str = ""
    sentences: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    heard_wav: Pcm = field(default_factory=lambda: np.zeros(0, dtype=np.int16))
    sample_rate_hz: int = SPEAKER_RATE_HZ
    stamps: Stamps = field(default_factory=Stamps)
    counters: TurnCounters = field(default_factory=TurnCounters)
    answered: bool = False
    """True when the answer was spoken to its ``tts stop``."""

    @property
    def reply(self) -> str:
        return " ".join(self.sentences)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready summary; latencies in milliseconds after the end of speech, audio as its length."""
        latencies = {f"{name}_ms": _ms(self.stamps.after_speech(name)) for name in ("stt", "tts_start", "first_audio", "tts_stop")}
        counters = {name: getattr(self.counters, name) for name in TurnCounters.__slots__}
        return {
            "stt": self.stt,
            "emotion": self.emotion,
            "sentences": self.sentences,
            "alerts": self.alerts,
            "answered": self.answered,
            "heard_s": round(len(self.heard_wav) / self.sample_rate_hz, 3),
            "latencies": latencies,
            "counters": counters | {"underrun_s": round(self.counters.underrun_s, 3)},
        }


def read_events(record: TurnRecord, events: Iterable[Event]) -> None:
    """Fill in what the messages of the turn say: the last ``stt`` and emotion, all sentences, the first start and stop."""
    for event in events:
        message = event.message
        match message.get("type"), message.get("state"):
            case "stt", _:
                record.stt, record.stamps.stt = _text(message, "text"), event.at_s
            case "llm", _:
                record.emotion = _text(message, "emotion")
            case "tts", "start" if record.stamps.tts_start is None:
                record.stamps.tts_start = event.at_s
            case "tts", "sentence_start":
                record.sentences.append(_text(message, "text"))
            case "tts", "stop" if record.stamps.tts_start is not None:
                record.stamps.tts_stop, record.answered = event.at_s, True
                return
            case "alert", _:
                record.alerts.append(_text(message, "message"))


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    return value if isinstance(value, str) else ""


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
