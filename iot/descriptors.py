"""Things of firmware 0.9 to 1.7: descriptors and states become tools, calls become commands (P; device protocol §10).

A command has no answer; its effect is in the next states message. Old firmware crashes on a missing member, so a command always has
``name``, ``method`` and every parameter with the type that the descriptor names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from iot.arguments import ArgumentError, fit_value
from iot.bounds import bounded_text

MAX_THINGS: Final = 32
MAX_MEMBERS: Final = 32
NAME_LIMIT: Final = 64
DESCRIPTION_LIMIT: Final = 500
VALUE_LIMIT: Final = 500

# The descriptor's types and the JSON schema types that models know. The old firmware reads numbers as C ints.
_SCHEMA_TYPES: Final = {"number": "integer", "boolean": "boolean", "string": "string"}
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Member:
    """A property or a parameter: its description and its type (``number``, ``boolean`` or ``string``)."""

    name: str
    description: str
    type: str


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    description: str
    parameters: tuple[Member, ...]

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments; all are required (the firmware does not say which are not)."""
        return {
            "type": "object",
            "properties": {
                member.name: {"type": _SCHEMA_TYPES[member.type], "description": member.description} for member in self.parameters
            },
            "required": [member.name for member in self.parameters],
        }


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    description: str
    properties: tuple[Member, ...]
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class StateTool:
    """Reads one property: ``get_speaker_volume``."""

    name: str
    thing: str
    property: Member


@dataclass(frozen=True, slots=True)
class MethodTool:
    """Calls one method: ``Speaker.SetVolume``."""

    name: str
    thing: str
    method: Method


@dataclass(slots=True)
class Things:
    """What one device has said about itself. Garbage is dropped; a descriptor that comes again replaces the old one."""

    things: dict[str, Thing] = field(default_factory=dict)
    _states: dict[str, dict[str, Value]] = field(default_factory=dict)

    def feed_descriptors(self, descriptors: object) -> None:
        """Takes the ``descriptors`` member of an ``iot`` message. Never raises."""
        for entry in descriptors[:MAX_THINGS] if isinstance(descriptors, list) else []:
            thing = _read_thing(entry)
            if thing is not None and (thing.name in self.things or len(self.things) < MAX_THINGS):
                self.things[thing.name] = thing

    def feed_states(self, states: object) -> None:
        """Takes the ``states`` member of an ``iot`` message: a delta. Never raises."""
        for entry in states[:MAX_THINGS] if isinstance(states, list) else []:
            name = _name(entry.get("name")) if isinstance(entry, dict) else None
            values = entry.get("state") if isinstance(entry, dict) else None
            if name is None or not isinstance(values, dict) or (name not in self._states and len(self._states) >= MAX_THINGS):
                continue
            known = self._states.setdefault(name, {})
            for key, value in values.items():
                if _name(key) is None or (key not in known and len(known) >= MAX_MEMBERS):
                    continue
                if isinstance(value, bool | int | float):
                    known[key] = value
                elif isinstance(value, str):
                    known[key] = bounded_text(value, limit=VALUE_LIMIT)

    def state(self, thing: str, property_name: str) -> Value | None:
        """The last value that the device reported, None before the first."""
        return self._states.get(thing, {}).get(property_name)

    def states(self) -> dict[str, dict[str, Value]]:
        """Everything reported, by thing: a copy."""
        return {name: dict(values) for name, values in self._states.items()}

    def tools(self) -> Iterator[StateTool | MethodTool]:
        """Every readable property and every method, in the order the device told them."""
        for thing in self.things.values():
            for member in thing.properties:
                yield StateTool(f"get_{_snake(thing.name)}_{_snake(member.name)}", thing.name, member)
            for method in thing.methods:
                yield MethodTool(f"{thing.name}.{method.name}", thing.name, method)

    def method(self, thing: str, method: str) -> Method | None:
        """The method of a thing, None when the device has no such."""
        described = self.things.get(thing)
        return next((known for known in described.methods if known.name == method), None) if described else None

    def command(self, thing: str, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One entry of an ``iot`` message's ``commands``. Raises ArgumentError when it cannot be complete."""
        described = self.method(thing, method)
        if described is None:
            raise ArgumentError(f"The device has no {thing}.{method}")
        parameters: dict[str, Any] = {}
        for member in described.parameters:
            if arguments.get(member.name) is None:
                raise ArgumentError(f"Missing argument: {member.name}")
            parameters[member.name] = fit_value(member.name, {"type": _SCHEMA_TYPES[member.type]}, arguments[member.name])
        return {"name": thing, "method": method, "parameters": parameters}


def _read_thing(entry: object) -> Thing | None:
    if not isinstance(entry, dict):
        return None
    name = _name(entry.get("name"))
    if name is None:
        return None
    methods = []
    for method_name, described in _entries(entry.get("methods")):
        parameters = described.get("parameters")
        members = tuple(_members(parameters))
        if isinstance(parameters, dict) and len(members) != len(parameters):
            continue  # a call without the parameter we could not read may crash the device
        methods.append(Method(method_name, bounded_text(described.get("description"), limit=DESCRIPTION_LIMIT), members))
    return Thing(
        name,
        bounded_text(entry.get("description"), limit=DESCRIPTION_LIMIT),
        tuple(_members(entry.get("properties"))),
        tuple(methods),
    )


def _members(described: object) -> Iterator[Member]:
    for name, member in _entries(described):
        kind = member.get("type")
        if isinstance(kind, str) and kind in _SCHEMA_TYPES:
            yield Member(name, bounded_text(member.get("description"), limit=DESCRIPTION_LIMIT), kind)


def _entries(described: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(described, dict):
        return
    for key, value in list(described.items())[:MAX_MEMBERS]:
        if _name(key) is not None and isinstance(value, dict):
            yield key, value


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= NAME_LIMIT and value.isprintable() else None


def _snake(name: str) -> str:
    return _HUMP.sub("_", name).lower()
