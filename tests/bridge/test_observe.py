"""The metrics of the packages' plain counters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from bridge.observe import Metrics
from mqtt_control.front import FrontStats
from ota.api import OtaStats
from ota.devices import DeviceStoreStats
from udp_audio.server import ServerStats


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


@pytest.mark.parametrize(
    ("prefix", "stats"), [("mqtt", FrontStats), ("udp", ServerStats), ("devices", DeviceStoreStats), ("ota", OtaStats)]
)
def test_operators_are_told_of_every_counter(prefix: str, stats: type) -> None:
    told = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(stats) if f"`{prefix}_{field.name}" not in told] == []
