"""The device's MCP server: the firmware's rules, sentences and pages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.device.mcp import MAX_PAGE_BYTES, Appliance, McpServer, Property, Tool


def server(*extra: Tool) -> tuple[McpServer, Appliance]:
    appliance = Appliance(facts={"chip_model_name": "esp32s3"})
    return McpServer(name="board", version="2.4.2", appliance=appliance, extra_tools=extra), appliance


def request(method: str, params: Any = None, number: Any = 5) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method} | ({} if params is None else {"params": params})


def ask(mcp: McpServer, method: str, params: Any = None) -> dict[str, Any]:
    text = mcp.answer(request(method, params))
    assert text is not None
    answer: dict[str, Any] = json.loads(text)
    assert answer["id"] == 5
    return answer


def call(mcp: McpServer, name: str, **arguments: object) -> dict[str, Any]:
    return ask(mcp, "tools/call", {"name": name, "arguments": arguments})


def test_initialize_keeps_the_vision_address() -> None:
    mcp, appliance = server()
    answer = ask(mcp, "initialize", {"capabilities": {"vision": {"url": "http://v/", "token": "t"}}})
    assert answer["result"] == {
        "protocolVersion": "2024-11-05",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "board", "version": "2.4.2"},
    }
    assert appliance.vision_url == "http://v/"


@pytest.mark.parametrize(
    "broken",
    [
        request("tools/list", {}, number="1"),
        request("tools/list", {}, number=None),
        request("tools/list", {}, number=True),
        request("tools/list", {}, number=2**31),
        request("tools/list", {}, number=float("inf")),
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": None},
        {"jsonrpc": "1.0", "id": 1, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "method": 3},
        [],
        "x",
    ],
)
def test_what_breaks_the_rules_gets_no_answer(broken: object) -> None:
    mcp, _ = server()
    assert mcp.answer(broken) is None
    assert mcp.ignored == 1


def test_notifications_get_no_answer() -> None:
    mcp, _ = server()
    assert mcp.answer({"jsonrpc": "2.0", "method": "notifications/initialized"}) is None
    assert mcp.ignored == 0


def test_user_tools_are_listed_on_demand_only() -> None:
    mcp, _ = server()
    names = [tool["name"] for tool in ask(mcp, "tools/list", {"cursor": ""})["result"]["tools"]]
    assert names == ["self.get_device_status", "self.audio_speaker.set_volume", "self.screen.set_brightness", "self.screen.set_theme"]
    tools = {tool["name"]: tool for tool in ask(mcp, "tools/list", {"withUserTools": True})["result"]["tools"]}
    assert tools["self.reboot"]["annotations"] == {"audience": ["user"]}
    assert tools["self.audio_speaker.set_volume"]["inputSchema"] == {
        "type": "object",
        "properties": {"volume": {"type": "integer", "minimum": 0, "maximum": 100}},
        "required": ["volume"],
    }


def test_paging_shows_every_tool_once() -> None:
    extra = tuple(Tool(name=f"self.extra.tool_{number}", description="x" * 500, call=lambda _: True) for number in range(40))
    mcp, _ = server(*extra)
    names, cursor, pages = [], "", 0
    while True:
        text = mcp.answer(request("tools/list", {"cursor": cursor}))
        assert text is not None
        assert len(text) <= MAX_PAGE_BYTES + 130
        result = json.loads(text)["result"]
        names += [tool["name"] for tool in result["tools"]]
        pages += 1
        cursor = result.get("nextCursor", "")
        if not cursor:
            break
        assert cursor not in names
    assert pages > 2
    assert len(names) == len(set(names)) == 44


def test_a_tool_above_a_page_is_an_error() -> None:
    mcp, _ = server(Tool(name="self.huge", description="x" * 9000, call=lambda _: True))
    answer = ask(mcp, "tools/list", {"cursor": "self.huge"})
    assert answer["error"] == {"message": "Failed to add tool self.huge because of payload size limit"}


def test_calls_change_and_report_the_appliance() -> None:
    mcp, appliance = server()
    assert call(mcp, "self.audio_speaker.set_volume", volume=12.9)["result"] == {
        "content": [{"type": "text", "text": "true"}],
        "isError": False,
    }
    assert appliance.volume == 12
    call(mcp, "self.screen.set_brightness", brightness=5)
    call(mcp, "self.screen.set_theme", theme="dark")
    status = json.loads(call(mcp, "self.get_device_status")["result"]["content"][0]["text"])
    assert status["audio_speaker"] == {"volume": 12}
    assert status["screen"] == {"brightness": 5, "theme": "dark"}
    assert call(mcp, "self.reboot")["result"]["isError"] is False
    assert appliance.reboots == 1
    assert json.loads(call(mcp, "self.get_system_info")["result"]["content"][0]["text"]) == {"chip_model_name": "esp32s3"}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (None, "Missing params"),
        ({}, "Missing name"),
        ({"name": "self.audio_speaker.set_volume", "arguments": 3}, "Invalid arguments"),
        ({"name": "self.audio_speaker.set_volume"}, "Missing valid argument: volume"),
        ({"name": "self.audio_speaker.set_volume", "arguments": {"volume": "3"}}, "Missing valid argument: volume"),
        ({"name": "self.audio_speaker.set_volume", "arguments": {"volume": True}}, "Missing valid argument: volume"),
        ({"name": "self.audio_speaker.set_volume", "arguments": {"volume": -1}}, "Value is below minimum allowed: 0"),
        ({"name": "self.audio_speaker.set_volume", "arguments": {"volume": 101}}, "Value exceeds maximum allowed: 100"),
        ({"name": "nothing", "arguments": {}}, "Unknown tool: nothing"),
    ],
)
def test_failures_have_no_code(params: Any, sentence: str) -> None:
    mcp, _ = server()
    assert ask(mcp, "tools/call", params)["error"] == {"message": sentence}


def test_unknown_methods() -> None:
    mcp, _ = server()
    assert ask(mcp, "resources/list")["error"] == {"message": "Method not implemented: resources/list"}


def test_a_quote_in_an_error_breaks_the_json_as_on_hardware() -> None:
    mcp, _ = server()
    text = mcp.answer(request("tools/call", {"name": 'a"b', "arguments": {}}))
    assert text == '{"jsonrpc":"2.0","id":5,"error":{"message":"Unknown tool: a"b"}}'


def test_argument_kinds() -> None:
    seen: list[object] = []

    def keep(arguments: Any) -> int:
        seen.append(dict(arguments))
        return 7

    properties = (
        Property(name="on", type="boolean"),
        Property(name="level", type="integer", default=3),
        Property(name="text", type="string", default=""),
    )
    mcp, _ = server(Tool(name="self.lamp", description="", properties=properties, call=keep))
    assert call(mcp, "self.lamp", on=False, level="x", text=5)["result"]["content"][0]["text"] == "7"
    assert seen == [{"on": False, "level": 3, "text": ""}]
    assert call(mcp, "self.lamp", on=1)["error"] == {"message": "Missing valid argument: on"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "method": st.sampled_from(["initialize", "tools/list", "tools/call", "x"]) | JSON},
        optional={
            "id": st.integers() | st.floats() | JSON,
            "params": st.dictionaries(st.sampled_from(["name", "cursor", "arguments", "capabilities"]), JSON) | JSON,
        },
    )
)
def test_any_request_is_survived(message: dict[str, Any]) -> None:
    mcp, _ = server()
    mcp.answer(message)
