"""What an open session costs: growth of the resident set and of the number of threads while devices listen and nobody speaks.

Everything that one device makes the server keep is in it: MQTT connection, registry entry, the device's tools, session,
audio channel, ciphers, jitter buffer, Opus decoder, the detector's stream. The detector is Silero.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict

from bench.child import Child
from bench.devices import Plan
from bench.report import Options, Row
from bench.turns import RECORDING, server

SETTLE_S = 3.0


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    count = 30 if options.quick else 200
    with server(options, scripted={"vad": "silero", "sentences": 1, "sentence_s": 1.0}) as bridge:
        ota_url = bridge.hear()["ota_url"]
        _open(bridge, ota_url, 10)  # what the first sessions of a process bring in is not a session's cost
        before = bridge.ask({"collect": True})
        after = _open(bridge, ota_url, count)
    each_kb = (after["rss_mb"] - before["rss_mb"]) * 1e3 / count
    yield Row(part="session", case="memory of an open session", value=each_kb, unit="KB", at_most=100, note=f"{count} sessions, listening")
    added = after["threads"] - before["threads"]
    yield Row(part="session", case="threads added by all of them", value=added, unit="", at_most=0)


def _open(bridge: Child, ota_url: str, count: int) -> dict[str, float]:
    """Open so many sessions, let them listen for a while, and say what the server uses then. They are closed afterwards."""
    plan = Plan(ota_url=ota_url, recording=str(RECORDING), devices=count, first_device=count * 1000)
    with Child("bench.devices", asdict(plan)) as devices:
        devices.hear()
        time.sleep(SETTLE_S)  # noqa: TID251 - a process that only waits
        used: dict[str, float] = bridge.ask({"collect": True})
        devices.tell({})
        return used
