"""Functions become tools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from providers.tools import Tool, ToolDefinitionError, ToolResult, tool


class Room(msgspec.Struct):
    name: str
    floor: int = 0


@tool
async def set_lamp(
    on: bool,
    brightness: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50,
    colour: Literal["red", "white"] = "white",
    rooms: list[Room] = [],  # noqa: B006 - the default is copied for each call
) -> dict[str, Any]:
    """Switch the lamp
    and set its light.

    Longer text that the model does not need.

    Args:
        on: true to switch it on
        brightness (int): percent of full light,
            never more than 100
        unknown: no such parameter

    Returns:
        on: not a parameter
    """
    rooms.append(Room("hall"))
    return {"on": on, "brightness": brightness, "colour": colour, "rooms": rooms}


def test_schema_comes_from_the_hints_and_descriptions_from_the_docstring() -> None:
    assert set_lamp.spec.name == "set_lamp"
    assert set_lamp.spec.description == "Switch the lamp and set its light."
    schema = set_lamp.spec.parameters
    assert schema["required"] == ["on"]
    assert schema["properties"]["on"] == {"type": "boolean", "description": "true to switch it on"}
    assert schema["properties"]["brightness"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 100,
        "default": 50,
        "description": "percent of full light, never more than 100",
    }
    assert schema["properties"]["colour"] == {"enum": ["red", "white"], "default": "white"}
    assert schema["properties"]["rooms"]["items"] == {"$ref": "#/$defs/Room"}
    assert schema["$defs"]["Room"]["properties"]["floor"] == {"type": "integer", "default": 0}


async def test_call_fills_defaults_and_reads_what_models_write() -> None:
    for _ in range(2):
        result = await set_lamp.call({"on": "true", "brightness": "7"})
        assert result == ToolResult('{"on":true,"brightness":7,"colour":"white","rooms":[{"name":"hall","floor":0}]}')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "missing required field `on`"),
        ({"on": True, "brightness": 101}, "<= 100"),
        ({"on": True, "colour": "green"}, "colour"),
        ({"on": True, "volume": 3}, "no argument volume; it has: on, brightness, colour, rooms"),
        ({"on": True, "rooms": [{"floor": 1}]}, "rooms[0]"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model(arguments: dict[str, Any], words: str) -> None:
    result = await set_lamp.call(arguments)
    assert result.is_error
    assert words in result.text


async def test_results() -> None:
    @tool(name="give-back", description="Returns what it is told.")
    async def give(what: str) -> Any:
        return {"none": None, "text": "hi", "own": ToolResult("bye", "end")}[what]

    assert give.spec.name == "give-back"
    assert give.spec.description == "Returns what it is told."
    assert await give.call({"what": "none"}) == ToolResult("done")
    assert await give.call({"what": "text"}) == ToolResult("hi")
    assert await give.call({"what": "own"}) == ToolResult("bye", "end")


async def test_bound_methods_and_errors() -> None:
    class Clock:
        async def stop(self) -> str:
            """Stop the clock."""
            raise OSError("stuck")

    stop = tool(Clock().stop)
    assert isinstance(stop, Tool)
    assert stop.spec.parameters == {"type": "object", "properties": {}}
    with pytest.raises(OSError, match="stuck"):
        await stop.call({})


async def test_what_cannot_be_a_tool() -> None:
    def plain() -> None:
        """Not async."""

    async def unhinted(a) -> None:  # type: ignore[no-untyped-def]
        """A parameter without a hint."""

    async def silent() -> None: ...

    async def starred(*a: int) -> None:
        """Takes anything."""

    async def odd(a: Clash) -> None:  # type: ignore[name-defined]  # noqa: F821
        """A hint that is not defined."""

    functions: list[Any] = [plain, unhinted, silent, starred, odd]
    for function in functions:
        with pytest.raises(ToolDefinitionError):
            tool(function)
    with pytest.raises(ToolDefinitionError, match="no tool name"):
        tool(name="a b")(silent)
