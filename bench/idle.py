"""Many idle devices: what each costs in memory, and what their keep-alive costs in CPU.

    python -m bench.idle [--devices 5000]

The server is a process of its own, and so are the devices: real sockets, TLS with a self-made certificate. "listener" is
the MQTT listener alone; "whole bridge" is the server as it runs, where each device has fetched its credentials before and
is in the registry as well. A device pings twice in its keep-alive time of 240 s.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.child import Child
from bench.idle_devices import Plan
from bench.machine import description, load, raise_file_limit
from bench.report import Options, Row, text_table
from bench.turns import server
from tests.bridge.certificates import write_certificate

PINGS: Final = 5
PING_PERIOD_S: Final = 120.0
MESSAGE_BYTES: Final = 8000
"""What a page of a device's tools has at most; every device tells its tools once."""
WARM_UP: Final = 50
"""Devices that come and go before: what the first ones of a process bring in is not a device's cost."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one idle device."""

    fresh_kb: float
    """Of memory, before it has said anything."""
    memory_kb: float
    """Once it has said a message of :data:`MESSAGE_BYTES`."""
    ping_us: float

    def keepalive_percent(self, devices: int) -> float:
        """Of one core."""
        return self.ping_us / 1e6 * devices / PING_PERIOD_S * 100


@contextmanager
def listener(files: tuple[Path, Path] | None) -> Iterator[tuple[Child, dict[str, Any]]]:
    """The listener alone, and where devices find it."""
    with Child("bench.idle_front", {"certificate": [str(path) for path in files] if files else None}) as child:
        yield child, {"port": child.hear()["port"]}


@contextmanager
def whole(options: Options, files: tuple[Path, Path] | None) -> Iterator[tuple[Child, dict[str, Any]]]:
    """The whole bridge, and where devices find it."""
    limits = ("connections_per_minute", "ota_requests_per_minute", "device_connections_per_minute")
    settings: dict[str, Any] = {f"limits.{name}": 1_000_000 for name in limits}  # not exempt: what limits remember is part of the cost
    settings |= {"mqtt.max_connections": 1_000_000}
    if files:
        settings |= {"mqtt.plain": False, "mqtt.tls.port": 0, "mqtt.tls.certificate": str(files[0]), "mqtt.tls.private_key": str(files[1])}
    with server(options, settings=settings, scripted={"vad": "energy", "sentences": 1, "sentence_s": 1.0}) as child:
        yield child, {"ota_url": child.hear()["ota_url"]}


def cost(serving: AbstractContextManager[tuple[Child, dict[str, Any]]], devices: int, tls: dict[str, Any]) -> Cost:
    """Let so many devices be idle at this server."""
    with serving as (child, where):
        with Child("bench.idle_devices", asdict(Plan(devices=WARM_UP, first=1_000_000, **where, **tls))) as first:
            first.hear()
            first.ask({"pings": 1, "say_bytes": MESSAGE_BYTES})
        before = child.ask({"collect": True})
        with Child("bench.idle_devices", asdict(Plan(devices=devices, **where, **tls))) as crowd:
            crowd.hear()
            idle = child.ask({"collect": True})
            crowd.ask({"pings": PINGS})
            pinged = child.ask({"collect": True})
            crowd.ask({"pings": 1, "say_bytes": MESSAGE_BYTES})
            said = child.ask({"collect": True})
    ping_s = (pinged["cpu_s"] - idle["cpu_s"]) / (devices * PINGS)
    fresh_kb, memory_kb = ((used["rss_mb"] - before["rss_mb"]) * 1e3 / devices for used in (pinged, said))
    return Cost(fresh_kb, memory_kb, ping_s * 1e6)


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    yield from rows(options, devices=300 if options.quick else 5000)


def rows(options: Options, *, devices: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="xiaozhi-bench-") as scratch:
        files = write_certificate(Path(scratch) / "own", names=["127.0.0.1"])
        for name, limit_kb in (("plain", 5.0), ("TLS 1.2", 30.0), ("TLS 1.3", 30.0)):
            secure = name.startswith("TLS")
            tls: dict[str, Any] = (
                {"authority": str(files[0]), "tls_version": name.replace("TLS ", "TLSv").replace(".", "_")} if secure else {}
            )
            pair = files if secure else None
            for what, serving in (("listener", listener(pair)), ("whole bridge", whole(options, pair))):
                found = cost(serving, devices, tls)
                case = f"memory of an idle device, {name}, {what}"
                note = f"{devices} devices that have told their tools; before that {found.fresh_kb:.1f} KB"
                yield Row(part="idle", case=case, value=found.memory_kb, unit="KB", at_most=limit_kb, note=note)
                percent = found.keepalive_percent(devices)
                note = f"{devices} devices, {found.ping_us:.1f} us a ping"
                yield Row(part="idle", case=f"CPU of keep-alive, {name}, {what}", value=percent, unit="% of a core", note=note)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the models are (default: data)")
    arguments = parser.parse_args()
    raise_file_limit()
    before = load()
    found = list(rows(Options(quick=False, data_dir=arguments.data_dir), devices=arguments.devices))
    print(f"{description()}; load before: {before:.1f}\n")
    print(text_table(found))


if __name__ == "__main__":
    main()
