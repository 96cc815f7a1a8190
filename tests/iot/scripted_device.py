"""A device that is an MCP server, as the firmware behaves (device protocol §9): answers in order, from its own main loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from iot.device_mcp import DeviceMcp


def tool(name: str, *, users_only: bool = False, **properties: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "description": f"does {name}",
        "inputSchema": {"type": "object", "properties": properties, "required": list(properties)},
    }
    if users_only:
        entry["annotations"] = {"audience": ["user"]}
    return entry


STATUS_TEXT = '{"audio_speaker":{"volume":70},"screen":{"brightness":80,"theme":"light"},"battery":{"level":55,"charging":false}}'
COMMON_TOOLS = [
    tool("self.get_device_status"),
    tool("self.audio_speaker.set_volume", volume={"type": "integer", "minimum": 0, "maximum": 100}),
    tool("self.screen.set_brightness", brightness={"type": "integer", "minimum": 0, "maximum": 100}),
    tool("self.screen.set_theme", theme={"type": "string"}),
    tool("self.camera.take_photo", question={"type": "string"}),
]


class ScriptedDevice:
    """Answers what it is asked; ``answers`` overrides the result text of a tool, ``mute`` methods are never answered."""

    def __init__(self, tools: list[dict[str, Any]] | None = None, *, page_tools: int = 3) -> None:
        self.tools = COMMON_TOOLS if tools is None else tools
        self.page_tools = page_tools
        self.online = True
        self.mute: set[str] = set()
        self.answers: dict[str, Any] = {"self.get_device_status": STATUS_TEXT}
        self.received: list[dict[str, Any]] = []
        self.page: Callable[[dict[str, Any]], Any] = self.paged
        self.mcp = DeviceMcp(self.send, call_timeout_s=0.2)

    def send(self, payload: dict[str, Any]) -> bool:
        if not self.online:
            return False
        self.received.append(payload)
        if payload["method"].startswith("notifications") or payload["method"] in self.mute:
            return True
        asyncio.get_running_loop().call_soon(self.mcp.feed, self.answer(payload))
        return True

    def answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        assert type(payload["id"]) is int
        assert isinstance(payload["params"], dict)
        body: dict[str, Any]
        match payload["method"]:
            case "initialize":
                body = {
                    "result": {
                        "protocolVersion": "2024-11-05",
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "board", "version": "2.4.2"},
                    }
                }
            case "tools/list":
                body = {"result": self.page(payload["params"])}
            case "tools/call":
                body = self.run(payload["params"])
            case _:
                body = {"error": {"message": f"Method not implemented: {payload['method']}"}}
        return {"jsonrpc": "2.0", "id": payload["id"], **body}

    def paged(self, params: dict[str, Any]) -> dict[str, Any]:
        visible = [entry for entry in self.tools if params["withUserTools"] or "annotations" not in entry]
        names = [entry["name"] for entry in visible]
        start = names.index(params["cursor"]) if params["cursor"] else 0
        page: dict[str, Any] = {"tools": visible[start : start + self.page_tools]}
        if start + self.page_tools < len(visible):
            page["nextCursor"] = names[start + self.page_tools]
        return page

    def run(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] not in [entry["name"] for entry in self.tools]:
            return {"error": {"message": f"Unknown tool: {params['name']}"}}
        answer = self.answers.get(params["name"], "true")
        if isinstance(answer, str):
            return {"result": {"content": [{"type": "text", "text": answer}], "isError": False}}
        return answer  # type: ignore[no-any-return]

    def methods(self) -> list[str]:
        return [payload["method"] for payload in self.received]

    def calls(self) -> list[dict[str, Any]]:
        return [payload["params"] for payload in self.received if payload["method"] == "tools/call"]
