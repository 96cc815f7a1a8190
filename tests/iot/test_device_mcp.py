"""MCP of a device: handshake, paging, calls and everything that goes wrong."""

import asyncio
from typing import Any

import pytest

from iot.device_mcp import MAX_PAGES, MAX_TOOLS, DeviceMcp
from tests.iot.scripted_device import COMMON_TOOLS, ScriptedDevice, tool

VOLUME = "self.audio_speaker.set_volume"


async def test_check_078_initialize_then_initialized_then_list() -> None:
    device = ScriptedDevice()
    await device.mcp.initialize(vision=("http://10.0.0.1/vision", "token"))
    assert device.methods() == ["initialize", "notifications/initialized", "tools/list", "tools/list"]
    first = device.received[0]["params"]
    assert first["protocolVersion"] == "2024-11-05"
    assert first["capabilities"] == {"vision": {"url": "http://10.0.0.1/vision", "token": "token"}}
    assert "id" not in device.received[1]
    assert device.received[1]["params"] == {}
    assert device.mcp.server_info == {"name": "board", "version": "2.4.2"}
    assert device.mcp.initialized
    assert [known.name for known in device.mcp.tools] == [entry["name"] for entry in COMMON_TOOLS]


async def test_check_079_cursors_are_followed_through_40_more_tools() -> None:
    device = ScriptedDevice(COMMON_TOOLS + [tool(f"self.extra.tool_{index}") for index in range(40)], page_tools=4)
    await device.mcp.initialize()
    assert len(device.mcp.tools) == 45
    assert device.methods().count("tools/list") == 12


async def test_check_079_pages_of_one_tool() -> None:
    device = ScriptedDevice(COMMON_TOOLS + [tool(f"self.extra.tool_{index}") for index in range(40)], page_tools=1)
    await device.mcp.initialize()
    assert len(device.mcp.tools) == 45


async def test_check_079_the_loop_is_bounded() -> None:
    endless = ScriptedDevice([])
    pages = iter(range(10_000))

    def page(_: dict[str, Any]) -> dict[str, Any]:
        number = next(pages)
        return {"tools": [tool(f"self.t{number}")], "nextCursor": f"self.t{number + 1}"}

    endless.page = page
    await endless.mcp.initialize()
    assert endless.methods().count("tools/list") == MAX_PAGES
    many = ScriptedDevice([tool(f"self.t{index}") for index in range(500)], page_tools=100)
    await many.mcp.initialize()
    assert len(many.mcp.tools) == MAX_TOOLS


@pytest.mark.parametrize(
    "page",
    [{"tools": [tool("self.a")], "nextCursor": "self.a"}, {"tools": [], "nextCursor": "x"}, {"nextCursor": "x"}, [], None, {"tools": 3}],
)
async def test_check_079_a_page_without_progress_ends_the_loop(page: Any) -> None:
    device = ScriptedDevice([])
    device.page = lambda _: page
    await device.mcp.initialize()
    assert device.methods().count("tools/list") <= 2


async def test_check_082_user_tools_are_kept_apart() -> None:
    device = ScriptedDevice([tool("self.a"), tool("self.reboot", users_only=True)])
    await device.mcp.initialize()
    assert [payload["params"]["withUserTools"] for payload in device.received if payload["method"] == "tools/list"] == [False]
    assert list(device.mcp.user_tools) == []
    await device.mcp.initialize(user_tools=True)
    assert [known.name for known in device.mcp.tools] == ["self.a"]
    assert [known.name for known in device.mcp.user_tools] == ["self.reboot"]


async def test_a_device_that_never_answers_has_no_tools() -> None:
    device = ScriptedDevice()
    device.mcp = DeviceMcp(device.send, call_timeout_s=0.01)
    device.mute = {"initialize", "tools/list"}
    await device.mcp.initialize()
    assert device.methods() == ["initialize", "initialize", "tools/list", "tools/list"]
    assert device.mcp.tools == ()
    assert device.mcp.pending == 0
    device.mute = set()
    await device.mcp.initialize()
    assert len(device.mcp.tools) == len(COMMON_TOOLS)


async def test_tools_known_before_stay_when_the_list_fails() -> None:
    device = ScriptedDevice()
    await device.mcp.initialize()
    device.online = False
    await device.mcp.initialize()
    assert len(device.mcp.tools) == len(COMMON_TOOLS)


async def test_tools_nobody_can_call_are_skipped() -> None:
    huge = tool("self.huge")
    huge["inputSchema"]["properties"] = {f"p{index}": {"type": "string", "description": "x" * 100} for index in range(200)}
    device = ScriptedDevice([])
    page: dict[str, Any] = {
        "tools": [None, {}, {"name": ""}, {"name": "a\nb"}, {"name": "x" * 200}, huge, {"name": "self.bare", "description": "bell\x07"}]
    }
    device.page = lambda _: page
    await device.mcp.initialize()
    (bare,) = device.mcp.tools
    assert (bare.name, bare.description, bare.parameters) == ("self.bare", "bell", {"type": "object", "properties": {}})
    assert device.mcp.stats.skipped_tools == 6


async def test_check_080_a_call_reaches_the_device_and_its_text_comes_back() -> None:
    device = ScriptedDevice()
    result = await device.mcp.call(VOLUME, {"volume": 30})
    assert (result.text, result.is_error, result.next) == ("true", False, "ask_model")
    assert device.calls() == [{"name": VOLUME, "arguments": {"volume": 30}}]


async def test_check_081_errors_become_results() -> None:
    device = ScriptedDevice()
    unknown = await device.mcp.call("self.nothing", {})
    assert unknown.is_error
    assert "Unknown tool: self.nothing" in unknown.text
    device.answers[VOLUME] = {"result": {"content": [{"type": "text", "text": "too\x00 hot"}], "isError": True}}
    failed = await device.mcp.call(VOLUME, {"volume": 1})
    assert (failed.text, failed.is_error) == ("too  hot", True)
    for odd in ({}, {"result": None}, {"result": {"content": "x"}}, {"result": {"content": [None, 3]}}, {"error": "boom"}, {"error": None}):
        device.answers[VOLUME] = odd
        await device.mcp.call(VOLUME, {"volume": 1})
    assert device.mcp.pending == 0


async def test_check_081_a_time_out_is_told_and_leaves_nothing() -> None:
    device = ScriptedDevice()
    device.mute = {"tools/call"}
    result = await device.mcp.call(VOLUME, {"volume": 1}, timeout_s=0.01)
    assert result.is_error
    assert "0.01 seconds" in result.text
    assert device.mcp.pending == 0


async def test_check_084_calls_may_overlap_and_come_back_in_any_order() -> None:
    device = ScriptedDevice()
    device.mute = {"tools/call"}
    async with asyncio.TaskGroup() as group:
        first = group.create_task(device.mcp.call("self.a", {}))
        second = group.create_task(device.mcp.call("self.b", {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for payload in reversed(device.received):
            text = payload["params"]["name"]
            device.mcp.feed({"id": payload["id"], "result": {"content": [{"type": "text", "text": text}]}})
    assert (first.result().text, second.result().text) == ("self.a", "self.b")


async def test_check_085_a_late_answer_is_ignored_and_devices_do_not_mix() -> None:
    one, other = ScriptedDevice(), ScriptedDevice()
    one.mute = {"tools/call"}
    await one.mcp.call(VOLUME, {"volume": 1}, timeout_s=0.01)
    late = {"id": one.received[0]["id"], "result": {"content": [{"type": "text", "text": "late"}]}}
    one.mcp.feed(late)
    other.mute = {"tools/call"}
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(other.mcp.call(VOLUME, {"volume": 2}, timeout_s=0.05))
        await asyncio.sleep(0)
        one.mcp.feed({"id": 1, "result": {"content": [{"type": "text", "text": "from one"}]}})
    assert waiting.result().is_error
    assert one.mcp.rpc_stats.late == 2


async def test_cancelling_a_call_leaves_the_table_clean() -> None:
    device = ScriptedDevice()
    device.mute = {"tools/call"}
    async with asyncio.TaskGroup() as group:
        call = group.create_task(device.mcp.call(VOLUME, {"volume": 1}))
        await asyncio.sleep(0)
        assert device.mcp.pending == 1
        call.cancel()
    assert device.mcp.pending == 0
    device.mcp.feed({"id": 1, "result": {}})
    assert device.mcp.rpc_stats.late == 1


async def test_a_lost_link_fails_what_is_pending_and_a_closed_one_fails_at_once() -> None:
    device = ScriptedDevice()
    device.mute = {"tools/call"}
    async with asyncio.TaskGroup() as group:
        call = group.create_task(device.mcp.call(VOLUME, {"volume": 1}, timeout_s=30))
        await asyncio.sleep(0)
        device.mcp.disconnected()
    assert call.result().is_error
    device.mute = set()
    assert not (await device.mcp.call(VOLUME, {"volume": 1})).is_error
    device.online = False
    assert "not connected" in (await device.mcp.call(VOLUME, {"volume": 1})).text
    device.online = True
    device.mcp.close()
    device.mcp.close()
    sent = len(device.received)
    assert (await device.mcp.call(VOLUME, {"volume": 1})).is_error
    await device.mcp.initialize()
    assert len(device.received) == sent
    assert device.mcp.pending == 0


async def test_too_many_calls_are_refused_not_queued() -> None:
    device = ScriptedDevice()
    device.mute = {"tools/call"}
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(device.mcp.call(VOLUME, {"volume": 1}, timeout_s=0.05)) for _ in range(40)]
    assert sum("too many" in call.result().text for call in calls) == 8


async def test_a_camera_picture_is_told_not_dumped() -> None:
    device = ScriptedDevice()
    packed = '{"type":"image","mimeType":"image/jpeg","data":"' + "A" * 4000 + '"}'
    device.answers["self.camera.take_photo"] = {"result": {"content": [{"type": "image", "image": packed}], "isError": False}}
    result = await device.mcp.call("self.camera.take_photo", {"question": "what is this"})
    assert (result.text, result.is_error) == ("The device sent a picture (image/jpeg, 3000 bytes).", False)
    for odd in ("{", "[" * 5000, "3", 7, None):
        device.answers["self.camera.take_photo"] = {"result": {"content": [{"type": "image", "image": odd}]}}
        assert "picture" in (await device.mcp.call("self.camera.take_photo", {})).text


async def test_long_results_are_cut() -> None:
    device = ScriptedDevice()
    device.answers[VOLUME] = "x" * 100_000
    assert len((await device.mcp.call(VOLUME, {"volume": 1})).text) == 6000


@pytest.mark.parametrize(
    "payload", [None, "", 7, [], {}, {"id": []}, {"id": 1e400, "result": 1}, {"id": {}, "error": {}}, {"id": float("nan")}]
)
def test_garbage_from_the_device_never_raises(payload: Any) -> None:
    DeviceMcp(lambda _: True).feed(payload)
