"""The tools of a device that is an MCP server (device protocol §9).

The device answers from its main task, in call order, and not before it has seen the server's hello. What it sends may be late,
too long or no valid JSON at all, so every request has a time-out and nothing here raises on garbage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec
import structlog

from iot.bounds import bounded_text
from iot.jsonrpc import Answer, Failure, RpcClient, RpcStats, TableFullError
from providers.tools import ToolResult

log = structlog.get_logger(__name__)

PROTOCOL_VERSION: Final = "2024-11-05"
MAX_TOOLS: Final = 128
MAX_PAGES: Final = MAX_TOOLS
"""A page may hold a single tool: the firmware's limit is 8000 bytes, and others page as they like."""
CAMERA_TIMEOUT_S: Final = 40.0
ATTEMPTS: Final = 2
NAME_LIMIT: Final = 128
DESCRIPTION_LIMIT: Final = 1500
SCHEMA_BYTES: Final = 8000
RESULT_LIMIT: Final = 6000

# for all devices of which nothing is known yet: thousands may be idle
_NOTHING_KNOWN: Final[Mapping[str, str]] = MappingProxyType({})
_NO_TOOLS: Final[Mapping[str, DeviceTool]] = MappingProxyType({})
_NO_PARAMETERS: Final[dict[str, Any]] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class DeviceTool:
    """A tool as the device describes it; ``parameters`` is a JSON schema object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(slots=True)
class DeviceMcpStats:
    """Counters of one device's tools."""

    calls: int = 0
    errors: int = 0
    timeouts: int = 0
    skipped_tools: int = 0


class DeviceMcp:
    """MCP client of one device. ``send`` takes a JSON-RPC payload and says whether the device is reachable.

    Everything runs on the event loop's thread. Calls may overlap.
    """

    __slots__ = (
        "_call_timeout_s",
        "_closed",
        "_rpc",
        "_send",
        "_tools",
        "_user_tools",
        "_waiting",
        "initialized",
        "server_info",
        "stats",
    )

    def __init__(self, send: Callable[[dict[str, Any]], bool], *, call_timeout_s: float = 10.0) -> None:
        self.stats = DeviceMcpStats()
        self.server_info: Mapping[str, str] = _NOTHING_KNOWN
        self.initialized = False
        self._send = send
        self._call_timeout_s = call_timeout_s
        self._rpc = RpcClient()
        self._waiting: dict[int, asyncio.Future[Answer | Failure]] = {}
        self._tools: Mapping[str, DeviceTool] = _NO_TOOLS
        self._user_tools: Mapping[str, DeviceTool] = _NO_TOOLS
        self._closed = False

    @property
    def tools(self) -> tuple[DeviceTool, ...]:
        """What a language model may use, in the device's order."""
        return tuple(self._tools.values())

    @property
    def user_tools(self) -> tuple[DeviceTool, ...]:
        """What only a person may use (``annotations.audience == ["user"]``); empty unless they were asked for."""
        return tuple(self._user_tools.values())

    @property
    def rpc_stats(self) -> RpcStats:
        return self._rpc.stats

    @property
    def pending(self) -> int:
        """Requests that wait for the device."""
        return self._rpc.pending

    def has(self, name: str) -> bool:
        """True when the device offers this tool to models."""
        return name in self._tools

    # -- control loop --------------------------------------------------------------------------------------------------
    def feed(self, payload: Any) -> None:
        """Takes the ``payload`` of an ``mcp`` message. Never raises; answers nobody waits for are counted and dropped."""
        outcome = self._rpc.feed(payload)
        if outcome is None:
            return
        future = self._waiting.pop(outcome.id, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def disconnected(self) -> None:
        """The link is gone: every pending request fails at once. The object may be used again after a reconnect."""
        waiting, self._waiting = self._waiting, {}
        for number, future in waiting.items():
            self._rpc.abandon(number)
            if not future.done():
                future.set_result(Failure(number, "the device is not connected"))

    def close(self) -> None:
        """The session is over: pending requests fail, later ones fail at once. Idempotent."""
        self._closed = True
        self.disconnected()

    # -- handshake -----------------------------------------------------------------------------------------------------
    async def initialize(self, *, vision: tuple[str, str] | None = None, user_tools: bool = False) -> None:
        """initialize, notifications/initialized, then tools/list to its end.

        ``vision`` is (url, token) for the camera. ``user_tools`` also asks for the tools of the administrator. Time-outs are retried
        once; a device that never answers just has no tools, and what was known before stays. Never raises. Cancellation leaves the
        tools that were known before.
        """
        capabilities: dict[str, Any] = {}
        if vision is not None:
            capabilities["vision"] = {"url": vision[0], "token": vision[1]}
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": capabilities,
            "clientInfo": {"name": "xiaozhi-bridge", "version": "1"},
        }
        outcome = await self._persist("initialize", params)
        if isinstance(outcome, Answer):
            self.initialized = True
            self.server_info = _server_info(outcome.result)
            self._send(self._rpc.notification("notifications/initialized"))
        elif self._closed:
            return
        else:
            log.info("device did not initialize its tools", reason=outcome.message)
        await self._list_tools(user_tools=user_tools)

    async def _list_tools(self, *, user_tools: bool) -> None:
        found: dict[str, DeviceTool] = {}
        for_users: dict[str, DeviceTool] = {}
        cursor = ""
        seen_cursors = {""}
        for page in range(MAX_PAGES):
            outcome = await self._persist("tools/list", {"cursor": cursor, "withUserTools": user_tools})
            if isinstance(outcome, Failure):
                log.info("device did not list its tools", page=page, reason=outcome.message)
                if not found and not for_users:
                    return
                break
            known = len(found) + len(for_users)
            self._read_page(outcome.result, found, for_users)
            next_cursor = outcome.result.get("nextCursor") if isinstance(outcome.result, dict) else None
            if not isinstance(next_cursor, str) or not next_cursor:
                break
            if next_cursor in seen_cursors or len(found) + len(for_users) == known:
                log.info("tool list makes no progress", page=page, tools=known)
                break
            if len(found) + len(for_users) >= MAX_TOOLS:
                log.info("device has more tools than are taken", limit=MAX_TOOLS)
                break
            seen_cursors.add(next_cursor)
            cursor = next_cursor
        self._tools = found
        self._user_tools = for_users

    def _read_page(self, result: Any, found: dict[str, DeviceTool], for_users: dict[str, DeviceTool]) -> None:
        entries = result.get("tools") if isinstance(result, dict) else None
        if not isinstance(entries, list):
            return
        for entry in entries[:MAX_TOOLS]:
            if len(found) + len(for_users) >= MAX_TOOLS:
                self.stats.skipped_tools += 1
                continue
            tool = _read_tool(entry)
            if tool is None:
                self.stats.skipped_tools += 1
            elif _is_for_users(entry):
                for_users[tool.name] = tool
            else:
                found[tool.name] = tool

    # -- calls ---------------------------------------------------------------------------------------------------------
    async def call(self, name: str, arguments: dict[str, Any], *, timeout_s: float | None = None) -> ToolResult:
        """Runs a tool of the device; ``arguments`` already have the types its schema names.

        Never raises: an unreachable device, an error, a time-out (10 s, cameras 40 s) become a result with ``is_error``. Cancellation
        forgets the call: the device still does it, its answer is dropped.
        """
        self.stats.calls += 1
        if timeout_s is None:
            timeout_s = max(CAMERA_TIMEOUT_S, self._call_timeout_s) if ".camera." in name else self._call_timeout_s
        try:
            outcome = await self._exchange("tools/call", {"name": name, "arguments": dict(arguments)}, timeout_s=timeout_s)
        except TimeoutError:
            self.stats.timeouts += 1
            return self._error(f"The device did not answer within {timeout_s:g} seconds.")
        if isinstance(outcome, Failure):
            return self._error(f"The device refused: {outcome.message}")
        text, is_error = read_result(outcome.result)
        if is_error:
            return self._error(text or "The device reported an error.")
        return ToolResult(text)

    def _error(self, text: str) -> ToolResult:
        self.stats.errors += 1
        return ToolResult(text, is_error=True)

    async def _persist(self, method: str, params: dict[str, Any]) -> Answer | Failure:
        """An exchange that is tried again after a time-out."""
        for _ in range(ATTEMPTS):
            try:
                return await self._exchange(method, params, timeout_s=self._call_timeout_s)
            except TimeoutError:
                self.stats.timeouts += 1
        return Failure(0, "no answer in time")

    async def _exchange(self, method: str, params: dict[str, Any], *, timeout_s: float) -> Answer | Failure:
        """One request and its answer. Raises TimeoutError. However it ends, the table holds nothing of it."""
        if self._closed:
            return Failure(0, "the device is not connected")
        try:
            number, payload = self._rpc.request(method, params)
        except TableFullError:
            return Failure(0, "too many calls wait for the device")
        future: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            if not self._send(payload):
                return Failure(number, "the device is not connected")
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._waiting.pop(number, None)
            self._rpc.abandon(number)


# -- reading what the device sent --------------------------------------------------------------------------------------
def read_result(result: Any) -> tuple[str, bool]:
    """The text of a ``tools/call`` result, bounded, and whether it is an error. A picture is told by kind and size only."""
    if not isinstance(result, dict):
        return bounded_text(result, limit=RESULT_LIMIT), False
    content = result.get("content")
    parts: list[str] = []
    for item in content[:32] if isinstance(content, list) else []:
        if not isinstance(item, dict):
            continue
        if item.get("type") == "image":
            parts.append(_describe_image(item))
        else:
            parts.append(bounded_text(item.get("text"), limit=RESULT_LIMIT))
    return bounded_text("\n".join(part for part in parts if part), limit=RESULT_LIMIT), result.get("isError") is True


def _describe_image(item: dict[str, Any]) -> str:
    """The firmware puts the whole image object as a JSON string under ``image``; plain MCP has ``data`` and ``mimeType``."""
    image: Any = item
    packed = item.get("image")
    if isinstance(packed, str):
        try:
            image = msgspec.json.decode(packed)
        except (msgspec.DecodeError, RecursionError):
            image = {}
    if not isinstance(image, dict):
        image = {}
    data = image.get("data")
    kind = bounded_text(image.get("mimeType"), limit=40) or "unknown type"
    size_bytes = len(data) * 3 // 4 if isinstance(data, str) else 0
    return f"The device sent a picture ({kind}, {size_bytes} bytes)."


def _read_tool(entry: Any) -> DeviceTool | None:
    """None for what cannot be called or is too large to be told to a model."""
    if not isinstance(entry, dict):
        return None
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
        return None
    schema = entry.get("inputSchema")
    if not isinstance(schema, dict):
        schema = _NO_PARAMETERS
    try:
        if len(msgspec.json.encode(schema)) > SCHEMA_BYTES:
            return None
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError):
        return None
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), dict):
        properties = schema.get("properties")
        schema = {**schema, "type": "object", "properties": properties if isinstance(properties, dict) else {}}
    return DeviceTool(name, bounded_text(entry.get("description"), limit=DESCRIPTION_LIMIT), schema)


def _is_for_users(entry: dict[str, Any]) -> bool:
    annotations = entry.get("annotations")
    audience = annotations.get("audience") if isinstance(annotations, dict) else None
    return isinstance(audience, list) and bool(audience) and "assistant" not in audience


def _server_info(result: Any) -> dict[str, str]:
    info = result.get("serverInfo") if isinstance(result, dict) else None
    if not isinstance(info, dict):
        return {}
    return {key: bounded_text(info.get(key), limit=100) for key in ("name", "version") if isinstance(info.get(key), str)}
