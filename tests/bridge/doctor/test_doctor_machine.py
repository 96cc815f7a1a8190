"""What the doctor sees of this machine, and the command as a person runs it."""

from __future__ import annotations

import ipaddress
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bridge.doctor.findings import Level
from bridge.doctor.machine import check_certificate, check_machine, check_models, check_ports, own_addresses
from settings.load import load
from tests.bridge.certificates import write_certificate
from tests.bridge.test_cli import run


def test_own_addresses_are_addresses() -> None:
    assert all(not ipaddress.IPv4Address(address).is_loopback for address in own_addresses())


def test_ports_that_are_free_and_taken() -> None:
    with socket.socket() as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        datagrams.bind(("127.0.0.1", 0))
        overrides = {
            **dict.fromkeys(("http.host", "mqtt.host", "udp.host"), "127.0.0.1"),
            "http.port": listener.getsockname()[1],
            "mqtt.port": 0,
            "udp.port": datagrams.getsockname()[1],
        }
        levels = {finding.check: finding.level for finding in check_ports(load(None, overrides=overrides).tree)}
    assert levels == {"http port": Level.WARNING, "mqtt port": Level.OK, "udp port": Level.WARNING}


def test_certificates(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    good = write_certificate(tmp_path / "good", names=["bridge.example"], until=now + timedelta(days=90))
    old = write_certificate(tmp_path / "old", names=["bridge.example"], since=now - timedelta(days=9), until=now - timedelta(days=1))
    assert check_certificate(*good, host="bridge.example").level is Level.OK
    assert check_certificate(*old, host="bridge.example").level is Level.FAILURE
    assert check_certificate(good[0], old[1], host="bridge.example").level is Level.FAILURE
    assert check_certificate(good[0], None, host="bridge.example").level is Level.FAILURE
    assert check_certificate(tmp_path / "none.pem", good[1], host="bridge.example").level is Level.FAILURE


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    tree = load(None, overrides={"data_dir": tmp_path, "llm.model": str(tmp_path / "none.gguf")}).tree
    finding = check_models(tree)
    assert finding.level is Level.FAILURE
    assert "none.gguf" in finding.detail
    assert not (tmp_path / "models").exists()


def test_every_part_of_the_machine_is_looked_at(tmp_path: Path) -> None:
    checks = [finding.check for finding in check_machine(load(None, overrides={"data_dir": tmp_path / "not" / "yet"}).tree)]
    assert checks == ["address", "models", "disk", "receive buffer", "open files"]


def test_the_command_without_a_server(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        sets = ("--set", f"http.port={unused.getsockname()[1]}", "--set", "llm.model=nothing.gguf")
        result = run("doctor", "--json", *sets, cwd=tmp_path)
        text = run("doctor", *sets, cwd=tmp_path)
    report = json.loads(result.stdout)
    levels = {finding["check"]: finding["level"] for finding in report["findings"]}
    assert (result.returncode, report["ok"], levels["models"], levels["server"]) == (1, False, "failure", "left out")
    assert text.returncode == 1
    assert "left out  server" in text.stdout
    assert "Run `xiaozhi-bridge models fetch`" in text.stdout


def test_the_command_towards_nobody(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run("doctor", "--from-device", f"127.0.0.1:{unused.getsockname()[1]}", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith("failure   http")
    assert run("doctor", "--from-device", "ftp://nowhere", cwd=tmp_path).returncode == 1
