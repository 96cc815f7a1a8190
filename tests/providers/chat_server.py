"""A real HTTP server that speaks chat completions as it is told: each request is answered by the next script."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Script = Callable[[dict[str, Any]], Awaitable[Response]]


@dataclass(slots=True)
class ChatServer:
    """``requests`` are the JSON bodies received, ``keys`` the bearer tokens; the last script serves for all that follow."""

    scripts: list[Script] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    base_url: str = ""

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers["authorization"])
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        return await script(body)


def says(*pieces: str | dict[str, Any] | float | None, done: bool = True) -> Script:
    """Pieces of text, whole chunks, pauses in seconds; None breaks the connection off."""

    async def script(_: dict[str, Any]) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            for piece in pieces:
                if piece is None:
                    raise ConnectionAbortedError
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                    continue
                chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]} if isinstance(piece, str) else piece
                whole = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **chunk}
                yield b"data: " + json.dumps(whole).encode() + b"\n\n"
            if done:
                yield b"data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    return script


def raw(text: str, media_type: str = "text/event-stream") -> Script:
    async def script(_: dict[str, Any]) -> Response:
        return Response(text, media_type=media_type)

    return script


def refuses(status: int, message: str) -> Script:
    async def script(_: dict[str, Any]) -> Response:
        return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": None}}, status_code=status)

    return script


@asynccontextmanager
async def serving(server: ChatServer) -> AsyncIterator[None]:
    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    app = Starlette(routes=[Route("/v1/chat/completions", server.answer, methods=["POST"]), Route("/v1/models", models)])
    listener = socket.create_server(("127.0.0.1", 0))
    server.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    http = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    async with asyncio.TaskGroup() as group:
        group.create_task(http._serve([listener]))
        try:
            while not http.started:
                await asyncio.sleep(0.01)
            yield
        finally:
            http.should_exit = True
