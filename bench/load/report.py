"""What a load run has found, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.load.pacing import percentile
from bench.load.plan import FleetResult
from bench.load.servers import Answer

LIMIT_PACING_MS = 20.0
LATE_RECEIVER_MS = 10.0


@dataclass(frozen=True, slots=True)
class Spread:
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(*(round(percentile(values, share), 1) for share in (0.5, 0.9, 0.99, 1.0)))

    def __str__(self) -> str:
        return f"p50 {self.p50:8.1f}   p90 {self.p90:8.1f}   p99 {self.p99:8.1f}   max {self.max:8.1f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Times in milliseconds. CPU in percent of one core; what the server's figures are None for was not measured."""

    devices: int
    turns: int
    turns_wanted: int
    failures: dict[str, int]
    wall_s: float
    stt_ms: Spread
    first_audio_ms: Spread
    pacing_ms: Spread
    receiver_lag_ms: Spread
    lead_frames: float
    packets: int
    lost: int
    gaps: int
    underruns: int
    send_ms: Spread | None = None
    """Pacing error when the server sent: what the receivers see beyond it is theirs."""
    send_gaps: int | None = None
    loop_lag_ms: tuple[float, float, float] | None = None
    """The server's: 50th and 99th percentile, maximum; the worst of its processes."""
    collections_ms: tuple[int, float] | None = None
    """The server's full garbage collections: how many, and the longest."""
    cpu_percent: float | None = None
    cpu_percent_per_device: float | None = None
    rss_mib: float | None = None
    rss_kib_per_device: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def within_limit(self) -> bool:
        """Whether every turn worked and was paced well enough."""
        return not self.failures and self.turns == self.turns_wanted and self.pacing_ms.p99 <= LIMIT_PACING_MS

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"within_limit": self.within_limit}

    def __str__(self) -> str:
        failures = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failures.items())) or "none"
        lines = [
            f"{self.devices} devices, {self.turns} of {self.turns_wanted} turns in {self.wall_s:.1f} s; failures: {failures}",
            f"  end of speech to text         {self.stt_ms} ms",
            f"  end of speech to first audio  {self.first_audio_ms} ms",
            f"  pacing error at the receiver  {self.pacing_ms} ms",
            f"  lag of the receivers          {self.receiver_lag_ms} ms",
            f"  {self.packets} packets, {self.lost} lost, {self.gaps} gaps over 100 ms, {self.underruns} underruns",
            f"  {self.lead_frames:.1f} frames ahead of playback",
        ]
        if self.send_ms is not None and self.loop_lag_ms is not None and self.collections_ms is not None:
            lines += [
                f"  server: pacing when sent      {self.send_ms} ms, {self.send_gaps} gaps over 100 ms",
                "  server: lag of the loop       p50 {:8.1f}   p99 {:8.1f}   max {:8.1f} ms".format(*self.loop_lag_ms),
                "  server: {} full collections of garbage, the longest {:.0f} ms".format(*self.collections_ms),
            ]
        if self.cpu_percent is not None:
            lines.append(f"  server: {self.cpu_percent:.0f} % of a core, {self.cpu_percent_per_device:.2f} % a device")
        if self.rss_mib is not None:
            lines.append(f"  server: {self.rss_mib:.0f} MiB, {self.rss_kib_per_device:.0f} KiB a device")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def merge(results: Sequence[FleetResult]) -> FleetResult:
    """All processes as one."""
    whole = FleetResult()
    for one in results:
        for name in FleetResult.__slots__:
            if name != "failures":
                setattr(whole, name, getattr(whole, name) + getattr(one, name))
        for kind, count in one.failures.items():
            whole.failures[kind] = whole.failures.get(kind, 0) + count
    return whole


def report(
    result: FleetResult, *, devices: int, turns_wanted: int, wall_s: float, server: Answer | None = None, **used: float | None
) -> Report:
    """The figures of a run; ``used``: CPU and memory of the server."""
    pacing_ms, lag_ms = Spread.of(result.pacing_ms), Spread.of(result.lag_ms)
    notes = []
    if pacing_ms.p99 > LATE_RECEIVER_MS < lag_ms.p99:
        notes.append("the receivers themselves were late: the pacing error is theirs in part")
    leads = result.lead_frames
    return Report(
        devices=devices,
        turns=result.turns,
        turns_wanted=turns_wanted,
        failures=result.failures,
        wall_s=round(wall_s, 2),
        stt_ms=Spread.of(result.stt_ms),
        first_audio_ms=Spread.of(result.first_audio_ms),
        pacing_ms=pacing_ms,
        receiver_lag_ms=lag_ms,
        lead_frames=round(sum(leads) / len(leads), 2) if leads else 0.0,
        packets=result.packets,
        lost=result.lost,
        gaps=result.gaps,
        underruns=result.underruns,
        notes=notes,
        send_ms=None if server is None else Spread.of(server.send_ms),
        send_gaps=None if server is None else server.send_gaps,
        loop_lag_ms=None if server is None else (round(server.lag_p50_ms, 1), round(server.lag_p99_ms, 1), round(server.lag_max_ms, 1)),
        collections_ms=None if server is None else (len(server.gc_ms), max(server.gc_ms, default=0.0)),
        **used,
    )
