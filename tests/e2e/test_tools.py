"""Checklist F: the device's own tools, through a model that calls functions and through spoken commands."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.device import Device
from bridge.device.mcp import Property, Tool, ToolError
from bridge.engines import Providers
from providers.base import Message, ToolCall
from providers.factory import build_intents
from providers.models import ModelStore
from settings.model import SettingsTree
from tests.e2e.raw_device import RawDevice, raw_device
from tests.e2e.running import STEADY_S, Cast, running, sung, until
from tests.scripted import ScriptedAsr, ScriptedLlm

VOLUME = "self_audio_speaker_set_volume"


def called(name: str, number: int = 1, **arguments: Any) -> ToolCall:
    return ToolCall(f"call-{number}", name, arguments)


def results(llm: ScriptedLlm) -> list[str]:
    """The tool results that the model was told last."""
    return [message.content for message in llm.histories[-1] if message.role == "tool"]


async def tools_known(device: Device) -> None:
    """The device has answered the last page of its tools, and the server has seen it."""

    def last_page(message: dict[str, Any]) -> bool:
        result = message.get("payload", {}).get("result", {})
        return message["type"] == "mcp" and "tools" in result and "nextCursor" not in result

    await device.sent.wait_for(last_page, timeout_s=STEADY_S, since=0)
    await asyncio.sleep(0.1)


def cast(*answers: list[str | ToolCall | Exception]) -> Cast:
    return Cast(asr=ScriptedAsr(), llm=ScriptedLlm(answers))


def model(stage: Cast) -> ScriptedLlm:
    assert isinstance(stage.llm, ScriptedLlm)
    return stage.llm


# -- function calling ------------------------------------------------------------------------------------------------------
async def test_check_078_handshake(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        await device.hello(features={"mcp": True})
        requests: list[dict[str, Any]] = []
        answers: dict[str, Any] = {
            "initialize": {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "b", "version": "2"}},
            "tools/list": {"tools": []},
        }
        mark = 0
        while not requests or requests[-1]["method"] != "tools/list":
            event = await device.wait("mcp", since=mark)
            mark = event.index + 1
            request = event.message["payload"]
            requests.append(request)
            assert event.message["session_id"] == device.session.session_id
            if "id" in request:
                result = answers[request["method"]]
                device.publish(
                    type="mcp", session_id=device.session.session_id, payload={"jsonrpc": "2.0", "id": request["id"], "result": result}
                )
        assert [request["method"] for request in requests] == ["initialize", "notifications/initialized", "tools/list"]
        assert all(request["jsonrpc"] == "2.0" for request in requests)
        assert all(isinstance(request["id"], int) for request in (requests[0], requests[2]))
        assert "id" not in requests[1]
        assert all(isinstance(request.get("params", {}), dict) for request in requests)


async def test_check_079_082_and_083_tools_are_offered_by_safe_names(tmp_path: Path) -> None:
    """Forty tools more than stock, over several pages; those for administrators are never offered."""
    extra = tuple(Tool(name=f"self.lamp{n}.switch_on", description="Switches a lamp on. " * 20, call=lambda _: True) for n in range(40))
    stage = cast(["Hi. "], [called("self_lamp39_switch_on")], ["It shines. "], [called("self_reboot")], ["I may not. "])
    async with running(tmp_path, stage) as server, server.device(extra_tools=extra) as device:
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        await device.converse(sung(500))
        offered = {spec.name for spec in model(stage).offered[0]}
        assert {f"self_lamp{n}_switch_on" for n in range(40)} | {VOLUME, "self_get_device_status"} <= offered
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in offered)
        assert not {name for name in offered if "reboot" in name or "system_info" in name}
        assert (await device.converse(sung(500))).sentences == ["It shines."]
        assert device.mcp.calls == {"self.lamp39.switch_on": 1}
        assert (await device.converse(sung(500))).sentences == ["I may not."]
        assert "no tool" in results(model(stage))[-1]
        assert device.appliance.reboots == 0


async def test_check_080_call_reaches_the_device_and_its_result_the_model(tmp_path: Path) -> None:
    seen: list[Any] = []

    def blink(arguments: Any) -> dict[str, Any]:
        seen.append(dict(arguments))
        return {"blinked": arguments["times"]}

    lamp = Tool(
        name="self.lamp.blink",
        description="Blinks.",
        properties=(
            Property(name="times", type="integer"),
            Property(name="bright", type="boolean"),
            Property(name="colour", type="string"),
        ),
        call=blink,
    )
    stage = cast([called("self_lamp_blink", times="3", bright="true", colour="red")], ["It blinked. "])
    async with running(tmp_path, stage) as server, server.device(extra_tools=(lamp,)) as device:
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        assert (await device.converse(sung(500))).sentences == ["It blinked."]
        assert seen == [{"times": 3, "bright": True, "colour": "red"}]
        assert results(model(stage)) == ['{"blinked":3}']


async def test_check_081_every_failure_is_told_to_the_model(tmp_path: Path) -> None:
    def refuse(_: Any) -> bool:
        raise ToolError("The lamp is missing")

    def quote(_: Any) -> bool:
        raise ToolError('The "lamp" is missing')  # unescaped, hence no valid JSON

    extra = (Tool(name="self.lamp.refuse", description="", call=refuse), Tool(name="self.lamp.quote", description="", call=quote))
    malformed = ToolCall("call-4", VOLUME, {}, malformed='{"volume": ')
    stage = cast(
        [called("self_lamp_refuse", 1), called("self_lamp_quote", 2), called(VOLUME, 3, volume=500), malformed], ["That went wrong. "]
    )
    settings = {"session.tool_timeout_s": 0.5}
    async with running(tmp_path, stage, settings=settings) as server, server.device(extra_tools=extra) as device:
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        assert (await device.converse(sung(500))).sentences == ["That went wrong."]
        told = results(model(stage))
        assert "The lamp is missing" in told[0]
        assert 'The "lamp" is missing' in told[1]
        assert "100" in told[2]
        assert "JSON" in told[3]
        assert device.volume == 70


class ToolServer:
    """The MCP side of a raw device: answers the handshake, keeps the calls."""

    def __init__(self, device: RawDevice) -> None:
        self.device = device
        self.calls: list[dict[str, Any]] = []
        self.listed = asyncio.Event()

    async def run(self) -> None:
        mark = 0
        while True:
            event = await self.device.wait("mcp", since=mark, timeout_s=3600)
            mark = event.index + 1
            request = event.message["payload"]
            match request["method"]:
                case "initialize":
                    self.answer(request["id"], {"protocolVersion": "2024-11-05", "capabilities": {}})
                case "tools/list":
                    schema = {"type": "object", "properties": {}}
                    self.answer(request["id"], {"tools": [{"name": "self.lamp", "description": "A lamp", "inputSchema": schema}]})
                    self.listed.set()
                case "tools/call":
                    self.calls.append(request)

    def answer(self, number: int, result: Any) -> None:
        payload = {"jsonrpc": "2.0", "id": number, "result": result}
        self.device.publish(type="mcp", session_id=self.device.session.session_id, payload=payload)

    async def called(self, times: int) -> dict[str, Any]:
        await until(lambda: len(self.calls) >= times)
        return self.calls[times - 1]


def text(value: str, *, error: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}], "isError": error}


async def test_check_081_is_error_and_invalid_json(tmp_path: Path) -> None:
    stage = cast([called("self_lamp")], ["Bad. "], [called("self_lamp")], ["Worse. "])
    async with (
        running(tmp_path, stage, settings={"session.tool_timeout_s": 0.5}) as server,
        raw_device(server) as device,
        asyncio.TaskGroup() as tasks,
    ):
        tools = ToolServer(device)
        running_tools = tasks.create_task(tools.run())
        await device.hello(features={"mcp": True})
        await tools.listed.wait()
        await asyncio.sleep(0.1)
        before = device.sing(500)
        tools.answer((await tools.called(1))["id"], text("The bulb is broken", error=True))
        assert await device.answer(before) == ["Bad."]
        assert results(model(stage)) == ["The bulb is broken"]
        before = device.sing(500)
        request = await tools.called(2)
        device.publish_bytes(b'{"type":"mcp","payload":{"jsonrpc":"2.0","id":%d,"result":{"a "quote""}}}' % request["id"])
        assert await device.answer(before) == ["Worse."]
        assert "did not answer" in results(model(stage))[-1]
        running_tools.cancel()


async def test_check_084_two_calls_in_one_turn_and_one_while_speaking(tmp_path: Path) -> None:
    stage = cast(
        [called(VOLUME, 1, volume=20), called("self_screen_set_brightness", 2, brightness=30)],
        ["Both are set. "],
        ["I will make it louder. ", called(VOLUME, 3, volume=90)],
        ["Done. "],
    )
    async with running(tmp_path, stage) as server, server.device() as device:
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        assert (await device.converse(sung(500))).sentences == ["Both are set."]
        assert (device.volume, device.appliance.brightness) == (20, 30)
        assert results(model(stage)) == ["true", "true"]
        turn = await device.converse(sung(500))
        assert turn.sentences == ["I will make it louder.", "Done."]
        assert device.volume == 90


async def test_check_085_late_answers_and_those_of_other_devices(tmp_path: Path) -> None:
    stage = cast([called("self_lamp")], ["No answer. "], [called("self_lamp")], ["Right. "])
    async with (
        running(tmp_path, stage, settings={"session.tool_timeout_s": 0.5}) as server,
        raw_device(server, 1) as device,
        raw_device(server, 2) as other,
        asyncio.TaskGroup() as tasks,
    ):
        tools, foreign = ToolServer(device), ToolServer(other)
        owned = [tasks.create_task(tools.run()), tasks.create_task(foreign.run())]
        await device.hello(features={"mcp": True})
        await other.hello(features={"mcp": True})
        await tools.listed.wait()
        await foreign.listed.wait()
        await asyncio.sleep(0.1)
        before = device.sing(500)
        late = await tools.called(1)
        assert await device.answer(before) == ["No answer."]
        before = device.sing(500)
        request = await tools.called(2)
        tools.answer(late["id"], text("late"))
        for number in range(20):
            foreign.answer(number, text("of another device"))
        await asyncio.sleep(0.1)
        tools.answer(request["id"], text("of this device"))
        assert await device.answer(before) == ["Right."]
        assert results(model(stage))[-1] == "of this device"
        assert foreign.calls == []
        for task in owned:
            task.cancel()


# -- spoken commands -------------------------------------------------------------------------------------------------------
class Commands:
    """A cast whose intents are the real ones; ``texts`` are what the user says, one after another."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def providers(self, settings: SettingsTree, store: ModelStore) -> Providers:
        plain = Cast(asr=ScriptedAsr(self.texts), llm=ScriptedLlm((("I do not know. ",),)))
        return Providers(vad=plain.vad, asr=plain.asr, llm=plain.llm, tts=plain.tts, intents=build_intents(settings.intent, store=store))


async def test_check_080_spoken_commands_change_the_device_and_say_so(tmp_path: Path) -> None:
    commands = Commands(
        "Set the volume to thirty.", "Louder, please.", "What's the volume?", "Mute.", "Volume 150", "Set the brightness to 10"
    )
    async with running(tmp_path, providers=commands.providers) as server, server.device() as device:
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        assert (await device.converse(sung(500))).sentences == ["Volume is at 30."]
        assert device.volume == 30
        assert (await device.converse(sung(500))).sentences == ["Volume is at 40."]  # ten more than what the device reports
        assert device.volume == 40
        device.appliance.volume = 55  # somebody turned a knob
        assert (await device.converse(sung(500))).sentences == ["Volume is at 55."]
        await device.say(sung(500))
        await until(lambda: not device.volume)  # done without a word: nobody would hear it
        await device.converse(sung(500))
        assert device.volume <= 100
        assert (await device.converse(sung(500))).sentences == ["Screen brightness is at 10."]
        assert device.appliance.brightness == 10


async def test_check_081_spoken_command_that_the_device_refuses(tmp_path: Path) -> None:
    """A device without such a tool, then one that breaks it: the answer says so instead of claiming success."""

    def broken(_: Any) -> bool:
        raise ToolError("The amplifier is on fire")

    commands = Commands("Set the volume to thirty.")
    volume = Tool(name="self.audio_speaker.set_volume", description="", properties=(Property(name="volume", type="integer"),), call=broken)
    async with (
        running(tmp_path, providers=commands.providers) as server,
        raw_device(server, 1) as bare,
        server.device(2, extra_tools=(volume,)) as device,
    ):
        await bare.hello()
        assert await bare.answer(bare.sing(500)) == ["Sorry, I can't change the volume on this device."]
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        assert (await device.converse(sung(500))).sentences == ["Sorry, I could not change the volume: the device did not do it."]


@pytest.mark.parametrize("via", ["speech", "model"])
async def test_check_086_things_of_old_firmware(tmp_path: Path, via: str) -> None:
    speech = Commands("Set the volume to thirty.", "What's the volume?")
    stage = cast([called("Speaker_SetVolume", volume=30)], ["Set. "], [called("get_speaker_volume")], ["Told. "])
    providers = speech.providers if via == "speech" else stage.providers
    async with running(tmp_path, providers=providers) as server, server.device(profile="1.6.2") as device:
        await device.boot()
        first = await device.converse(sung(500))
        assert device.volume == 30, first.sentences
        command = next(event.message for event in device.events if event.message["type"] == "iot")
        assert command["commands"] == [{"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 30}}]
        assert device.things.crashes == 0
        second = await device.converse(sung(500))
        if via == "speech":
            assert first.sentences == second.sentences == ["Volume is at 30."]
        else:
            assert results(model(stage))[-1] == "30"
        assert not [event for event in device.events if event.message["type"] == "mcp"]


async def test_check_080_the_model_is_told_calls_in_order(tmp_path: Path) -> None:
    """The history of the next turn holds every call with its result, as chat models demand."""
    stage = cast([called(VOLUME, 1, volume=20)], ["Set. "], ["Hello. "])
    async with running(tmp_path, stage) as server, server.device() as device:
        await device.boot()
        await device.open_channel()
        await tools_known(device)
        await device.converse(sung(500))
        await device.converse(sung(500))
        history: list[Message] = model(stage).histories[-1]
        assert [message.role for message in history] == ["system", "user", "assistant", "tool", "assistant", "user"]
        assert history[2].tool_calls[0].id == history[3].tool_call_id
        assert json.loads(history[3].content) is True
