"""The command line as a person meets it: real processes where the exit code matters."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.device.errors import OtaError
from bridge.device.profiles import PROFILES
from bridge.errors import OperatorError, explain
from ota.devices import DeviceFacts, DeviceStore
from providers.base import ModelMissing, ProviderError, ProviderRejected
from settings.load import MASK, SettingsError
from settings.reference import example_yaml, markdown
from tests.ota.images import image

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``xiaozhi-bridge`` in a directory of its own, without the settings of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("XZ_")}
    return subprocess.run(
        [sys.executable, "-m", "bridge.cli", *arguments],
        cwd=cwd,
        env=inherited | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_and_help(tmp_path: Path) -> None:
    version = run("version", cwd=tmp_path)
    assert (version.returncode, version.stdout.split()[0]) == (0, "xiaozhi-bridge")
    top = run("--help", cwd=tmp_path)
    assert top.returncode == 0
    for command in ("serve", "device", "demo", "models", "config", "devices", "firmware", "try", "doctor", "version"):
        assert command in top.stdout


def test_the_start_imports_no_speech_or_language_package() -> None:
    """What every command pays for is small: SDKs and the settings are imported when a command needs them."""
    code = "import bridge.cli, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numpy", "openai", "onnxruntime", "ctranslate2", "httpx", "uvloop", "starlette", "structlog", "yaml", "settings", "providers"}
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_device_of_every_generation_can_be_asked_for(tmp_path: Path, profile: str) -> None:
    """Nobody listens at that address: what is told is that, not that the profile is unknown."""
    question = ROOT / "examples" / "question_en.wav"
    result = run("device", "--profile", profile, "--wav", str(question), "--ota-url", "http://127.0.0.1:1/xiaozhi/ota/", cwd=tmp_path)
    assert (result.returncode, "Invalid value" in result.stderr) == (OtaError.exit_code, False), result.stderr
    unknown = run("device", "--profile", "0.1", "--wav", str(question), cwd=tmp_path)
    assert (unknown.returncode, "Invalid value" in unknown.stderr, profile in unknown.stderr) == (2, True, True)


def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    for arguments in (("nonsense",), ("serve", "--http-port", "70000"), ("config", "check", "--set", "nonsense"), ("device",)):
        result = run(*arguments, cwd=tmp_path)
        assert result.returncode == 2, arguments
        assert "Traceback" not in result.stderr


# -- config ------------------------------------------------------------------------------------------------------------
def test_config_show_tells_values_and_origins_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mqtt:\n  port: 1999\n", encoding="utf-8")
    environ = {"XZ_LLM__API_KEY": "sk-very-secret"}
    shown = run("config", "show", "--changed", "--set", "udp.port=5", cwd=tmp_path, environ=environ)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [
        "mqtt.port = 1999   # config.yaml line 2",
        "udp.port = 5   # command line udp.port",
        'llm.kind = "openai"   # follows from llm.api_key',
        f'llm.api_key = "{MASK}"   # environment XZ_LLM__API_KEY',
    ]
    data = json.loads(run("config", "show", "--json", cwd=tmp_path, environ=environ).stdout)
    assert data["settings"]["mqtt"]["port"] == 1999
    assert data["origins"]["mqtt.port"] == "config.yaml line 2"
    assert "sk-very-secret" not in str(data)


def test_config_check(tmp_path: Path) -> None:
    good = run("config", "check", "--set", "mqtt.port=1", cwd=tmp_path)
    assert (good.returncode, good.stdout) == (0, "The settings are right: 1 given, the rest by default; file: none\n")
    (tmp_path / "other.yaml").write_text("mqtt:\n  prot: 1\n  port: x\n", encoding="utf-8")
    bad = run("config", "check", "--config", "other.yaml", cwd=tmp_path)
    assert bad.returncode == 1
    assert "mqtt.prot: there is no such setting (other.yaml line 2); did you mean mqtt.port?" in bad.stderr
    assert 'mqtt.port: "x" is not allowed (other.yaml line 3)' in bad.stderr
    assert "Traceback" not in bad.stderr


def test_serve_refuses_wrong_settings_before_anything_starts(tmp_path: Path) -> None:
    bad = run("serve", "--log-level", "lound", cwd=tmp_path)
    assert bad.returncode == 1
    assert 'log.level: "lound" is not allowed' in bad.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_generated_documents_are_printed(tmp_path: Path) -> None:
    assert run("config", "example", cwd=tmp_path).stdout == example_yaml()
    assert run("config", "reference", cwd=tmp_path).stdout == markdown()


# -- errors ------------------------------------------------------------------------------------------------------------
def test_traceback_only_on_request(tmp_path: Path) -> None:
    plain = run("try", "asr", "absent.wav", cwd=tmp_path)
    assert plain.returncode == 1
    assert plain.stderr == "Error: absent.wav: No such file or directory\n"
    detailed = run("try", "asr", "absent.wav", "--traceback", cwd=tmp_path)
    assert detailed.returncode == 1
    assert "Traceback (most recent call last)" in detailed.stderr


def test_a_file_that_is_no_wav(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"not at all")
    result = run("try", "vad", "x.wav", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: x.wav: this is not a WAV file with 16-bit PCM samples\nConvert it: ffmpeg")


def test_demo_without_a_question(tmp_path: Path) -> None:
    result = run("demo", cwd=tmp_path)
    assert result.returncode == 1
    assert "question_en.wav: there is no such file" in result.stderr


def test_devices_need_a_server(tmp_path: Path) -> None:
    off = run("devices", "list", cwd=tmp_path)
    assert off.returncode == 1
    assert off.stderr.startswith("Error: No server has run with the data directory")
    nobody = run("devices", "list", "--url", "http://127.0.0.1:9", cwd=tmp_path, environ={"XZ_ADMIN__TOKEN": "t"})
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("Error: No server answers at http://127.0.0.1:9 (ConnectError)\nStart it")


class OpusUnavailable(Exception):
    __module__ = "udp_audio.opus"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), "--mqtt-port"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "/data: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (SettingsError("a: b", "c: d"), "a: b\nc: d"),
        (ProviderRejected("the key is wrong"), "the key is wrong\ncheck the key"),
        (ProviderError("it failed"), "config show"),
        (ModelMissing("nowhere"), "nowhere"),
        (OpusUnavailable("libopus is not there"), "libopus is not there\nrun `make run`"),
        (ExceptionGroup("group", [ExceptionGroup("inner", [OSError(errno.EADDRINUSE, "taken")])]), "the port is taken"),
        (OperatorError("what", advice="do"), "what\ndo"),
    ],
)
def test_errors_that_an_operator_can_act_on(error: BaseException, says: str) -> None:
    known = explain(error)
    assert known is not None
    assert says in str(known)


def test_bugs_are_not_explained_away() -> None:
    foreign = type("SettingsError", (Exception,), {"__module__": "elsewhere"})
    assert explain(ValueError("x")) is None
    assert explain(foreign("x")) is None
    assert explain(OSError("x")) is None
    assert explain(ExceptionGroup("two", [OSError(errno.ENOSPC, ""), OSError(errno.ENOSPC, "")])) is None


# -- devices of the user's own broker ----------------------------------------------------------------------------------
async def _registry(data_dir: Path, *macs: str) -> None:
    store = DeviceStore()
    await store.open(data_dir / "devices.sqlite3")
    for mac in macs:
        await store.enrol(mac, "c", DeviceFacts())
    await store.aclose()


def test_mosquitto_passwords(tmp_path: Path) -> None:
    command = ("devices", "mosquitto-passwords", "--data-dir", "data")
    nothing = run(*command, cwd=tmp_path)
    assert nothing.returncode == 1
    assert "there is none" in nothing.stderr
    asyncio.run(_registry(tmp_path / "data", "02:00:00:00:00:0a", "02:00:00:00:00:0b"))
    printed = run(*command, cwd=tmp_path)
    assert [line.split("$")[:3] for line in printed.stdout.splitlines()] == [["02000000000a:", "7", "101"], ["02000000000b:", "7", "101"]]
    (tmp_path / "passwords").write_text("home:$7$101$c2FsdHNhbHQ=$x\n")
    written = run(*command, "--out", "passwords", cwd=tmp_path)
    assert (written.returncode, "2 devices, written" in written.stdout) == (0, True)
    assert [line.partition(":")[0] for line in (tmp_path / "passwords").read_text().splitlines()] == [
        "home",
        "02000000000a",
        "02000000000b",
    ]
    assert "up to date" in run(*command, "--out", "passwords", cwd=tmp_path).stdout
    failed = run(*command, "--out", "nowhere/passwords", cwd=tmp_path)
    assert (failed.returncode, "cannot be written" in failed.stderr) == (1, True)


def test_firmware_is_added_listed_and_refused(tmp_path: Path) -> None:
    good, merged = tmp_path / "xiaozhi.bin", tmp_path / "merged-binary.bin"
    good.write_bytes(image("2.5.0"))
    merged.write_bytes(image(description=False) + image("2.5.0"))
    empty = run("firmware", "list", cwd=tmp_path)
    assert (empty.returncode, "No firmware" in empty.stdout) == (0, True)
    refused = run("firmware", "add", "merged-binary.bin", "--board", "bread", cwd=tmp_path)
    assert refused.returncode == 1
    assert "merged" in refused.stderr
    assert run("firmware", "add", "missing.bin", "--board", "bread", cwd=tmp_path).returncode == 1
    assert run("firmware", "add", "xiaozhi.bin", "--board", "..", cwd=tmp_path).returncode == 1
    for _ in range(2):
        assert run("firmware", "add", "xiaozhi.bin", "--board", "Bread Compact", cwd=tmp_path).returncode == 0
    placed = tmp_path / "data" / "firmware" / "bread-compact" / "2.5.0.bin"
    assert placed.read_bytes() == image("2.5.0")
    assert list(placed.parent.iterdir()) == [placed]
    (placed.parent / "latest.bin").write_bytes(image("2.6.0"))
    listed = run("firmware", "list", cwd=tmp_path)
    assert "bread-compact  2.5.0  esp32s3  xiaozhi" in listed.stdout
    assert "not offered: bread-compact/latest.bin" in listed.stdout
    told = json.loads(run("firmware", "list", "--json", cwd=tmp_path).stdout)
    assert [one["version"] for one in told["files"]] == ["2.5.0"]
    assert list(told["not_offered"]) == ["bread-compact/latest.bin"]
