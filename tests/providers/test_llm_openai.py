"""The OpenAI-compatible language model against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import SecretStr

from providers.base import Message, ProviderRejected, ProviderTimeout, ProviderUnavailable, TextDelta, ToolCall, ToolSpec, Usage
from providers.llm.openai import OpenAiChat
from settings.providers import OpenAiLlm
from tests.providers.chat_server import ChatServer, raw, refuses, says, serving

HELLO = [Message("user", "Hello")]
LAMP = ToolSpec("lamp", "Switches the lamp.", {"type": "object", "properties": {"on": {"type": "boolean"}}})
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    server = ChatServer()
    async with serving(server):
        yield server


def chat_with(server: ChatServer, **options: Any) -> OpenAiChat:
    base: dict[str, Any] = {"base_url": server.base_url, "api_key": SecretStr("sk-test"), "model": "m", "timeout_s": 10}
    return OpenAiChat(OpenAiLlm(**(base | options)))


async def answer(llm: OpenAiChat, *, tools: tuple[ToolSpec, ...] = (), into: list[Any] | None = None, close: bool = True) -> list[Any]:
    """The events, in ``into`` also when an error ends them."""
    got: list[Any] = [] if into is None else into
    try:
        async with aclosing(llm.chat(HELLO, tools)) as events:
            async for event in events:
                got.append(event)  # noqa: PERF401 - what came before an error counts
    finally:
        if close:
            await llm.aclose()
    return got


async def test_streams_text_then_usage(server: ChatServer) -> None:
    server.scripts = [says("<think>easy</think>", "Hel", "lo.", USAGE)]
    llm = chat_with(server, temperature=0.5, max_tokens=9)
    assert await answer(llm) == [TextDelta("Hel"), TextDelta("lo."), Usage(5, 2)]
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "max_tokens": 9,
        }
    ]
    assert server.keys == ["Bearer sk-test"]
    assert (llm.stats.requests, llm.stats.prompt_tokens, llm.stats.completion_tokens, llm.stats.cancelled) == (1, 5, 2, 0)


async def test_tool_calls_come_whole(server: ChatServer) -> None:
    def piece(**function: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}}]}

    server.scripts = [says(piece(name="lamp", arguments=""), piece(arguments='{"o'), piece(arguments='n":true}'))]
    assert await answer(chat_with(server), tools=(LAMP,)) == [ToolCall("c1", "lamp", {"on": True})]
    assert server.requests[0]["tools"][0]["function"]["name"] == "lamp"


async def test_tools_are_not_offered_when_switched_off(server: ChatServer) -> None:
    server.scripts = [says("Hi")]
    assert await answer(chat_with(server, tools=False), tools=(LAMP,)) == [TextDelta("Hi")]
    assert "tools" not in server.requests[0]


async def test_first_piece_comes_before_the_last(server: ChatServer) -> None:
    server.scripts = [says("one", 30.0, "two")]
    llm = chat_with(server)
    async with aclosing(llm.chat(HELLO)) as events:
        assert await anext(events) == TextDelta("one")
    assert llm.stats.cancelled == 1
    server.scripts = [says("again")]
    assert await answer(llm) == [TextDelta("again")]


async def test_cancellation_leaves_the_provider_usable(server: ChatServer) -> None:
    server.scripts = [says(30.0, "late")]
    llm = chat_with(server)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), aclosing(llm.chat(HELLO)) as events:
            await anext(events)
    server.scripts = [says("again")]
    assert await answer(llm) == [TextDelta("again")]


async def test_stall_before_the_first_piece(server: ChatServer) -> None:
    server.scripts = [says(30.0, "late")]
    llm = chat_with(server, timeout_s=0.3, retries=3)
    with pytest.raises(ProviderTimeout):
        await answer(llm)
    assert llm.stats.failed == 1


async def test_stall_half_way(server: ChatServer) -> None:
    server.scripts = [says("one", 30.0, "two")]
    got: list[Any] = []
    llm = chat_with(server, timeout_s=0.3)
    with pytest.raises(ProviderTimeout):
        await answer(llm, into=got)
    assert got == [TextDelta("one")]
    assert len(server.requests) == 1


async def test_wrong_key_is_not_repeated_and_not_told(server: ChatServer) -> None:
    server.scripts = [refuses(401, "Incorrect API key provided: sk-test")]
    with pytest.raises(ProviderRejected) as caught:
        await answer(chat_with(server, retries=3))
    assert "sk-test" not in str(caught.value)
    assert len(server.requests) == 1


async def test_fault_is_repeated(server: ChatServer) -> None:
    server.scripts = [refuses(500, "oops"), says("Hi")]
    assert await answer(chat_with(server, retries=1)) == [TextDelta("Hi")]
    assert len(server.requests) == 2


async def test_fault_that_stays(server: ChatServer) -> None:
    server.scripts = [refuses(500, "oops")]
    with pytest.raises(ProviderUnavailable):
        await answer(chat_with(server, retries=0))


async def test_disconnect_half_way_is_not_repeated(server: ChatServer) -> None:
    server.scripts = [says("one", None)]
    llm = chat_with(server, retries=3)
    got: list[Any] = []
    with pytest.raises(ProviderUnavailable):
        await answer(llm, into=got)
    assert got == [TextDelta("one")]
    assert len(server.requests) == 1


async def test_nobody_listens() -> None:
    llm = OpenAiChat(OpenAiLlm(base_url="http://127.0.0.1:9/v1", retries=0, timeout_s=5))
    with pytest.raises(ProviderUnavailable):
        await answer(llm)


async def test_warm_survives_a_dead_endpoint() -> None:
    llm = OpenAiChat(OpenAiLlm(base_url="http://127.0.0.1:9/v1", retries=0))
    await llm.warm([Message("system", "x")])
    await llm.aclose()
    await llm.aclose()


async def test_server_that_refuses_stream_options(server: ChatServer) -> None:
    server.scripts = [refuses(400, "extra fields not permitted"), says("Hi")]
    llm = chat_with(server)
    assert await answer(llm, close=False) == [TextDelta("Hi")]
    assert [("stream_options" in request) for request in server.requests] == [True, False]
    await answer(llm)
    assert "stream_options" not in server.requests[2]


async def test_model_that_wants_other_options(server: ChatServer) -> None:
    server.scripts = [
        refuses(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refuses(400, "Unsupported value: 'temperature' does not support 0.5 with this model."),
        says("Hi"),
    ]
    assert await answer(chat_with(server, temperature=0.5, max_tokens=9)) == [TextDelta("Hi")]
    assert server.requests[2] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 9,
    }


async def test_bad_request_is_told(server: ChatServer) -> None:
    server.scripts = [refuses(400, "this is too long")]
    with pytest.raises(ProviderRejected, match="too long"):
        await answer(chat_with(server))
    assert len(server.requests) == 2  # the second without stream_options


async def test_error_inside_the_stream(server: ChatServer) -> None:
    server.scripts = [says("one", {"error": {"message": "out of memory"}})]
    with pytest.raises(ProviderUnavailable):
        await answer(chat_with(server))


async def test_an_endpoint_that_cannot_stream(server: ChatServer) -> None:
    """It sends one JSON object, whatever ``stream`` says."""
    call = {"id": "c1", "type": "function", "function": {"name": "lamp", "arguments": '{"on": true}'}}
    message = {"role": "assistant", "content": "<think>easy</think>Hello. How are you?", "tool_calls": [call]}
    whole = {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    server.scripts = [raw(json.dumps(whole | {"usage": USAGE["usage"]}), "application/json; charset=utf-8")]
    assert await answer(chat_with(server), tools=(LAMP,)) == [
        TextDelta("Hello. How are you?"),
        ToolCall("c1", "lamp", {"on": True}),
        Usage(5, 2),
    ]


@pytest.mark.parametrize("body", ["{", "[]", '{"error": {"message": "no"}}', '{"choices": []}', '{"choices": null}', "[" * 5000])
async def test_json_that_is_no_answer(server: ChatServer, body: str) -> None:
    server.scripts = [raw(body, "application/json")]
    with pytest.raises(ProviderUnavailable):
        await answer(chat_with(server))


@pytest.mark.parametrize("script", [raw("data: {oops\n\n"), raw("<html>hello</html>", "text/html"), raw("data: [DONE]\n\n")])
async def test_answers_that_are_none(server: ChatServer, script: Any) -> None:
    server.scripts = [script]
    with pytest.raises(ProviderUnavailable):
        await answer(chat_with(server))


async def test_answers_with_odd_chunks(server: ChatServer) -> None:
    server.scripts = [says({"choices": None}, {"choices": [{"delta": None}]}, {"choices": [{"delta": {"content": 3}}]}, "Hi")]
    assert await answer(chat_with(server)) == [TextDelta("Hi")]
