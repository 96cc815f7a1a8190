"""The simulated device judges offers and downloads as the firmware does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.device.errors import FirmwareCrashError
from bridge.device.upgrade import Offer, UpgradeError, download, is_newer, read_offer
from tests.ota.images import image


@pytest.mark.parametrize(
    ("offered", "running", "newer"),
    [
        ("2.4.3", "2.4.2", True),
        ("2.10", "2.9.9", True),
        ("1.2.0", "1.2", True),
        ("1.2", "1.2.0", False),
        ("2.4.2", "2.4.2", False),
        ("1.9.9", "2.0", False),
        ("", "2.4.2", False),
        ("2.5.0-beta", "2.5.0", False),
        ("2.5.0.", "2.5.0", False),
    ],
)
def test_comparison(offered: str, running: str, newer: bool) -> None:
    assert is_newer(offered, running) is newer


@pytest.mark.parametrize(
    ("offered", "running"), [("v2.5.0", "2.4.2"), ("2..5", "2.4.2"), ("2.5", "v2.4.2"), ("99999999999", "1"), (".", "1")]
)
def test_comparison_that_crashes(offered: str, running: str) -> None:
    with pytest.raises(FirmwareCrashError):
        read_offer({"firmware": {"version": offered, "url": "http://h/x"}}, running)


@pytest.mark.parametrize(
    ("firmware", "offer"),
    [
        (None, None),
        ({"version": "2.5.0"}, None),
        ({"url": "http://h/x"}, None),
        ({"version": 2, "url": "u"}, None),
        ({"version": "2.4.2", "url": ""}, None),
        ({"version": "2.5.0", "url": "u"}, Offer("2.5.0", "u", force=False)),
        ({"version": "2.3.0", "url": "u", "force": 1}, Offer("2.3.0", "u", force=True)),
        ({"version": "2.3.0", "url": "u", "force": True}, None),
        ({"version": "2.3.0", "url": "u", "force": "1"}, None),
    ],
)
def test_offers(firmware: Any, offer: Offer | None) -> None:
    assert read_offer({"firmware": firmware}, "2.4.2") == offer


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that has one answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x.bin"


def response(body: bytes, *, status: str = "200 OK", length: int | None = None) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


async def test_download() -> None:
    data = image("2.5.0", filling=200_000)
    async with answering(response(data)) as url:
        got = await download(url)
    assert (got.version, got.size_bytes) == ("2.5.0", len(data))


@pytest.mark.parametrize(
    "answer",
    [
        response(b"not here", status="404 Not Found"),
        response(b"", status="302 Found"),
        response(b""),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\xe9\0\0\0\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + image(),
        response(image(), length=10_000),
        response(b"PK\x03\x04" + bytes(1000)),
        b"",
    ],
)
async def test_downloads_that_fail(answer: bytes) -> None:
    async with answering(answer) as url:
        with pytest.raises(UpgradeError):
            await download(url)


async def test_a_bootloader_is_the_end() -> None:
    async with answering(response(image(description=False))) as url:
        with pytest.raises(FirmwareCrashError):
            await download(url)
