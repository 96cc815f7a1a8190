"""What devices send over HTTP, read with suspicion: headers, bodies, bounded.

The body is string-concatenated by the firmware and may be no JSON at all; identity comes from the headers alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from mqtt_control.identity import NO_CLIENT_ID, DeviceIdentity, IdentityError, parse_mac
from ota.devices import DeviceFacts, facts_of
from ota.firmware import DeviceBuild
from ota.token_bucket import source_of

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10
MAX_FACT_CHARS = 64
MAX_PARTITIONS = 64
_APPLICATION = 0
_OTA_SLOTS = range(0x10, 0x20)
"""Subtypes of partitions that take a downloaded application."""


def read_identity(request: Request) -> DeviceIdentity:
    """Who says it asks: ``Device-Id`` and ``Client-Id``. HTTP 400 when either is malformed, or the former missing.

    Without the latter it is firmware before 1.1, which has none.
    """
    try:
        device_id = parse_mac(request.headers.get("device-id", ""))
    except IdentityError as error:
        raise HTTPException(400, f"header Device-Id: {error}") from error
    try:
        return DeviceIdentity(device_id, request.headers.get("client-id", NO_CLIENT_ID))
    except IdentityError as error:
        raise HTTPException(400, f"header Client-Id: {error}") from error


def read_source(request: Request) -> str:
    """Where the request comes from, as rate limits count it."""
    return source_of(request.client.host) if request.client else "unknown"


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; empty when it is none. HTTP 413 when it is too large, 408 when it does not come."""
    try:
        body = msgspec.json.decode(await _read_body(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes", headers={"Connection": "close"})
    except TimeoutError as error:
        raise HTTPException(408, "the body did not come", headers={"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection was closed") from error
    return bytes(body)


def read_facts(request: Request, body: dict[str, Any]) -> DeviceFacts:
    """Board and firmware version: from the body, else from ``User-Agent: <board>/<version>``."""
    board = text_of(_member(body, "board", "name")) or text_of(_member(body, "board", "type"))
    board = board or text_of(request.headers.get("user-agent", "").partition("/")[0])
    return facts_of(board, text_of(read_version(request, body)))


def read_version(request: Request, body: dict[str, Any]) -> str:
    """The firmware version exactly as the device compares it; anything at all."""
    version = _member(body, "application", "version")
    return version if isinstance(version, str) else request.headers.get("user-agent", "").partition("/")[2]


def read_build(request: Request, body: dict[str, Any]) -> DeviceBuild:
    """What decides which firmware the device can run; empty where it does not tell."""
    agent = request.headers.get("user-agent", "").partition("/")[0]
    names = (_member(body, "board", "name"), agent, _member(body, "board", "type"))
    table = body.get("partition_table")
    partitions = [one for one in table[:MAX_PARTITIONS] if isinstance(one, dict)] if isinstance(table, list) else []
    slots = [one.get("size") for one in partitions if one.get("type") == _APPLICATION and one.get("subtype") in _OTA_SLOTS]
    return DeviceBuild(
        boards=tuple(dict.fromkeys(text for name in names if (text := text_of(name)))),
        version=read_version(request, body),
        chip=text_of(body.get("chip_model_name")).lower(),
        app_slot_bytes=max((size for size in slots if isinstance(size, int)), default=0),
        partitions=frozenset(label for one in partitions if (label := text_of(one.get("label")))),
    )


def _member(body: dict[str, Any], outer: str, inner: str) -> object:
    section = body.get(outer)
    return section.get(inner) if isinstance(section, dict) else None


def text_of(value: object, *, limit: int = MAX_FACT_CHARS) -> str:
    """A peer's text, printable and short; empty for anything else."""
    if not isinstance(value, str):
        return ""
    return "".join(character for character in value[:limit] if character.isprintable()).strip()
