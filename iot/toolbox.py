"""All tools of one session in one place: the device's own (MCP or legacy things) and local ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog

from iot.arguments import ArgumentError, fit_arguments
from iot.bounds import bounded_text
from iot.descriptors import MethodTool, StateTool, Things
from iot.device_mcp import DeviceMcp, DeviceTool
from iot.names import NameTable
from providers.base import ToolSpec
from providers.tools import ToolResult

log = structlog.get_logger(__name__)

SET_VOLUME: Final = "self.audio_speaker.set_volume"
SET_BRIGHTNESS: Final = "self.screen.set_brightness"
SET_THEME: Final = "self.screen.set_theme"
GET_STATUS: Final = "self.get_device_status"
TAKE_PHOTO: Final = "self.camera.take_photo"

# Things of 1.x boards that do the same, in the order they are tried: (thing, method, readable property).
_LEGACY_VOLUME: Final = (("Speaker", "SetVolume", "volume"),)
_LEGACY_BRIGHTNESS: Final = (("Screen", "SetBrightness", "brightness"), ("Backlight", "SetBrightness", "brightness"))
_LEGACY_THEME: Final = (("Screen", "SetTheme", "theme"),)
_COVERED: Final = frozenset({SET_VOLUME, SET_BRIGHTNESS, SET_THEME, GET_STATUS, TAKE_PHOTO}) | {
    f"{thing}.{method}" for thing, method, _ in (*_LEGACY_VOLUME, *_LEGACY_BRIGHTNESS, *_LEGACY_THEME)
}
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class LocalTool(Protocol):
    """A tool that runs in this process (built-in or from a plug-in)."""

    @property
    def spec(self) -> ToolSpec: ...

    async def call(self, arguments: dict[str, Any]) -> ToolResult: ...


class ToolBox:
    """The tools of one session.

    The device's tools are read anew at each use, so those that are announced late are there too; a tool's model name never changes
    during the session. Local tools win a clash of names.
    """

    def __init__(
        self,
        *,
        mcp: DeviceMcp | None = None,
        things: Things | None = None,
        send_commands: Callable[[list[dict[str, Any]]], bool] | None = None,
        local: Sequence[LocalTool] = (),
    ) -> None:
        """``send_commands`` takes the ``commands`` of an ``iot`` message and says whether the device is reachable."""
        self._mcp = mcp
        self._things = things
        self._send_commands = send_commands
        self._local = {tool.spec.name: tool for tool in local}
        self._names = NameTable(reserved=self._local)
        self.volume_before_mute: int | None = None

    # -- for the model -------------------------------------------------------------------------------------------------
    def specs(self) -> list[ToolSpec]:
        """What a model is told: local tools first, then the device's, in a stable order."""
        return [tool.spec for tool in self._local.values()] + [self._spec(tool) for tool in self._device_tools()]

    def find(self, device_name: str) -> ToolSpec | None:
        """The tool with this device name (``self.audio_speaker.set_volume``, ``Speaker.SetVolume``) or model name."""
        local = self._local.get(device_name)
        if local is not None:
            return local.spec
        tool = self._device_tool(device_name)
        return self._spec(tool) if tool is not None else None

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Runs a tool by model name, or by device name. Wrong arguments and unknown names become error results.

        A local tool that raises becomes an error result too: the task that runs it belongs to the session, which must survive it.
        Cancellation: see the tool; a device call is forgotten, not undone.
        """
        local = self._local.get(name)
        if local is not None:
            return await self._call_local(local, arguments)
        tool = self._device_tool(name)
        if tool is None:
            return ToolResult(f"There is no tool named {bounded_text(name, limit=64)}.", is_error=True)
        try:
            return await self._run(tool, arguments)
        except ArgumentError as error:
            return ToolResult(f"{error}.", is_error=True)

    async def _call_local(self, tool: LocalTool, arguments: dict[str, Any]) -> ToolResult:
        try:
            return await tool.call(arguments)
        except Exception as error:  # a plug-in's code: whatever it raises is its own failure
            log.exception("a local tool has failed", tool=tool.spec.name)
            return ToolResult(f"The tool {tool.spec.name} has failed ({type(error).__name__}).", is_error=True)

    def _device_tools(self) -> Iterator[DeviceTool | StateTool | MethodTool]:
        if self._mcp is not None:
            yield from self._mcp.tools
        if self._things is not None:
            yield from self._things.tools()

    def _device_tool(self, name: str) -> DeviceTool | StateTool | MethodTool | None:
        """The tool with this device name or model name."""
        return next((tool for tool in self._device_tools() if name in (tool.name, self._names.safe(tool.name))), None)

    def _spec(self, tool: DeviceTool | StateTool | MethodTool) -> ToolSpec:
        name = self._names.safe(tool.name)
        match tool:
            case DeviceTool():
                return ToolSpec(name, tool.description, tool.parameters)
            case StateTool():
                return ToolSpec(name, f"Reads {tool.property.name} of {tool.thing}: {tool.property.description}")
            case MethodTool():
                return ToolSpec(name, f"{tool.thing}: {tool.method.description}", tool.method.schema())

    async def _run(self, tool: DeviceTool | StateTool | MethodTool, arguments: dict[str, Any]) -> ToolResult:
        match tool:
            case DeviceTool():
                if self._mcp is None:
                    return ToolResult("The device is not connected.", is_error=True)
                return await self._mcp.call(tool.name, fit_arguments(tool.parameters, arguments))
            case StateTool():
                value = self._things.state(tool.thing, tool.property.name) if self._things is not None else None
                if value is None:
                    return ToolResult(f"The device has not reported {tool.property.name} yet.", is_error=True)
                return ToolResult(str(value).lower() if isinstance(value, bool) else str(value))
            case MethodTool():
                return self._command(tool.thing, tool.method.name, arguments)

    def _command(self, thing: str, method: str, arguments: dict[str, Any]) -> ToolResult:
        if self._things is None or self._send_commands is None:
            return ToolResult("The device is not connected.", is_error=True)
        command = self._things.command(thing, method, arguments)
        if not self._send_commands([command]):
            return ToolResult("The device is not connected.", is_error=True)
        return ToolResult("ok")

    # -- capabilities, whichever way the device has them ---------------------------------------------------------------
    @property
    def can_set_volume(self) -> bool:
        return self._capable(SET_VOLUME, _LEGACY_VOLUME)

    @property
    def can_set_brightness(self) -> bool:
        return self._capable(SET_BRIGHTNESS, _LEGACY_BRIGHTNESS)

    @property
    def can_set_theme(self) -> bool:
        return self._capable(SET_THEME, _LEGACY_THEME)

    @property
    def can_take_photo(self) -> bool:
        return self._mcp is not None and self._mcp.has(TAKE_PHOTO)

    @property
    def can_tell_status(self) -> bool:
        return (self._mcp is not None and self._mcp.has(GET_STATUS)) or (self._things is not None and bool(self._things.states()))

    async def set_volume(self, percent: int) -> ToolResult | None:
        """Sets the speaker, 0 to 100. None when the device has no such tool."""
        return await self._set(SET_VOLUME, "volume", _LEGACY_VOLUME, max(0, min(100, percent)))

    async def get_volume(self) -> int | None:
        """The speaker's volume, None when the device does not tell."""
        return _percent(await self._read("audio_speaker", "volume", _LEGACY_VOLUME))

    async def mute(self) -> ToolResult | None:
        """Sets the volume to 0 and keeps what it was in ``volume_before_mute``. None when the device has no such tool."""
        before = await self.get_volume() if self.can_set_volume else None
        result = await self.set_volume(0)
        if result is not None and not result.is_error and before:
            self.volume_before_mute = before
        return result

    async def set_brightness(self, percent: int) -> ToolResult | None:
        """Sets the screen, 0 to 100. None when the device has no such tool."""
        return await self._set(SET_BRIGHTNESS, "brightness", _LEGACY_BRIGHTNESS, max(0, min(100, percent)))

    async def get_brightness(self) -> int | None:
        """The screen's brightness, None when the device does not tell."""
        return _percent(await self._read("screen", "brightness", _LEGACY_BRIGHTNESS))

    async def set_theme(self, theme: str) -> ToolResult | None:
        """Sets the screen's theme (``light`` or ``dark``). None when the device has no such tool."""
        return await self._set(SET_THEME, "theme", _LEGACY_THEME, theme)

    def other_tools(self) -> list[str]:
        """Names, in words, of the device's tools that the capabilities above do not cover: ``lamp turn on``."""
        names = []
        for tool in self._device_tools():
            if isinstance(tool, StateTool) or tool.name in _COVERED:
                continue
            names.append(_HUMP.sub(" ", tool.name.removeprefix("self.")).replace(".", " ").replace("_", " ").lower())
        return names

    async def status(self) -> dict[str, Any] | None:
        """The device's report about itself by part (``audio_speaker``, ``screen``, ``battery``, ``network``), None without one.

        The parts of a 1.x device are its things in lower case (``speaker``, ``battery``).
        """
        if self._mcp is not None and self._mcp.has(GET_STATUS):
            result = await self._mcp.call(GET_STATUS, {})
            if result.is_error:
                return None
            try:
                report = msgspec.json.decode(result.text)
            except (msgspec.DecodeError, RecursionError):
                log.info("device status is no JSON")
                return None
            return report if isinstance(report, dict) else None
        if self._things is not None and (states := self._things.states()):
            return {name.lower(): dict(values) for name, values in states.items()}
        return None

    def _capable(self, device_name: str, legacy: Sequence[tuple[str, str, str]]) -> bool:
        if self._mcp is not None and self._mcp.has(device_name):
            return True
        return self._things is not None and any(self._things.method(thing, method) for thing, method, _ in legacy)

    async def _set(self, device_name: str, parameter: str, legacy: Sequence[tuple[str, str, str]], value: int | str) -> ToolResult | None:
        if self._mcp is not None and self._mcp.has(device_name):
            return await self.call(device_name, {parameter: value})
        if self._things is None:
            return None
        for thing, method, _ in legacy:
            described = self._things.method(thing, method)
            if described is not None and len(described.parameters) == 1:
                # boards name the only parameter differently (theme, theme_name)
                return await self.call(f"{thing}.{method}", {described.parameters[0].name: value})
        return None

    async def _read(self, part: str, key: str, legacy: Sequence[tuple[str, str, str]]) -> Any:
        if self._mcp is not None and self._mcp.has(GET_STATUS):
            report = await self.status()
            section = report.get(part) if report is not None else None
            return section.get(key) if isinstance(section, dict) else None
        if self._things is not None:
            for thing, _, property_name in legacy:
                value = self._things.state(thing, property_name)
                if value is not None:
                    return value
        return None


def _percent(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return round(value)
