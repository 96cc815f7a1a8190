"""What operators see: Prometheus metrics, one log line a turn, and the event loop's lag."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from bridge.turn import Turn

log = structlog.get_logger(__name__)

LAG_PERIOD_S = 0.1
_PRESENT = frozenset({"channels_open", "connections", "connections_open", "connections_waiting", "devices", "open"})
"""Ints among the counters that are present numbers."""
_STAGES = ("committed", "asr_final", "llm_first", "tts_first", "first_packet")
_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20)


class StatsCollector(Collector):
    """Publishes the plain counters that the packages keep: dataclasses of ints; floats and present numbers are gauges."""

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], object]] = {}

    def add(self, prefix: str, source: Callable[[], object]) -> None:
        """``source`` gives a dataclass instance or a mapping at each scrape."""
        self._sources[prefix] = source

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        for prefix, source in self._sources.items():
            for name, value in _members(source()):
                metric = f"xiaozhi_{prefix}_{name}"
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    continue
                if isinstance(value, float) or name in _PRESENT:
                    yield GaugeMetricFamily(metric, f"{name} of {prefix}", value=value)
                else:
                    yield CounterMetricFamily(metric, f"{name} of {prefix}", value=value)


def _members(stats: object) -> Iterable[tuple[str, Any]]:
    if isinstance(stats, Mapping):
        return list(stats.items())
    if is_dataclass(stats):
        return [(field.name, getattr(stats, field.name)) for field in fields(stats)]
    return []


class Metrics(Collector):
    """The registry of one process, and what is counted by the bridge itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stats = StatsCollector()
        self.registry.register(self.stats)
        self._turns = Counter("xiaozhi_turns", "Voice turns by outcome", ["outcome"], registry=self.registry)
        self._stage = Histogram(
            "xiaozhi_turn_stage_seconds", "From the end of speech to each stage", ["stage"], buckets=_BUCKETS_S, registry=self.registry
        )
        self._failures = Counter("xiaozhi_stage_failures", "Failed stages of turns", ["stage"], registry=self.registry)
        self._closed_paths = Counter(
            "xiaozhi_audio_paths_closed", "Sessions in which a listening device's audio did not arrive", registry=self.registry
        )
        self._lag = Histogram(
            "xiaozhi_loop_lag_seconds",
            "How late the event loop runs what is due",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
            registry=self.registry,
        )
        self._lag_max = Gauge("xiaozhi_loop_lag_max_seconds", "Largest lag since the last scrape", registry=self.registry)
        self._lag_peak = 0.0

    def turn(self, turn: Turn) -> None:
        """Count and log one finished turn."""
        self._turns.labels(turn.outcome.replace(" ", "_")).inc()
        for stage in turn.failures:
            self._failures.labels(stage).inc()
        start = turn.stamps.speech_end or turn.stamps.committed
        for stage in _STAGES:
            stamp = getattr(turn.stamps, stage)
            if stamp and start:
                self._stage.labels(stage).observe(max(0.0, stamp - start))
        log.info("turn", outcome=turn.outcome, language=turn.language, **turn.stamps.since_speech_ms(), heard=turn.text)

    def audio_path_closed(self) -> None:
        """Count one session whose device is not heard."""
        self._closed_paths.inc()

    async def watch_lag(self) -> None:
        """Measure the loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            lag_s = max(0.0, loop.time() - due)
            self._lag.observe(lag_s)
            self._lag_peak = max(self._lag_peak, lag_s)

    def collect(self) -> Iterable[Metric]:
        """One scrape; it resets what is said of the time since the last one."""
        self._lag_max.set(self._lag_peak)
        self._lag_peak = 0.0
        return self.registry.collect()

    def exposition(self) -> bytes:
        """The metrics in Prometheus text format."""
        return generate_latest(self)
