"""The chat-completions format. The chunks are written by hand after the API reference and after what servers send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import Message, TextDelta, ToolCall, ToolSpec, Usage
from providers.llm.completion import AnswerParser, ThoughtFilter, dump_messages, dump_tools


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members, "finish_reason": None}]}


def call(arguments: str, *, index: int | None = 0, id: str | None = None, name: str | None = None) -> dict[str, Any]:  # noqa: A002
    part: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        part["index"] = index
    if id is not None:
        part |= {"id": id, "type": "function"}
    if name is not None:
        part["function"]["name"] = name
    return delta(tool_calls=[part])


def parse(*chunks: dict[str, Any]) -> list[Any]:
    parser = AnswerParser()
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.finish()


def test_history_becomes_messages() -> None:
    history = [
        Message("system", "Be kind."),
        Message("user", "灯"),
        Message("assistant", "", tool_calls=(ToolCall("c1", "lamp", {"on": True, "色": "红"}),)),
        Message("tool", "done", tool_call_id="c1"),
        Message("assistant", "Done."),
    ]
    assert dump_messages(history) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "灯"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "lamp", "arguments": '{"on": true, "色": "红"}'}}],
        },
        {"role": "tool", "content": "done", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Done."},
    ]


def test_tools_become_functions() -> None:
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}}
    assert dump_tools([ToolSpec("lamp", "Switches the lamp.", schema)]) == [
        {"type": "function", "function": {"name": "lamp", "description": "Switches the lamp.", "parameters": schema}}
    ]


def test_text_comes_piece_by_piece_and_usage_last() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}}
    assert parse(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), usage) == [
        TextDelta("Hel"),
        TextDelta("lo"),
        Usage(12, 3),
    ]


def test_tool_call_arguments_are_put_together() -> None:
    chunks = [
        delta(role="assistant", content=None),
        call("", id="call_1", name="set_volume"),
        call('{"vol'),
        call('ume": 40}'),
        call("", index=1, id="call_2", name="stop"),
    ]
    assert parse(*chunks) == [ToolCall("call_1", "set_volume", {"volume": 40}), ToolCall("call_2", "stop", {})]


def test_servers_that_number_every_call_zero() -> None:
    chunks = [call('{"a": 1}', id="x", name="f"), call('{"b": 2}', id="y", name="g")]
    assert parse(*chunks) == [ToolCall("x", "f", {"a": 1}), ToolCall("y", "g", {"b": 2})]


def test_servers_that_do_not_number_calls() -> None:
    chunks = [call('{"a":', index=None, id="x", name="f"), call(" 1}", index=None), call("{}", index=None, id="y", name="g")]
    assert parse(*chunks) == [ToolCall("x", "f", {"a": 1}), ToolCall("y", "g", {})]


def test_arguments_as_an_object_and_without_an_id() -> None:
    assert parse(delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}])) == [ToolCall("call_0", "f", {"a": 1})]


@pytest.mark.parametrize("text", ['{"volume": ', "[1, 2]", "42", "loud", "[" * 5000])
def test_malformed_arguments_are_marked(text: str) -> None:
    [made] = parse(call(text, id="c", name="f"))
    assert made.arguments == {}
    assert made.malformed == text.strip()[:200]
    assert made.malformed


def test_malformed_call_goes_back_as_an_empty_object() -> None:
    history = [Message("assistant", "", tool_calls=(ToolCall("c", "f", {}, malformed="{oops"),))]
    assert dump_messages(history)[0]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": None},
        {"choices": [None, 3, {"delta": None}, {"delta": {"content": 7, "tool_calls": [None, {}, {"function": 3}, {"index": "x"}]}}]},
        {"choices": {"delta": 1}, "usage": {"prompt_tokens": "many"}},
        {"usage": []},
    ],
)
def test_odd_chunks_are_passed_over(chunk: dict[str, Any]) -> None:
    assert parse(chunk) == []


def test_endless_calls_are_bounded() -> None:
    assert len(parse(*(call("{}", index=n, id=f"c{n}", name="f") for n in range(100)))) == 32


THOUGHTS = [
    ("<think>The user greets.</think>\n\nHello!", "Hello!"),
    ("Hi <think>hm</think> there", "Hi there"),
    ("<thinking>a < b</thinking>Yes", "Yes"),
    ("<think>never ends", ""),
    ("2 < 3 and <this>", "2 < 3 and <this>"),
    ("ends with <thi", "ends with <thi"),
    ("<think></think>", ""),
    ("a</think>b", "a</think>b"),
    ("<think>x</think><think>y</think>z", "z"),
]


@pytest.mark.parametrize(("text", "spoken"), THOUGHTS)
def test_reasoning_is_removed_however_it_is_cut(text: str, spoken: str) -> None:
    for size in range(1, len(text) + 1):
        thoughts = ThoughtFilter()
        pieces = [thoughts.feed(text[start : start + size]) for start in range(0, len(text), size)]
        assert "".join(pieces) + thoughts.finish() == spoken


@given(st.lists(st.text(alphabet="<>/think g", max_size=9)))
def test_cutting_makes_no_difference(pieces: list[str]) -> None:
    whole, cut = ThoughtFilter(), ThoughtFilter()
    text = "".join(pieces)
    assert whole.feed(text) + whole.finish() == "".join([*map(cut.feed, pieces), cut.finish()])
