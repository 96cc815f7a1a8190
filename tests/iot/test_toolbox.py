"""One tool box a session: device, legacy and local tools behind one face."""

from typing import Any

from iot.descriptors import Things
from iot.device_mcp import DeviceMcp
from iot.toolbox import ToolBox
from providers.tools import ToolResult
from providers.tools import tool as local_tool
from tests.iot.scripted_device import ScriptedDevice, tool
from tests.iot.test_descriptors import SPEAKER

SCREEN = {
    "name": "Screen",
    "properties": {"theme": {"description": "t", "type": "string"}, "brightness": {"description": "b", "type": "number"}},
    "methods": {
        "SetTheme": {"description": "Set", "parameters": {"theme_name": {"description": "light or dark", "type": "string"}}},
        "SetBrightness": {"description": "Set", "parameters": {"brightness": {"description": "0-100", "type": "number"}}},
    },
}


@local_tool(name="self_a_b")
async def echo(x: int) -> ToolResult:
    """Echoes."""
    return ToolResult(f"echo {x}", next="speak")


class OldDevice:
    """A 1.x device: takes commands, never answers."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.online = True
        self.things = Things()
        self.things.feed_descriptors([SPEAKER])
        self.things.feed_descriptors([SCREEN])
        self.toolbox = ToolBox(things=self.things, send_commands=self.send)

    def send(self, commands: list[dict[str, Any]]) -> bool:
        if self.online:
            self.commands += commands
        return self.online


async def test_check_082_and_083_the_model_sees_safe_names_only_and_no_user_tools() -> None:
    device = ScriptedDevice([tool("self.a.b"), tool("self.reboot", users_only=True)])
    await device.mcp.initialize(user_tools=True)
    toolbox = ToolBox(mcp=device.mcp, local=[echo])
    local, own = toolbox.specs()
    assert local.name == "self_a_b"
    assert own.name.startswith("self_a_b_")
    assert (await toolbox.call(own.name, {})).text == "true"
    assert device.calls() == [{"name": "self.a.b", "arguments": {}}]
    assert await toolbox.call("self_a_b", {"x": "1"}) == ToolResult("echo 1", next="speak")
    for forbidden in ("self.reboot", "self_reboot", "nothing"):
        assert (await toolbox.call(forbidden, {})).is_error
    assert len(device.calls()) == 1
    assert toolbox.find("self.reboot") is None
    assert toolbox.find("self.a.b") == own
    assert toolbox.find("self_a_b") == echo.spec
    assert toolbox.find(own.name) == own


async def test_check_080_arguments_have_the_types_of_the_schema() -> None:
    device = ScriptedDevice()
    await device.mcp.initialize()
    toolbox = ToolBox(mcp=device.mcp)
    name = next(spec.name for spec in toolbox.specs() if spec.name.endswith("set_volume"))
    await toolbox.call(name, {"volume": "30"})
    assert device.calls()[-1]["arguments"] == {"volume": 30}
    refused = await toolbox.call(name, {"volume": "200"})
    assert refused.is_error
    assert "at most 100" in refused.text
    assert (await toolbox.call(name, {})).is_error
    assert len(device.calls()) == 1


async def test_capabilities_over_mcp() -> None:
    device = ScriptedDevice()
    toolbox = ToolBox(mcp=device.mcp)
    assert await toolbox.set_volume(30) is None
    await device.mcp.initialize()  # tools that come late are there
    assert toolbox.can_set_volume
    assert toolbox.can_set_brightness
    assert toolbox.can_set_theme
    assert toolbox.can_take_photo
    assert await toolbox.set_volume(130) == ToolResult("true")
    assert await toolbox.set_brightness(40) == ToolResult("true")
    assert await toolbox.set_theme("dark") == ToolResult("true")
    assert [call["arguments"] for call in device.calls()] == [{"volume": 100}, {"brightness": 40}, {"theme": "dark"}]
    assert (await toolbox.get_volume(), await toolbox.get_brightness()) == (70, 80)
    status = await toolbox.status()
    assert status is not None
    assert status["battery"] == {"level": 55, "charging": False}


async def test_a_device_that_reports_nonsense_has_no_known_volume() -> None:
    device = ScriptedDevice()
    await device.mcp.initialize()
    toolbox = ToolBox(mcp=device.mcp)
    for report in (
        "",
        "[]",
        "{",
        '{"audio_speaker":3}',
        '{"audio_speaker":{"volume":"x"}}',
        '{"audio_speaker":{"volume":true}}',
        "[" * 5000,
    ):
        device.answers["self.get_device_status"] = report
        assert await toolbox.get_volume() is None
    device.online = False
    assert await toolbox.get_volume() is None
    result = await toolbox.set_volume(3)
    assert result is not None
    assert result.is_error


async def test_check_086_capabilities_over_legacy_things() -> None:
    old = OldDevice()
    toolbox = old.toolbox
    assert toolbox.can_set_volume
    assert toolbox.can_set_theme
    assert not toolbox.can_take_photo
    assert await toolbox.get_volume() is None
    assert await toolbox.status() is None
    assert (await toolbox.call("get_speaker_volume", {})).is_error
    old.things.feed_states([{"name": "Speaker", "state": {"volume": 70}}])
    assert await toolbox.get_volume() == 70
    assert await toolbox.status() == {"speaker": {"volume": 70}}
    assert (await toolbox.call("get_speaker_volume", {})).text == "70"
    await toolbox.set_volume(30)
    await toolbox.set_theme("dark")
    await toolbox.call("Speaker_SetVolume", {"volume": "20"})
    assert old.commands == [
        {"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 30}},
        {"name": "Screen", "method": "SetTheme", "parameters": {"theme_name": "dark"}},
        {"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 20}},
    ]
    assert (await toolbox.call("Speaker_SetVolume", {})).is_error
    old.online = False
    result = await toolbox.set_brightness(3)
    assert result is not None
    assert result.is_error
    assert [spec.name for spec in toolbox.specs()][:2] == ["get_speaker_volume", "Speaker_SetVolume"]


async def test_an_empty_box() -> None:
    toolbox = ToolBox()
    assert toolbox.specs() == []
    assert (await toolbox.set_volume(1), await toolbox.get_volume(), await toolbox.status()) == (None, None, None)
    assert not toolbox.can_set_volume
    assert (await ToolBox(mcp=DeviceMcp(lambda _: False)).get_volume()) is None


@local_tool(name="fragile")
async def fragile() -> ToolResult:
    """Breaks."""
    raise KeyError("secret of the plug-in")


async def test_check_081_a_local_tool_that_raises_is_an_error_result() -> None:
    result = await ToolBox(local=[fragile]).call("fragile", {})
    assert result.is_error
    assert "fragile has failed" in result.text
    assert "secret" not in result.text
