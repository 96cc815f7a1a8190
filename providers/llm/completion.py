"""The chat-completions format, both ways: history to request, streamed pieces to events.

Pure. Spoken by OpenAI, by most servers of open models and by llama.cpp in process. See OpenAI API reference,
"Create chat completion" and "Chat completion chunk".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from providers.base import ChatEvent, Message, TextDelta, ToolCall, ToolSpec, Usage

MAX_TOOL_CALLS = 32
MAX_ARGUMENT_CHARS = 65536
KEPT_MALFORMED_CHARS = 200

_OPEN = ("<think>", "<thinking>")
_CLOSE = ("</think>", "</thinking>")


def dump_messages(history: Sequence[Message]) -> list[dict[str, Any]]:
    """The ``messages`` member of a request. Tool calls whose arguments were malformed go back as an empty object."""
    return [_dump_message(message) for message in history]


def _dump_message(message: Message) -> dict[str, Any]:
    dumped: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        # An empty string beside tool calls is refused by some servers, null by none that know tools.
        dumped["content"] = message.content or None
        dumped["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        dumped["tool_call_id"] = message.tool_call_id
    return dumped


def dump_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """The ``tools`` member of a request."""
    return [
        {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters}}
        for tool in tools
    ]


@dataclass(slots=True)
class ThoughtFilter:
    """Takes a model's private reasoning (``<think>…</think>``) out of its streamed text, wherever the pieces break.

    Text that may be the beginning of a tag is held back until the next piece decides. Reasoning that never ends is
    dropped. White space after reasoning is dropped too.
    """

    _held: str = ""
    _thinking: bool = False
    _trim: bool = False

    def feed(self, text: str) -> str:
        """What of the text up to now may be spoken; possibly empty."""
        rest = self._held + text
        self._held = ""
        spoken: list[str] = []
        while rest:
            position, tag = _first_tag(rest, _CLOSE if self._thinking else _OPEN)
            if not tag:
                kept = _begun_tag(rest, _CLOSE if self._thinking else _OPEN)
                self._held = rest[len(rest) - kept :]
                rest = rest[: len(rest) - kept]
                if not self._thinking:
                    spoken.append(self._trimmed(rest))
                break
            if not self._thinking:
                spoken.append(self._trimmed(rest[:position]))
            self._trim = self._thinking
            self._thinking = not self._thinking
            rest = rest[position + len(tag) :]
        return "".join(spoken)

    def finish(self) -> str:
        """What was held back, when it turned out to be no tag."""
        held, self._held = self._held, ""
        return "" if self._thinking else self._trimmed(held)

    def _trimmed(self, text: str) -> str:
        if not self._trim:
            return text
        text = text.lstrip()
        if text:
            self._trim = False
        return text


def _first_tag(text: str, tags: tuple[str, ...]) -> tuple[int, str]:
    found = [(position, tag) for tag in tags if (position := text.find(tag)) >= 0]
    return min(found, default=(-1, ""))


def _begun_tag(text: str, tags: tuple[str, ...]) -> int:
    """How many characters at the end of the text may be the beginning of a tag."""
    return max((n for tag in tags for n in range(1, min(len(tag), len(text) + 1)) if text.endswith(tag[:n])), default=0)


@dataclass(slots=True)
class _CallParts:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class AnswerParser:
    """Events of one streamed answer. ``feed`` takes each chunk as a JSON object, ``finish`` gives what was left.
    An answer that came in one piece (``message`` instead of ``delta``) is one chunk.

    Text comes at once. Tool calls come whole, at the end, in the order the model began them. Nothing in a chunk raises:
    members of a wrong type are passed over, since compatible servers differ.
    """

    _thoughts: ThoughtFilter = field(default_factory=ThoughtFilter)
    _calls: dict[int, _CallParts] = field(default_factory=dict)
    _usage: Usage | None = None

    def feed(self, chunk: Mapping[str, Any]) -> list[ChatEvent]:
        """Text events of this chunk."""
        self._usage = _usage_of(chunk.get("usage")) or self._usage
        events: list[ChatEvent] = []
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta", choice.get("message")) if isinstance(choice, Mapping) else None
            if not isinstance(delta, Mapping):
                continue
            content = delta.get("content")
            if isinstance(content, str) and (text := self._thoughts.feed(content)):
                events.append(TextDelta(text))
            calls = delta.get("tool_calls")
            for part in calls if isinstance(calls, list) else ():
                self._feed_call(part)
        return events

    def finish(self) -> list[ChatEvent]:
        """Held text, then the tool calls, then the usage when the server told it."""
        events: list[ChatEvent] = []
        if text := self._thoughts.finish():
            events.append(TextDelta(text))
        events += [_tool_call(number, parts) for number, parts in enumerate(self._calls.values()) if parts.name]
        if self._usage:
            events.append(self._usage)
        return events

    def _feed_call(self, part: object) -> None:
        if not isinstance(part, Mapping):
            return
        parts = self._calls.get(key := self._key_of(part))
        if parts is None:
            if len(self._calls) >= MAX_TOOL_CALLS:
                return
            parts = self._calls[key] = _CallParts()
        if isinstance(given := part.get("id"), str) and given:
            parts.id = given
        function = part.get("function")
        if not isinstance(function, Mapping):
            return
        if isinstance(name := function.get("name"), str) and name and not parts.name:
            parts.name = name
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):  # some servers send the object itself, whole
            arguments = json.dumps(arguments, ensure_ascii=False)
        if isinstance(arguments, str) and parts.size < MAX_ARGUMENT_CHARS:
            parts.arguments.append(arguments)
            parts.size += len(arguments)

    def _key_of(self, part: Mapping[str, Any]) -> int:
        index = part.get("index")
        given = part.get("id")
        if isinstance(index, int):
            known = self._calls.get(index)
            # Some servers number every call 0 and tell them apart by their ids only.
            if known is None or not given or not known.id or known.id == given:
                return index
        for key, parts in self._calls.items():
            if given and parts.id == given:
                return key
        if not given and self._calls:
            return next(reversed(self._calls))
        return max(self._calls, default=-1) + 1


def _usage_of(value: object) -> Usage | None:
    if not isinstance(value, Mapping):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    return Usage(prompt, completion) if isinstance(prompt, int) and isinstance(completion, int) else None


def _tool_call(number: int, parts: _CallParts) -> ToolCall:
    text = "".join(parts.arguments).strip()
    arguments: object = None
    try:
        arguments = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return ToolCall(parts.id or f"call_{number}", parts.name, arguments)
    return ToolCall(parts.id or f"call_{number}", parts.name, {}, malformed=text[:KEPT_MALFORMED_CHARS])
