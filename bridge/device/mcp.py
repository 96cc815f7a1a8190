"""The tools inside a device: an MCP server with the firmware's own rules and sentences (pure).

Answers are *texts*, not objects: firmware joins strings, so an error message with a quote in it is invalid JSON, here as there.
A request that breaks a rule (string id, ``params: null``, wrong ``jsonrpc``) gets no answer at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from bridge.device.hello import is_number

Argument: TypeAlias = bool | int | str
Arguments: TypeAlias = Mapping[str, Argument]
Result: TypeAlias = bool | int | str | dict[str, Any]

MAX_PAGE_BYTES: Final = 8000
_PAGE_TAIL_BYTES: Final = 30
_INT32: Final = range(-(2**31), 2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One argument of a tool."""

    name: str
    type: Literal["boolean", "integer", "string"]
    minimum: int | None = None
    maximum: int | None = None
    default: Argument | None = None

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": self.type}
        if self.default is not None:
            schema["default"] = self.default
        if self.minimum is not None:
            schema["minimum"] = self.minimum
        if self.maximum is not None:
            schema["maximum"] = self.maximum
        return schema

    def read(self, arguments: Mapping[str, object]) -> Argument:
        """The value, of the right type and in range; a wrong type counts as missing. Raises :class:`ToolError`."""
        value = arguments.get(self.name)
        if self.type == "integer" and is_number(value):
            number = int(value)
            if self.minimum is not None and number < self.minimum:
                raise ToolError(f"Value is below minimum allowed: {self.minimum}")
            if self.maximum is not None and number > self.maximum:
                raise ToolError(f"Value exceeds maximum allowed: {self.maximum}")
            return number
        if self.type == "boolean" and isinstance(value, bool):
            return value
        if self.type == "string" and isinstance(value, str):
            return value
        if self.default is None:
            raise ToolError(f"Missing valid argument: {self.name}")
        return self.default


class ToolError(Exception):
    """A call failed; the text becomes the error message as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool of the device. ``call`` runs in the device's main task and may raise :class:`ToolError`."""

    name: str
    description: str
    properties: tuple[Property, ...] = ()
    user_only: bool = False
    call: Callable[[Arguments], Result]

    def to_json(self) -> str:
        entry: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "inputSchema": {"type": "object", "properties": {item.name: item.schema() for item in self.properties}},
        }
        required = [item.name for item in self.properties if item.default is None]
        if required:
            entry["inputSchema"]["required"] = required
        if self.user_only:
            entry["annotations"] = {"audience": ["user"]}
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class Appliance:
    """What the stock tools look at and change."""

    volume: int = 70
    brightness: int = 75
    theme: str = "light"
    reboots: int = 0
    vision_url: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """The system information that OTA sends, too."""

    def status(self) -> dict[str, Any]:
        return {
            "audio_speaker": {"volume": self.volume},
            "screen": {"brightness": self.brightness, "theme": self.theme},
            "battery": {"level": 80, "charging": False},
            "network": {"type": "wifi", "ssid": "simulated", "signal": "strong"},
        }


class McpServer:
    """Answers JSON-RPC requests in the order they are given."""

    def __init__(self, *, name: str, version: str, appliance: Appliance, extra_tools: tuple[Tool, ...] = ()) -> None:
        self._name = name
        self._version = version
        self._appliance = appliance
        self._tools = {tool.name: tool for tool in (*_stock_tools(appliance), *extra_tools)}
        self.ignored = 0
        self.calls: dict[str, int] = {}

    def answer(self, request: object) -> str | None:
        """The JSON text of the answer, or None where firmware stays silent."""
        if not isinstance(request, dict) or request.get("jsonrpc") != "2.0" or not isinstance(request.get("method"), str):
            self.ignored += 1
            return None
        method = request["method"]
        if method.startswith("notifications"):
            return None
        params = request.get("params", {})
        number = request.get("id")
        if not isinstance(params, dict) or not is_number(number) or int(number) not in _INT32:
            self.ignored += 1
            return None
        number = int(number)
        try:
            return _result(number, self._dispatch(method, params, has_params="params" in request))
        except ToolError as fault:
            return _error(number, str(fault))

    def _dispatch(self, method: str, params: dict[str, Any], *, has_params: bool) -> str:
        match method:
            case "initialize":
                return self._initialize(params)
            case "tools/list":
                cursor, with_user_tools = params.get("cursor"), params.get("withUserTools")
                return self._list(cursor if isinstance(cursor, str) else "", with_user_tools=with_user_tools is True)
            case "tools/call":
                if not has_params:
                    raise ToolError("Missing params")
                return self._call(params)
        raise ToolError(f"Method not implemented: {method}")

    def _initialize(self, params: dict[str, Any]) -> str:
        capabilities = params.get("capabilities")
        vision = capabilities.get("vision") if isinstance(capabilities, dict) else None
        if isinstance(vision, dict) and isinstance(vision.get("url"), str):
            self._appliance.vision_url = vision["url"]
        return json.dumps(
            {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": self._name, "version": self._version},
            },
            separators=(",", ":"),
        )

    def _list(self, cursor: str, *, with_user_tools: bool) -> str:
        """One page: as many tools from ``cursor`` on as fit; an unknown cursor finds none."""
        page, size, started = [], len('{"tools":['), not cursor
        next_cursor = ""
        for tool in self._tools.values():
            started = started or tool.name == cursor
            if not started or (tool.user_only and not with_user_tools):
                continue
            entry = tool.to_json()
            size += len(entry.encode()) + 1
            if size + _PAGE_TAIL_BYTES > MAX_PAGE_BYTES:
                next_cursor = tool.name
                break
            page.append(entry)
        if not page and self._tools:
            raise ToolError(f"Failed to add tool {next_cursor} because of payload size limit")
        tail = f',"nextCursor":"{next_cursor}"' if next_cursor else ""
        return f'{{"tools":[{",".join(page)}]{tail}}}'

    def _call(self, params: dict[str, Any]) -> str:
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str):
            raise ToolError("Missing name")
        if not isinstance(arguments, dict):
            raise ToolError("Invalid arguments")
        tool = self._tools.get(name)
        if tool is None:
            raise ToolError(f"Unknown tool: {name}")
        result = tool.call({item.name: item.read(arguments) for item in tool.properties})
        self.calls[name] = self.calls.get(name, 0) + 1
        match result:
            case bool():
                text = "true" if result else "false"
            case dict():
                text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
            case _:
                text = str(result)
        return json.dumps({"content": [{"type": "text", "text": text}], "isError": False}, ensure_ascii=False, separators=(",", ":"))


def _result(number: int, result: str) -> str:
    return f'{{"jsonrpc":"2.0","id":{number},"result":{result}}}'


def _error(number: int, message: str) -> str:
    return f'{{"jsonrpc":"2.0","id":{number},"error":{{"message":"{message}"}}}}'


def _stock_tools(appliance: Appliance) -> tuple[Tool, ...]:
    def set_volume(arguments: Arguments) -> Result:
        appliance.volume = int(arguments["volume"])
        return True

    def set_brightness(arguments: Arguments) -> Result:
        appliance.brightness = int(arguments["brightness"])
        return True

    def set_theme(arguments: Arguments) -> Result:
        appliance.theme = str(arguments["theme"])
        return True

    def reboot(_: Arguments) -> Result:
        appliance.reboots += 1
        return True

    return (
        Tool(
            name="self.get_device_status",
            description="Real-time state of the device: speaker, screen, battery, network. Ask here first before changing a value.",
            call=lambda _: appliance.status(),
        ),
        Tool(
            name="self.audio_speaker.set_volume",
            description="Set the volume of the audio speaker.",
            properties=(Property(name="volume", type="integer", minimum=0, maximum=100),),
            call=set_volume,
        ),
        Tool(
            name="self.screen.set_brightness",
            description="Set the brightness of the screen.",
            properties=(Property(name="brightness", type="integer", minimum=0, maximum=100),),
            call=set_brightness,
        ),
        Tool(
            name="self.screen.set_theme",
            description="Set the theme of the screen: `light` or `dark`.",
            properties=(Property(name="theme", type="string"),),
            call=set_theme,
        ),
        Tool(name="self.get_system_info", description="Facts about the hardware.", user_only=True, call=lambda _: appliance.facts),
        Tool(name="self.reboot", description="Restart the device.", user_only=True, call=reboot),
    )
