"""The metrics of several processes as those of one (P).

Counters and histograms are summed. Gauges stand beside each other with the label ``worker``, since a sum of, say, lags means
nothing; ``sum()`` in a query adds those that can be added. A process that has ended keeps its place in the sums: a sum
that went down would look like a restart of everything and be counted twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bridge.workers.messages import Family, Sample

CREATED = "_created"
"""Samples with this end tell when a counter was born: the earliest counts."""


@dataclass(slots=True)
class Totals:
    """What workers that are gone have counted."""

    families: list[Family] = field(default_factory=list)

    def bury(self, families: Iterable[Family]) -> None:
        """A worker has ended; ``families`` is the last that was heard of it."""
        self.families = join({}, counted=[self.families, families])

    def with_living(self, answers: Mapping[int, Iterable[Family]], silent: Iterable[Iterable[Family]]) -> list[Family]:
        """The whole: ``answers`` by worker, and the last answers of those that did not answer now."""
        return join(answers, counted=[self.families, *silent])


def join(answers: Mapping[int, Iterable[Family]], *, counted: Iterable[Iterable[Family]]) -> list[Family]:
    """One list of families, by name. Of ``counted`` only what is summed is taken."""
    joined: dict[str, _Joined] = {}
    for families in counted:
        for family in families:
            if family.kind != "gauge":
                _into(joined, family).add(family.samples)
    for worker, families in sorted(answers.items()):
        for family in families:
            if family.kind == "gauge":
                _into(joined, family).place(family.samples, worker)
            else:
                _into(joined, family).add(family.samples)
    return [one.family for _, one in sorted(joined.items())]


def gauge(name: str, text: str, values: Mapping[int, float]) -> Family:
    """A value for each worker."""
    return Family(name, "gauge", text, [Sample(name, {"worker": str(worker)}, value) for worker, value in sorted(values.items())])


def counter(name: str, text: str, values: Mapping[int, float]) -> Family:
    """A count for each worker. ``name`` without ``_total``."""
    samples = [Sample(f"{name}_total", {"worker": str(worker)}, value) for worker, value in sorted(values.items())]
    return Family(name, "counter", text, samples)


class _Joined:
    """One family, while samples are added to it. The order of samples (buckets!) is that of their first appearance."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            key = (sample.name, tuple(sample.labels.items()))
            if key not in self._values:
                self._values[key] = sample.value
            elif sample.name.endswith(CREATED):
                self._values[key] = min(self._values[key], sample.value)
            else:
                self._values[key] += sample.value

    def place(self, samples: Iterable[Sample], worker: int) -> None:
        for sample in samples:
            self._values[sample.name, (*sample.labels.items(), ("worker", str(worker)))] = sample.value

    @property
    def family(self) -> Family:
        samples = [Sample(name, dict(labels), value) for (name, labels), value in self._values.items()]
        return Family(self._family.name, self._family.kind, self._family.help, samples)


def _into(joined: dict[str, _Joined], family: Family) -> _Joined:
    return joined.setdefault(family.name, _Joined(family))
