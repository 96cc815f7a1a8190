from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import partial

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from bridge.ear import EarStats
from bridge.fleet import reception_line
from bridge.reception import FEW_DEVICES, Ledger, Line, ReceptionCollector, ReceptionReport
from settings.model import MetricsExport
from udp_audio.channel import ChannelStats
from udp_audio.jitter import ReceptionStats

MAC = "02:00:00:00:00:01"


def line(*, received: int, highest: int, heard_at: float | None = 5.0) -> Line:
    reception = ReceptionStats(highest=highest, received=received, duplicates=1, late=2, jitter_s=0.012, loss_fraction=0.25)
    channel = ChannelStats(reception=reception, duplicates=3, implausible=1, old=1, address_moves=1, sent=10)
    return Line(channel, EarStats(concealed=4, recovered=5), lambda: 0.03, lambda: heard_at)


def test_a_ledger_adds_up_sessions_and_shows_the_latest() -> None:
    ledger = Ledger()
    assert ledger.report(1.0) == ReceptionReport(0, 0, ledger.report(1.0).uplink, 0.0, 0.0, 0.0, None)
    ledger.open(line(received=90, highest=100))
    ledger.close()
    ledger.close()  # once is enough
    ledger.open(line(received=45, highest=50))
    report = ledger.report(7.5)
    assert (report.sessions, report.sent) == (2, 20)
    assert (report.uplink.expected, report.uplink.received, report.uplink.lost) == (150, 135, 15)
    assert (report.uplink.duplicates, report.uplink.rejected, report.uplink.address_moves) == (8, 4, 2)
    assert (report.uplink.concealed, report.uplink.recovered) == (8, 10)
    assert (report.loss_fraction, report.jitter_ms, report.hold_ms, report.last_seen_s) == (0.25, 12.0, 30.0, 2.5)
    ledger.open(line(received=1, highest=1, heard_at=None))  # closes the one before
    assert ledger.report(8.0).uplink.expected == 151
    assert ledger.report(8.0).last_seen_s is None


def test_a_session_that_is_over_is_not_kept() -> None:
    """Its line leads to its channel, with ciphers and buffers; a device that idles for days would keep them."""

    class Buffers:
        hold_s = 0.03

    buffers = Buffers()
    held = weakref.ref(buffers)
    ledger = Ledger()
    ledger.open(replace(line(received=90, highest=100), hold_s=partial(getattr, buffers, "hold_s")))
    del buffers
    assert ledger.report(7.5).hold_ms == 30.0
    ledger.close()
    gc.collect()
    assert held() is None
    report = ledger.report(7.5)
    assert (report.sent, report.loss_fraction, report.jitter_ms, report.hold_ms, report.last_seen_s) == (10, 0.25, 12.0, 30.0, 2.5)


def exposition(count: int, per_device: str) -> str:
    ledger = Ledger()
    ledger.open(line(received=90, highest=100))
    registry = CollectorRegistry()
    reports = {f"02:00:00:00:00:{number:02x}": ledger.report(6.0) for number in range(count)}
    registry.register(ReceptionCollector(lambda: reports, per_device=per_device))  # type: ignore[arg-type]
    return generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("count", "per_device", "labelled"),
    [(2, "auto", True), (FEW_DEVICES, "auto", True), (FEW_DEVICES + 1, "auto", False), (FEW_DEVICES + 1, "on", True), (1, "off", False)],
)
def test_devices_have_series_of_their_own_while_they_are_few(count: int, per_device: str, labelled: bool) -> None:
    text = exposition(count, per_device)
    assert f"xiaozhi_uplink_lost_total {10.0 * count}" in text
    assert ('xiaozhi_device_uplink_lost_total{device="02:00:00:00:00:00"} 10.0' in text) is labelled
    assert ('xiaozhi_device_uplink_jitter_seconds{device="02:00:00:00:00:00"} 0.012' in text) is labelled


def test_yaml_words_are_understood() -> None:
    assert MetricsExport.model_validate({"per_device": True}).per_device == "on"
    assert MetricsExport.model_validate({"per_device": False}).per_device == "off"
    assert MetricsExport.model_validate({"per_device": "auto"}).per_device == "auto"


def test_a_line_for_people() -> None:
    ledger = Ledger()
    ledger.open(line(received=90, highest=100))
    shown = reception_line(MAC, ledger.report(6.0).as_json())
    assert shown.startswith(f"{MAC}  90 of 100 packets; lost 10 (10.0%, of late 25.0%); jitter 12.0 ms;")
    assert shown.endswith("last audio 1 s ago")
    assert reception_line(MAC, {}).endswith("no audio yet")
