"""uvicorn inside our loop."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ota import device_request
from ota.device_request import read_object
from ota.server import LOGGED_COMPLAINTS_PER_MINUTE, HttpServer, ListenError


async def hello(request: Request) -> Response:
    await asyncio.sleep(float(request.query_params.get("wait", "0")))
    return PlainTextResponse("hello")


async def body(request: Request) -> Response:
    return PlainTextResponse(str(len(await read_object(request))))


APP = Starlette(routes=[Route("/", hello), Route("/body", body, methods=["POST"])])


async def test_serves_and_stops_without_touching_signals() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with asyncio.TaskGroup() as group, httpx.AsyncClient() as http:
        server = HttpServer(group)
        await server.aclose()  # nothing to stop yet
        port = await server.start(APP, "127.0.0.1", 0)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        assert (await http.get(f"http://127.0.0.1:{port}/")).text == "hello"
        await server.aclose()
        await server.aclose()
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://127.0.0.1:{port}/")


async def test_check_097_dual_stack_socket_serves_ipv4() -> None:
    async with asyncio.TaskGroup() as group, httpx.AsyncClient() as http:
        server = HttpServer(group)
        try:
            port = await server.start(APP, "::", 0)
        except OSError:
            pytest.skip("no IPv6 here")
        assert (await http.get(f"http://127.0.0.1:{port}/")).text == "hello"
        assert (await http.get(f"http://[::1]:{port}/")).text == "hello"
        await server.aclose()


async def test_strangers_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.TaskGroup() as group:
        server = HttpServer(group)
        port = await server.start(APP, "127.0.0.1", 0)
        for _ in range(LOGGED_COMPLAINTS_PER_MINUTE + 20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x16\x03\x01\x00\xf4\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
        await server.aclose()
    complaints = [record for record in caplog.records if record.name == "uvicorn.error"]
    assert len(complaints) <= 2 * LOGGED_COMPLAINTS_PER_MINUTE  # a minute may have begun meanwhile
    assert len(complaints) < LOGGED_COMPLAINTS_PER_MINUTE + 20


async def test_answer_under_way_is_finished() -> None:
    async with asyncio.TaskGroup() as group, httpx.AsyncClient() as http:
        server = HttpServer(group)
        port = await server.start(APP, "127.0.0.1", 0)
        asking = group.create_task(http.get(f"http://127.0.0.1:{port}/?wait=0.3"))
        await asyncio.sleep(0.1)
        await server.aclose()
        assert (await asking).text == "hello"


async def test_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with asyncio.TaskGroup() as group:
            with pytest.raises(ListenError, match="is taken by another program") as caught:
                await HttpServer(group).start(APP, "127.0.0.1", taken.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE  # by which the caller knows that the next port is worth a try


async def test_address_of_another_machine() -> None:
    async with asyncio.TaskGroup() as group:
        with pytest.raises(ListenError, match="no address of this machine"):
            await HttpServer(group).start(APP, "192.0.2.1", 0)


async def test_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_request, "BODY_TIMEOUT_S", 0.2)
    async with asyncio.TaskGroup() as group:
        server = HttpServer(group)
        port = await server.start(APP, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()
        await server.aclose()
