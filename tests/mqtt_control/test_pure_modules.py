"""The modules of this package that must stay free of I/O and clocks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mqtt_control.codec

PACKAGE = Path(mqtt_control.codec.__file__).parent
IMPURE = {"asyncio", "socket", "ssl", "time", "threading", "structlog", "uvloop", "aiomqtt", "paho"}


@pytest.mark.parametrize("name", ["codec", "connection", "credentials", "identity", "log_budget", "messages", "outbox", "topics"])
def test_pure_modules_import_no_io(name: str) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert not imported & IMPURE
