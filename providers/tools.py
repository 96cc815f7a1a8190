"""Tools that run in this process: an async function with type hints and a docstring, made known to the model.

Pure. The schema comes from the hints, the descriptions from the docstring (first paragraph, and ``Args:`` section)::

    @tool
    async def set_timer(minutes: Annotated[int, Meta(ge=1, le=600)], label: str = "") -> str:
        \"\"\"Start a timer.

        Args:
            minutes: how long
            label: what it is for
        \"\"\"
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import msgspec

from providers.base import ToolSpec

MAX_TEXT_CHARS = 16_000
"""What a tool says is cut here before a model reads it."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_ARGUMENT = re.compile(r"(\w+)(?:\s*\([^)]*\))?:\s+(.*)")


class ToolDefinitionError(TypeError):
    """A function cannot be made a tool: a mistake of its author, told at import."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool says, and what is done with it.

    ``next``: ``ask_model`` gives the text to the model, which answers; ``speak`` says the text as it is; ``silent`` ends
    the turn without a word; ``end`` says the text, if any, and ends the session.
    """

    text: str
    next: Literal["speak", "ask_model", "silent", "end"] = "ask_model"
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A function and what the model is told about it."""

    spec: ToolSpec
    _function: Callable[..., Awaitable[Any]]
    _arguments: type[msgspec.Struct]

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        """Check the arguments and run the function.

        Wrong arguments become an error result that tells the model what is wrong. What the function raises is passed on.
        Cancellation reaches the function.
        """
        unknown = sorted(set(arguments) - set(self._arguments.__struct_fields__))
        if unknown:
            known = ", ".join(self._arguments.__struct_fields__) or "none"
            return ToolResult(f"{self.spec.name} has no argument {', '.join(unknown)[:100]}; it has: {known}.", is_error=True)
        try:
            # Not strict: models write "50" for 50 and "true" for true.
            checked = msgspec.convert(arguments, self._arguments, strict=False)
        except (msgspec.ValidationError, RecursionError) as error:
            return ToolResult(f"Wrong arguments for {self.spec.name}: {str(error).replace('`$.', '`')}.", is_error=True)
        values = {name: getattr(checked, name) for name in self._arguments.__struct_fields__}
        return _result(await self._function(**values))


@overload
def tool(function: Callable[..., Awaitable[Any]], /) -> Tool: ...
@overload
def tool(*, name: str | None = None, description: str | None = None) -> Callable[[Callable[..., Awaitable[Any]]], Tool]: ...
def tool(
    function: Callable[..., Awaitable[Any]] | None = None, /, *, name: str | None = None, description: str | None = None
) -> Tool | Callable[[Callable[..., Awaitable[Any]]], Tool]:
    """Make an async function (or bound method) a :class:`Tool`; to be used as a decorator, with or without options.

    The function returns a :class:`ToolResult`, text, None ("done") or any JSON value. Raises ToolDefinitionError.
    """
    if function is not None:
        return _make(function, name, description)
    return lambda decorated: _make(decorated, name, description)


def _make(function: Callable[..., Awaitable[Any]], name: str | None, description: str | None) -> Tool:
    chosen = name or str(getattr(function, "__name__", ""))
    if not _NAME.fullmatch(chosen):
        raise ToolDefinitionError(f"{chosen!r} is no tool name: 1 to 64 letters, digits, '_' or '-'")
    if not inspect.iscoroutinefunction(function):
        raise ToolDefinitionError(f"the tool {chosen} is not an async function")
    summary, explained = _read_docstring(inspect.getdoc(function) or "")
    if not (description or summary):
        raise ToolDefinitionError(f"the tool {chosen} has no docstring, so no model would know what it is for")
    arguments = _arguments_type(function, chosen)
    return Tool(ToolSpec(chosen, description or summary, _schema(arguments, explained)), function, arguments)


def _arguments_type(function: Callable[..., Awaitable[Any]], name: str) -> type[msgspec.Struct]:
    """A struct whose fields are the parameters."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ToolDefinitionError(f"a type hint of the tool {name} is not defined at module level: {error}") from error
    fields: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
            raise ToolDefinitionError(f"the tool {name} takes {parameter}: only named parameters can be offered to a model")
        if parameter.name not in hints:
            raise ToolDefinitionError(f"the parameter {parameter.name} of the tool {name} has no type hint")
        default = msgspec.UNSET if parameter.default is parameter.empty else parameter.default
        fields.append((parameter.name, hints[parameter.name], default))
    required = [(field, hint) for field, hint, default in fields if default is msgspec.UNSET]
    optional = [(field, hint, _default(default)) for field, hint, default in fields if default is not msgspec.UNSET]
    try:
        return msgspec.defstruct(f"{name}_arguments", [*required, *optional], kw_only=True)
    except TypeError as error:
        raise ToolDefinitionError(f"the tool {name}: {error}") from error


def _default(value: Any) -> Any:
    """msgspec takes mutable defaults only as factories."""
    if isinstance(value, (list, dict, set)):
        return msgspec.field(default_factory=lambda: type(value)(value))
    return value


def _schema(arguments: type[msgspec.Struct], explained: dict[str, str]) -> dict[str, Any]:
    """The JSON schema object of the arguments; nested types stay under ``$defs``."""
    try:
        (_,), components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    except TypeError as error:
        raise ToolDefinitionError(f"a type hint has no JSON schema: {error}") from error
    own = components.pop(arguments.__name__)
    properties: dict[str, Any] = {name: dict(schema) for name, schema in own["properties"].items()}
    for name, text in explained.items():
        if name in properties:
            properties[name].setdefault("description", text)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required := own.get("required"):
        schema["required"] = required
    if components:
        schema["$defs"] = components
    return schema


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph, and what the ``Args:`` section says of each parameter."""
    summary = " ".join(text.split("\n\n", 1)[0].split())
    explained: dict[str, str] = {}
    inside = False
    current = ""
    for line in text.splitlines():
        if line.strip() in {"Args:", "Arguments:"}:
            inside = True
        elif inside and line and not line[0].isspace():
            break
        elif inside and (match := _ARGUMENT.fullmatch(line.strip())):
            current, explained[match[1]] = match[1], match[2]
        elif inside and current and line.strip():
            explained[current] += f" {line.strip()}"
    return summary, explained


def _result(value: Any) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    if value is None:
        return ToolResult("done")
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return ToolResult(text[:MAX_TEXT_CHARS])
