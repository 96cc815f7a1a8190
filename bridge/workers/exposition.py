"""Metrics of this process as values that can be sent, and such values as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge.workers.messages import Family, Sample


def families_of(source: Collector) -> list[Family]:
    """What ``source`` would show now."""
    return [
        Family(metric.name, metric.type, metric.documentation, [Sample(one.name, dict(one.labels), one.value) for one in metric.samples])
        for metric in source.collect()
    ]


def exposition(families: Sequence[Family]) -> bytes:
    """Prometheus text."""
    return generate_latest(_Given(families))


class _Given(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric
