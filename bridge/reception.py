"""What reached us of each device's audio, in the terms of RFC 3550 (§6.4.1, A.3, A.8): one ledger a device, over all its sessions.

Pure: who asks says what time it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from bridge.ear import EarStats
from bridge.transport import AudioLink
from udp_audio.channel import ChannelStats
from udp_audio.server import AudioChannel

FEW_DEVICES = 50
"""Up to so many devices get metrics of their own by default; more would flood the time series of a home's Prometheus."""


@dataclass(slots=True)
class UplinkTotals:
    """Packets from the device, since this process has started."""

    expected: int = 0
    received: int = 0
    lost: int = 0
    """Never arrived. RFC 3550's cumulative number, without duplicates."""
    reordered: int = 0
    late: int = 0
    """Arrived when their place had been given up."""
    duplicates: int = 0
    rejected: int = 0
    """Not plausible, not authentic, too old, too far ahead, or from an address that was never confirmed."""
    queue_dropped: int = 0
    concealed: int = 0
    recovered: int = 0
    """By the error correction of the next packet."""
    undecodable: int = 0
    discontinuities: int = 0
    address_moves: int = 0

    def add(self, other: UplinkTotals) -> None:
        for name in UplinkTotals.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @classmethod
    def of(cls, channel: ChannelStats, ear: EarStats) -> UplinkTotals:
        """What the counters of one session say."""
        reception = channel.reception
        return cls(
            expected=reception.expected,
            received=reception.received,
            lost=reception.lost,
            reordered=reception.reordered,
            late=reception.late,
            duplicates=channel.duplicates + reception.duplicates,
            rejected=channel.implausible + channel.forged + channel.old + channel.far_ahead + channel.distrusted,
            queue_dropped=channel.queue_dropped,
            concealed=ear.concealed,
            recovered=ear.recovered,
            undecodable=ear.undecodable,
            discontinuities=reception.discontinuities,
            address_moves=channel.address_moves,
        )


@dataclass(frozen=True, slots=True)
class ReceptionReport:
    """A device at one moment. The last four are those of its latest session."""

    sessions: int
    sent: int
    """Packets to the device."""
    uplink: UplinkTotals
    loss_fraction: float
    """0..1, of the last complete 5 s of audio."""
    jitter_ms: float
    """Smoothed interarrival jitter."""
    hold_ms: float
    """How long a missing packet is waited for at present."""
    last_seen_s: float | None
    """Seconds since its last audio packet; None when there was none."""

    def as_json(self) -> dict[str, Any]:
        """Flat, times rounded."""
        rounded = {name: round(getattr(self, name), 3) for name in ("loss_fraction", "jitter_ms", "hold_ms")}
        last_seen_s = None if self.last_seen_s is None else round(self.last_seen_s, 1)
        return {"sessions": self.sessions, "sent": self.sent, **asdict(self.uplink), **rounded, "last_seen_s": last_seen_s}


@dataclass(frozen=True, slots=True)
class Line:
    """Where the counters of one session are read."""

    channel: ChannelStats
    ear: EarStats
    hold_s: Callable[[], float]
    last_received_at: Callable[[], float | None]

    @classmethod
    def of(cls, link: AudioLink, ear: EarStats) -> Line:
        """Of a session's link; over a WebSocket nothing gets lost and nothing is counted."""
        udp = link if isinstance(link, AudioChannel) else None
        return cls(
            channel=udp.stats if udp is not None else ChannelStats(),
            ear=ear,
            hold_s=lambda: udp.jitter_hold_s if udp is not None else 0.0,
            last_received_at=lambda: link.last_received_at,
        )


@dataclass(frozen=True, slots=True)
class _Condition:
    """How the line of a device was when last looked at."""

    loss_fraction: float = 0.0
    jitter_ms: float = 0.0
    hold_ms: float = 0.0
    heard_at: float | None = None

    @classmethod
    def of(cls, line: Line) -> _Condition:
        reception = line.channel.reception
        return cls(reception.loss_fraction, reception.jitter_ms, line.hold_s() * 1000, line.last_received_at())


_UNUSED = _Condition()


class Ledger:
    """What one device's sessions have added up to. Of a session that is over nothing but numbers is kept."""

    __slots__ = ("_closed", "_condition", "_line", "_sent", "_sessions")

    def __init__(self) -> None:
        self._closed = UplinkTotals()
        self._sent = 0
        self._sessions = 0
        self._line: Line | None = None
        """Of the session that is open."""
        self._condition = _UNUSED
        """Of the last one that is not."""

    def open(self, line: Line) -> None:
        """A session begins; one that is still open ends."""
        self.close()
        self._line = line
        self._sessions += 1

    def close(self) -> None:
        """The session is over: its counters are added up, once."""
        line, self._line = self._line, None
        if line is not None:
            self._condition = _Condition.of(line)
            self._closed.add(UplinkTotals.of(line.channel, line.ear))
            self._sent += line.channel.sent

    def report(self, now: float) -> ReceptionReport:
        totals = UplinkTotals()
        totals.add(self._closed)
        sent, line = self._sent, self._line
        condition = self._condition if line is None else _Condition.of(line)
        if line is not None:
            totals.add(UplinkTotals.of(line.channel, line.ear))
            sent += line.channel.sent
        return ReceptionReport(
            sessions=self._sessions,
            sent=sent,
            uplink=totals,
            loss_fraction=condition.loss_fraction,
            jitter_ms=condition.jitter_ms,
            hold_ms=condition.hold_ms,
            last_seen_s=None if condition.heard_at is None else max(0.0, now - condition.heard_at),
        )


class ReceptionCollector(Collector):
    """``xiaozhi_uplink_*`` over all devices, and ``xiaozhi_device_*`` with the label ``device`` where they are few."""

    def __init__(self, reports: Callable[[], Mapping[str, ReceptionReport]], *, per_device: Literal["auto", "on", "off"]) -> None:
        self._reports = reports
        self._per_device = per_device

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        reports = self._reports()
        totals = UplinkTotals()
        for report in reports.values():
            totals.add(report.uplink)
        for name in UplinkTotals.__slots__:
            yield CounterMetricFamily(f"xiaozhi_uplink_{name}", f"Packets of all devices: {name}", value=getattr(totals, name))
        if self._per_device == "on" or (self._per_device == "auto" and len(reports) <= FEW_DEVICES):
            yield from _labelled(reports)


def _labelled(reports: Mapping[str, ReceptionReport]) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
    for field in fields(UplinkTotals):
        counter = CounterMetricFamily(f"xiaozhi_device_uplink_{field.name}", f"Packets of a device: {field.name}", labels=["device"])
        for device, report in reports.items():
            counter.add_metric([device], getattr(report.uplink, field.name))
        yield counter
    sent = CounterMetricFamily("xiaozhi_device_downlink_sent", "Packets to a device", labels=["device"])
    for device, report in reports.items():
        sent.add_metric([device], report.sent)
    yield sent
    for name, unit_name, scale in (
        ("loss_fraction", "uplink_loss_ratio", 1.0),
        ("jitter_ms", "uplink_jitter_seconds", 0.001),
        ("hold_ms", "uplink_hold_seconds", 0.001),
        ("last_seen_s", "last_audio_age_seconds", 1.0),
    ):
        gauge = GaugeMetricFamily(f"xiaozhi_device_{unit_name}", f"{name} of a device", labels=["device"])
        for device, report in reports.items():
            value = getattr(report, name)
            if value is not None:
                gauge.add_metric([device], value * scale)
        yield gauge
