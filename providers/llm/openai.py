"""A language model behind an OpenAI-compatible endpoint: OpenAI, Ollama, vLLM, llama-server, DeepSeek, Qwen, Groq, LM Studio, …"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from providers import openai_sdk
from providers.base import ChatEvent, Llm, Message, ProviderError, ProviderTimeout, ProviderUnavailable, ToolSpec, Usage
from providers.llm.completion import AnswerParser, dump_messages, dump_tools
from settings.providers import OpenAiLlm

if TYPE_CHECKING:
    from openai import AsyncStream
    from openai.types.chat import ChatCompletionChunk

    from providers.models import ModelStore

_log = structlog.get_logger(__name__)

PROVIDER = "openai"
MAX_CHUNKS = 32768
"""An answer that never ends (a model that reasons in circles) is cut here."""


def build(config: OpenAiLlm, *, store: ModelStore) -> Llm:
    del store  # the weights are elsewhere
    return OpenAiChat(config)


@dataclass(slots=True)
class OpenAiChatStats:
    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What this endpoint accepts; learned from its refusals, kept once a request without the offending member passes."""

    usage: bool = True
    usage_proven: bool = False
    temperature: bool = True
    max_completion_tokens: bool = False

    def without_cause_of(self, complaint: str, request: dict[str, Any]) -> _Dialect | None:
        """The dialect to try after this refusal (status 400 or 422), or None when nothing of ours can be its cause."""
        if "max_completion_tokens" in complaint and "max_tokens" in request:
            return replace(self, max_completion_tokens=True)
        if "temperature" in complaint and "temperature" in request:
            return replace(self, temperature=False)
        if "stream_options" in request and not self.usage_proven:
            return replace(self, usage=False)  # older servers refuse it, some without a word about it
        return None


class OpenAiChat:
    """See :class:`providers.base.Llm`.

    ``timeout_s`` is the longest wait for the next piece, the first one included. The SDK repeats a request that fails
    before it is answered (connection, 408, 409, 429, 5xx) up to ``retries`` times within that; nothing is repeated afterwards.
    """

    def __init__(self, config: OpenAiLlm) -> None:
        self.tools = config.tools
        self.languages: frozenset[str] | None = None
        self.stats = OpenAiChatStats()
        self._config = config
        self._dialect = _Dialect()
        self._client = openai_sdk.Client(config, provider=PROVIDER)

    async def warm(self, prefix: Sequence[Message] = ()) -> None:
        """Import the SDK and open a connection; an endpoint that is down is no error yet. Raises ProviderRejected."""
        del prefix  # evaluating it would cost tokens; endpoints that cache prefixes do so by themselves
        await self._client.warm()

    async def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        """See the protocol. Closing the generator closes the connection, which makes the endpoint stop."""
        self.stats.requests += 1
        done = False
        try:
            stream = await self._open(dump_messages(history), dump_tools(tools) if self.tools else [])
            try:
                parser = AnswerParser()
                chunks = 0
                if (whole := await self._unstreamed(stream)) is not None:
                    chunks = 1
                    for event in parser.feed(whole):
                        yield event
                while not whole and chunks < MAX_CHUNKS and (chunk := await self._next(stream)) is not None:
                    chunks += 1
                    for event in parser.feed(chunk):
                        yield event
                self._check_length(chunks)
                for event in parser.finish():
                    self._count(event)
                    yield event
                done = True
            finally:
                await stream.close()
        except ProviderError:
            done = True
            self.stats.failed += 1
            raise
        finally:
            self.stats.cancelled += not done

    async def aclose(self) -> None:
        """Close the connection pool; idempotent."""
        await self._client.aclose()

    async def _open(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> AsyncStream[ChatCompletionChunk]:
        """The answer's stream, with as much of the request as this endpoint understands."""
        sdk = await self._client.get()
        import openai

        dialect = self._dialect
        while True:
            request = self._request(messages, tools, dialect)
            with openai_sdk.translated_errors(PROVIDER, self._config.base_url):
                try:
                    async with self._deadline():
                        stream: AsyncStream[ChatCompletionChunk] = await sdk.chat.completions.create(**request)
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    other = dialect.without_cause_of(str(error).lower(), request)
                    if other is None:
                        raise
                    dialect = other
                else:
                    self._dialect = replace(dialect, usage_proven=dialect.usage)
                    return stream

    def _request(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], dialect: _Dialect) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self._config.model, "messages": messages, "stream": True}
        if dialect.usage:
            request["stream_options"] = {"include_usage": True}
        if dialect.temperature and self._config.temperature is not None:
            request["temperature"] = self._config.temperature
        if self._config.max_tokens is not None:
            request["max_completion_tokens" if dialect.max_completion_tokens else "max_tokens"] = self._config.max_tokens
        if tools:
            request["tools"] = tools
        return request

    async def _unstreamed(self, stream: AsyncStream[ChatCompletionChunk]) -> dict[str, Any] | None:
        """The whole answer of an endpoint that cannot stream and sends one JSON object; None when it streams."""
        response = stream.response
        if not response.headers.get("content-type", "").lower().startswith("application/json"):
            return None
        with openai_sdk.translated_errors(PROVIDER, self._config.base_url):
            async with self._deadline():
                body = await response.aread()
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return answer if isinstance(answer, dict) and answer.get("choices") else None

    async def _next(self, stream: AsyncStream[ChatCompletionChunk]) -> dict[str, Any] | None:
        """The next chunk as a JSON object, None at the end."""
        try:
            with openai_sdk.translated_errors(PROVIDER, self._config.base_url):
                async with self._deadline():
                    chunk = await stream.__anext__()
        except StopAsyncIteration:
            return None
        except ValueError as error:
            host = openai_sdk.where(self._config.base_url)
            raise ProviderUnavailable(f"{host} sent a piece of an answer that is not JSON", provider=PROVIDER) from error
        return chunk.to_dict(warnings=False)

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                yield
        except TimeoutError as error:
            host = openai_sdk.where(self._config.base_url)
            message = f"{host} gave nothing for {self._config.timeout_s:g} s; raise llm.timeout_s or use a faster model"
            raise ProviderTimeout(message, provider=PROVIDER) from error

    def _check_length(self, chunks: int) -> None:
        host = openai_sdk.where(self._config.base_url)
        if chunks == 0:
            message = f"{host} answered with nothing that is a stream of chat completions; check base_url"
            raise ProviderUnavailable(message, provider=PROVIDER)
        if chunks == MAX_CHUNKS:
            _log.warning("an answer that did not end was cut", host=host, model=self._config.model, chunks=chunks)

    def _count(self, event: ChatEvent) -> None:
        if isinstance(event, Usage):
            self.stats.prompt_tokens += event.prompt_tokens
            self.stats.completion_tokens += event.completion_tokens
