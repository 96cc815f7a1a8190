"""The metrics of the packages' plain counters."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.observe import Metrics


@dataclass
class Stats:
    opened: int = 7
    connections: int = 2
    name: str = "not a number"


def test_what_happened_is_a_counter_and_what_is_there_a_gauge() -> None:
    metrics = Metrics()
    metrics.stats.add("mqtt", Stats)
    metrics.stats.add("bridge", lambda: {"sessions": 3.0, "hellos": 4})
    lines = metrics.exposition().decode().splitlines()
    assert "# TYPE xiaozhi_mqtt_opened_total counter" in lines
    assert "xiaozhi_mqtt_opened_total 7.0" in lines
    assert "# TYPE xiaozhi_mqtt_connections gauge" in lines
    assert "xiaozhi_mqtt_connections 2.0" in lines
    assert "xiaozhi_bridge_sessions 3.0" in lines
    assert "xiaozhi_bridge_hellos_total 4.0" in lines
    assert not any("name" in line for line in lines)
