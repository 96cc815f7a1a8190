"""Arguments are made to fit the schema."""

from typing import Any

import pytest

from iot.arguments import ArgumentError, fit_arguments

SCHEMA = {
    "type": "object",
    "properties": {
        "volume": {"type": "integer", "minimum": 0, "maximum": 100},
        "speed": {"type": "number"},
        "on": {"type": "boolean"},
        "theme": {"type": "string", "enum": ["light", "dark"]},
        "note": {"type": "string", "default": "none"},
    },
    "required": ["volume"],
}


def test_check_080_types_are_converted() -> None:
    fitted = fit_arguments(SCHEMA, {"volume": " 30 ", "speed": "1.5", "on": "yes", "theme": "Dark", "junk": 1})
    assert fitted == {"volume": 30, "speed": 1.5, "on": True, "theme": "dark", "note": "none"}
    assert type(fitted["volume"]) is int
    assert fit_arguments(SCHEMA, {"volume": "30%"})["volume"] == 30
    assert fit_arguments(SCHEMA, {"volume": 29.6, "on": 0}) == {"volume": 30, "on": False, "note": "none"}
    assert fit_arguments(SCHEMA, {"volume": 1, "note": True})["note"] == "true"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"volume": None},
        {"volume": "loud"},
        {"volume": 101},
        {"volume": -1},
        {"volume": []},
        {"volume": "1e999"},
        {"volume": 1, "on": "maybe"},
        {"volume": 1, "on": 2},
        {"volume": 1, "theme": "pink"},
        {"volume": 1, "note": {}},
    ],
)
def test_what_cannot_fit_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        fit_arguments(SCHEMA, arguments)


def test_a_schema_without_properties_takes_nothing() -> None:
    assert fit_arguments({}, {"a": 1}) == {}
    assert fit_arguments({"properties": {"a": 3}}, {"a": [1]}) == {"a": [1]}
