"""How commands find the running server."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from bridge.admin import FILE_NAME, AdminAccess, admin_token, local_url, read_access, write_access
from settings.model import Admin, SettingsTree


def test_what_the_server_left_is_found(tmp_path: Path) -> None:
    access = AdminAccess("http://127.0.0.1:8003", "sesame")
    write_access(tmp_path, access)
    assert read_access(tmp_path) == access
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert "sesame" not in repr(access)


def test_a_broken_file_is_no_file(tmp_path: Path) -> None:
    assert read_access(tmp_path) is None
    (tmp_path / FILE_NAME).write_text("{", encoding="utf-8")
    assert read_access(tmp_path) is None
    (tmp_path / FILE_NAME).write_text("[]", encoding="utf-8")
    assert read_access(tmp_path) is None


def test_the_token_is_the_configured_one_else_that_of_the_last_run_else_new(tmp_path: Path) -> None:
    first = admin_token(SettingsTree(data_dir=tmp_path))
    assert len(first) >= 24
    assert admin_token(SettingsTree(data_dir=tmp_path)) != first
    write_access(tmp_path, AdminAccess("http://127.0.0.1:1", first))
    assert admin_token(SettingsTree(data_dir=tmp_path)) == first
    assert admin_token(SettingsTree(data_dir=tmp_path, admin=Admin(token=SecretStr("mine")))) == "mine"


def test_a_wildcard_address_is_reached_over_loopback() -> None:
    assert local_url("0.0.0.0", 8003) == "http://127.0.0.1:8003"  # noqa: S104
    assert local_url("::1", 8003) == "http://[::1]:8003"
    assert local_url("192.0.2.7", 1) == "http://192.0.2.7:1"
