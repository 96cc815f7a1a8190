"""Things of 1.x firmware: descriptors as devices send them (device protocol §10), commands as they must be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.arguments import ArgumentError
from iot.descriptors import MethodTool, StateTool, Things

SPEAKER = {
    "name": "Speaker",
    "description": "The speaker",
    "properties": {"volume": {"description": "Current volume", "type": "number"}},
    "methods": {
        "SetVolume": {"description": "Set the volume", "parameters": {"volume": {"description": "0 to 100", "type": "number"}}},
    },
}
LAMP = {
    "name": "Lamp",
    "description": "A lamp",
    "properties": {"power": {"description": "Is it on", "type": "boolean"}},
    "methods": {
        "TurnOn": {"description": "On", "parameters": {}},
        "Blink": {
            "description": "Blink",
            "parameters": {
                "count": {"description": "times", "type": "number"},
                "fast": {"description": "fast", "type": "boolean"},
                "color": {"description": "color", "type": "string"},
            },
        },
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(["number", "string", "boolean"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "methods", "parameters", "properties", "type", "state", "x"]), children, max_size=5)
    ),
    max_leaves=15,
)


def make_things() -> Things:
    things = Things()
    for descriptor in (SPEAKER, LAMP):  # one message per thing
        things.feed_descriptors([descriptor])
    return things


def test_check_086_descriptors_become_tools() -> None:
    tools = list(make_things().tools())
    assert [tool.name for tool in tools] == ["get_speaker_volume", "Speaker.SetVolume", "get_lamp_power", "Lamp.TurnOn", "Lamp.Blink"]
    assert isinstance(tools[0], StateTool)
    assert isinstance(tools[1], MethodTool)
    assert tools[1].method.schema() == {
        "type": "object",
        "properties": {"volume": {"type": "integer", "description": "0 to 100"}},
        "required": ["volume"],
    }


def test_check_086_commands_have_every_member_with_its_type() -> None:
    things = make_things()
    assert things.command("Speaker", "SetVolume", {"volume": "50"}) == {
        "name": "Speaker",
        "method": "SetVolume",
        "parameters": {"volume": 50},
    }
    assert things.command("Lamp", "TurnOn", {"extra": 1}) == {"name": "Lamp", "method": "TurnOn", "parameters": {}}
    blink = things.command("Lamp", "Blink", {"count": 2.0, "fast": "true", "color": 3})
    assert blink["parameters"] == {"count": 2, "fast": True, "color": "3"}
    assert type(blink["parameters"]["count"]) is int


@pytest.mark.parametrize(
    ("thing", "method", "arguments"),
    [
        ("Speaker", "SetVolume", {}),
        ("Speaker", "SetVolume", {"volume": None}),
        ("Speaker", "SetVolume", {"volume": "loud"}),
        ("Speaker", "SetVolume", {"volume": float("nan")}),
        ("Speaker", "Explode", {}),
        ("Toaster", "TurnOn", {}),
        ("Lamp", "Blink", {"count": 1, "fast": "perhaps", "color": "red"}),
    ],
)
def test_check_086_incomplete_commands_are_not_built(thing: str, method: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        make_things().command(thing, method, arguments)


def test_states_are_deltas() -> None:
    things = make_things()
    assert things.state("Speaker", "volume") is None
    things.feed_states([{"name": "Speaker", "state": {"volume": 70}}, {"name": "Lamp", "state": {"power": False}}])
    things.feed_states([{"name": "Speaker", "state": {"volume": 30}}])
    assert things.state("Speaker", "volume") == 30
    assert things.states() == {"Speaker": {"volume": 30}, "Lamp": {"power": False}}


def test_boards_that_omit_members() -> None:
    things = Things()
    things.feed_descriptors([{"name": "Clock"}, {"name": "Bell", "methods": {"Ring": {"description": "Ring"}}}])
    assert things.command("Bell", "Ring", {}) == {"name": "Bell", "method": "Ring", "parameters": {}}


def test_a_method_with_an_unreadable_parameter_is_not_offered() -> None:
    things = Things()
    things.feed_descriptors([{"name": "Bell", "methods": {"Ring": {"parameters": {"tune": {"type": "object"}}}}}])
    assert list(things.tools()) == []


@given(json_values, json_values)
def test_garbage_never_raises(descriptors: Any, states: Any) -> None:
    things = Things()
    things.feed_descriptors(descriptors)
    things.feed_descriptors([descriptors])
    things.feed_states(states)
    things.feed_states([{"name": "x", "state": states}])
    for tool in things.tools():
        if isinstance(tool, MethodTool):
            assert set(tool.method.schema()["required"]) == {member.name for member in tool.method.parameters}
