"""Every judgement at its borders."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bridge.certificate import CertificateFacts
from bridge.doctor.findings import Level, exit_code, failure, left_out, ok, summary, warning
from bridge.doctor.judgement import (
    AddressFacts,
    judge_address,
    judge_certificate,
    judge_clock,
    judge_disk,
    judge_given_host,
    judge_models,
    judge_open_files,
    judge_receive_buffer,
    judge_version,
)

LAN = AddressFacts("192.168.1.10", ("192.168.1.10",), ("192.168.1.10", "10.0.0.1"), was_set=False)


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (LAN, Level.OK, "found by itself"),
        (replace(LAN, was_set=True), Level.OK, "as set"),
        (replace(LAN, own=("10.0.0.1",)), Level.WARNING, "not an address of this machine"),
        (replace(LAN, advertised="127.0.0.1", resolved=("127.0.0.1",)), Level.WARNING, "only this machine"),
        (replace(LAN, advertised="nowhere.example", resolved=()), Level.FAILURE, "no IPv4 address"),
        (replace(LAN, advertised="fe80::1"), Level.FAILURE, "advertise.host"),
        (replace(LAN, advertised="mqtt://192.168.1.10"), Level.FAILURE, "advertise.host"),
        (replace(LAN, advertised="box.local"), Level.WARNING, "mDNS"),
        (AddressFacts("172.17.0.2", ("172.17.0.2",), ("172.17.0.2",), was_set=False, in_container=True), Level.FAILURE, "container"),
        (AddressFacts("172.17.0.2", ("172.17.0.2",), ("172.17.0.2",), was_set=True, in_container=True), Level.OK, "as set"),
    ],
)
def test_address(facts: AddressFacts, level: Level, words: str) -> None:
    finding = judge_address(facts)
    assert finding.level is level
    assert words in finding.detail
    assert bool(finding.fix) == (level is not Level.OK)


def test_a_server_that_sends_devices_to_themselves() -> None:
    assert judge_given_host("udp address", "127.0.0.1", "192.168.1.10").level is Level.FAILURE
    assert judge_given_host("udp address", "localhost", "192.168.1.10").level is Level.FAILURE
    assert judge_given_host("udp address", "127.0.0.1", "127.0.0.1").level is Level.OK
    assert judge_given_host("udp address", "127.0.0.1", "localhost").level is Level.WARNING
    assert judge_given_host("udp address", "10.0.0.1", "bridge.example").level is Level.WARNING


@pytest.mark.parametrize(
    ("server_ms", "level"),
    [
        (1_000_000, Level.OK),
        (998_000, Level.OK),
        (1_002_500, Level.OK),
        (997_999, Level.WARNING),
        (1_002_501.5, Level.WARNING),
        (None, Level.FAILURE),
        (True, Level.FAILURE),
        ("1000000", Level.FAILURE),
    ],
)
def test_clock(server_ms: object, level: Level) -> None:
    assert judge_clock(server_ms=server_ms, before_ms=1_000_000, after_ms=1_000_500).level is level


NOW = datetime(2026, 8, 1, tzinfo=UTC)
GOOD = CertificateFacts(NOW - timedelta(days=1), NOW + timedelta(days=60), ("bridge.example", "*.home.example"))


@pytest.mark.parametrize(
    ("facts", "host", "level"),
    [
        (GOOD, "bridge.example", Level.OK),
        (GOOD, "Box.home.example", Level.OK),
        (GOOD, "a.b.home.example", Level.WARNING),
        (GOOD, "192.168.1.10", Level.WARNING),
        (replace(GOOD, names=()), "bridge.example", Level.WARNING),
        (replace(GOOD, not_after=NOW + timedelta(days=13)), "bridge.example", Level.WARNING),
        (replace(GOOD, not_after=NOW), "bridge.example", Level.FAILURE),
        (replace(GOOD, not_before=NOW + timedelta(seconds=1)), "bridge.example", Level.FAILURE),
    ],
)
def test_certificate(facts: CertificateFacts, host: str, level: Level) -> None:
    assert judge_certificate(facts, host=host, now=NOW).level is level


def test_resources() -> None:
    levels = [judge_disk(free_bytes=free, writable=True, where="data").level for free in (10**6, 10**8, 10**9)]
    assert levels == [Level.FAILURE, Level.WARNING, Level.OK]
    assert judge_disk(free_bytes=10**9, writable=False, where="data").level is Level.FAILURE
    buffers = [judge_receive_buffer(granted_max_bytes=granted, wanted_bytes=4_000_000).level for granted in (None, 212_992, 4_000_000)]
    assert buffers == [Level.OK, Level.WARNING, Level.OK]
    limits = [judge_open_files(limit=limit, max_connections=10_000).level for limit in (None, 256, 1024, 20_000)]
    assert limits == [Level.OK, Level.WARNING, Level.OK, Level.OK]


def test_versions_and_models() -> None:
    assert [judge_version(own="1.0", server=server).level for server in ("1.0", "1.1", "")] == [Level.OK, Level.WARNING, Level.WARNING]
    assert judge_models(missing=["a"], optional_missing=["b"], present=["c"]).level is Level.FAILURE
    assert judge_models(missing=[], optional_missing=["b"], present=["c"]).level is Level.WARNING
    assert judge_models(missing=[], optional_missing=[], present=[]).level is Level.OK


def test_only_a_failure_is_an_exit_code() -> None:
    fine = [ok("a", "x"), warning("b", "x", "y"), left_out("c", "x")]
    assert exit_code(fine) == 0
    assert exit_code([*fine, failure("d", "x", "y")]) == 1
    assert summary(fine) == "1 ok, 1 warnings, 0 failures, 1 left out"
    assert failure("mqtt", "it is so", "Do this.").as_text() == "failure   mqtt             it is so\n" + " " * 27 + "Do this."
