"""The examination from its first to its last line, for the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

import httpx
import typer

from bridge.admin import local_url, read_access
from bridge.doctor.findings import Finding, exit_code, left_out, summary
from bridge.doctor.machine import advertised_host, check_machine, check_ports
from bridge.doctor.wire import WireExamination
from bridge.errors import OperatorError
from bridge.fleet import Fleet
from bridge.release import release
from settings.load import Loaded
from settings.model import SettingsTree

_OTA_PATH = "/xiaozhi/ota/"
_HERE_TIMEOUT_S = 3.0


def run(loaded: Loaded, *, from_device: str | None, as_json: bool) -> int:
    """Examine and print; the exit code is 1 when something failed. Raises OperatorError for an address that is none."""
    return asyncio.run(_report(loaded.tree, ota_url=ota_url_of(from_device) if from_device is not None else None, as_json=as_json))


def ota_url_of(address: str) -> str:
    """The OTA address for what a person types: the address itself, or ``host``, ``host:port``, ``http://host:port``."""
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise OperatorError(f"{address!r} is no address of a server", advice="Such as --from-device http://192.168.1.10:8003/xiaozhi/ota/")
    if parts.path.strip("/"):
        return url
    default = 443 if parts.scheme == "https" else 8003
    return f"{parts.scheme}://{parts.hostname}:{port or default}{_OTA_PATH}"


async def _report(tree: SettingsTree, *, ota_url: str | None, as_json: bool) -> int:
    found: list[Finding] = []
    findings = examine_from_device(ota_url) if ota_url is not None else examine_here(tree)
    async with aclosing(findings):
        async for finding in findings:
            found.append(finding)
            if not as_json:
                typer.echo(finding.as_text())
    code = exit_code(found)
    if as_json:
        typer.echo(json.dumps({"ok": code == 0, "findings": [finding.as_dict() for finding in found]}, indent=2, ensure_ascii=False))
    else:
        typer.echo(summary(found))
    return code


async def examine_from_device(ota_url: str) -> AsyncGenerator[Finding, None]:
    """What a device sees of the server at this OTA address. Consume under ``aclosing``."""
    walk = WireExamination(ota_url, own_version=release()).findings()
    async with aclosing(walk):
        async for finding in walk:
            yield finding


async def examine_here(tree: SettingsTree) -> AsyncGenerator[Finding, None]:
    """This machine, then its server if one runs. Consume under ``aclosing``."""
    for finding in await asyncio.to_thread(check_machine, tree):
        yield finding
    left = read_access(tree.data_dir)
    base = left.url if left is not None else local_url(tree.http.host, tree.http.port)
    if not await _answers(base):
        for finding in await asyncio.to_thread(check_ports, tree):
            yield finding
        yield left_out(
            "server",
            f"none answers at {base}: OTA, MQTT, hello, audio, clock, credentials and version are not checked",
            "Start it and run the doctor again, with the same --data-dir.",
        )
        return
    url = f"http://{advertised_host(tree)}:{urlsplit(base).port}{_OTA_PATH}"
    walk = WireExamination(url, own_version=release(), approve=Fleet(tree).approve if left is not None else None).findings()
    async with aclosing(walk):
        async for finding in walk:
            yield finding


async def _answers(base_url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=_HERE_TIMEOUT_S, trust_env=False) as http:
            answer = await http.get(f"{base_url}/healthz")
    except httpx.HTTPError:
        return False
    return answer.is_success
