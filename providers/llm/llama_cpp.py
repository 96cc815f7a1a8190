"""A language model in process: llama.cpp through ``xllamacpp``, on a GGUF file, with the CPU.

llama.cpp blocks, so one worker thread of its own runs it and hands pieces to the loop through a bounded gate. One
conversation is answered at a time; the others wait in line. The key-value cache keeps the longest common prefix of
consecutive prompts: keep the system prompt stable and the first word comes at once.

``xllamacpp.Server`` always opens an HTTP listener as well. It is put on a Unix socket in a private directory that is
deleted as soon as the model is loaded, behind a random key, so that nobody can talk to it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from providers.base import ChatEvent, Llm, Message, ModelMissing, ProviderError, ProviderRejected, ProviderUnavailable, TextDelta, ToolSpec
from providers.llm.completion import AnswerParser, dump_messages, dump_tools
from settings.providers import LlamaCppLlm

if TYPE_CHECKING:
    from providers.models import ModelStore

_log = structlog.get_logger(__name__)

PROVIDER = "llama_cpp"
TOY_MODEL = "smollm2-135m-instruct"
GATE_CHUNKS = 64
"""Pieces that may wait for a slow reader before generation pauses."""
BATCH_TOKENS = 128
"""Prompt tokens evaluated at a stretch: the longest that cancellation waits for."""
REPEAT_PENALTY = 1.1
"""Small models go round in circles without one."""
SILENT = -1


def build(config: LlamaCppLlm, *, store: ModelStore) -> Llm:
    return LlamaCpp(config, store=store)


@dataclass(slots=True)
class LlamaCppStats:
    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    shortened_histories: int = 0


class _ContextExceededError(Exception):
    """The prompt is longer than the context."""


class _Gate:
    """Pieces from the worker thread to one reader on the loop: bounded, and either side may end it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._room = threading.Semaphore(GATE_CHUNKS)
        self.stopped = False

    # worker thread
    def put(self, piece: dict[str, Any]) -> bool:
        """Hand over a piece, waiting for room; True asks llama.cpp to stop."""
        if not self.stopped:
            self._room.acquire()
        if not self.stopped:
            self._send(piece)
        return self.stopped

    def end(self) -> None:
        """No more pieces; never waits."""
        self._send(None)

    def _send(self, piece: dict[str, Any] | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self.stopped = True

    # loop
    async def get(self) -> dict[str, Any] | None:
        piece = await self._pieces.get()
        self._room.release()
        return piece

    def stop(self) -> None:
        self.stopped = True
        self._room.release()


class LlamaCpp:
    """See :class:`providers.base.Llm`. The model is loaded by ``warm`` or the first ``chat``."""

    def __init__(self, config: LlamaCppLlm, *, store: ModelStore) -> None:
        self.tools = config.tools
        self._threads = config.threads or max(1, (os.cpu_count() or 2) - 1)
        self.languages = frozenset({"en"}) if config.model == TOY_MODEL else None
        self.stats = LlamaCppStats()
        self._config = config
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="llama")
        self._server: Any = None
        self._gates: set[_Gate] = set()
        self._closed = False

    async def warm(self, prefix: Sequence[Message] = ()) -> None:
        """Load the model and evaluate the prefix. Idempotent. Raises ModelMissing, ProviderUnavailable.

        Cancellation leaves a load that has begun to finish in the background; the next use finds it done.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._load)
        if prefix:
            request = self._request(prefix, ())
            request |= {"max_tokens": 1, "stream": False}
            if not any(message.role == "user" for message in prefix):
                request["messages"].append({"role": "user", "content": "."})  # some templates insist on one
            await loop.run_in_executor(self._executor, self._server.handle_chat_completions, request)

    async def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        """See the protocol. A history that exceeds the context is answered without its oldest turns.

        Closing the generator stops the model within a token, or within one batch of the prompt.
        """
        self.stats.requests += 1
        messages = list(history)
        while True:
            try:
                async with aclosing(self._answer(messages, tools if self.tools else ())) as events:
                    async for event in events:
                        yield event
            except ProviderError:
                self.stats.failed += 1
                raise
            except _ContextExceededError as error:
                shorter = _without_oldest_turns(messages)
                if len(shorter) == len(messages):
                    self.stats.failed += 1
                    message = "the last message is longer than llm.context_tokens allows"
                    raise ProviderRejected(message, provider=PROVIDER) from error
                self.stats.shortened_histories += 1
                messages = shorter
            else:
                return

    async def aclose(self) -> None:
        """Stop what runs and free the model; idempotent. Answers under way end early, with what they have."""
        if self._closed:
            return
        self._closed = True
        for gate in self._gates:
            gate.stop()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._unload)
        self._executor.shutdown()

    async def _answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AsyncGenerator[ChatEvent, None]:
        if self._closed:
            raise ProviderUnavailable("the language model is closed", provider=PROVIDER)
        gate = _Gate()
        self._gates.add(gate)
        job = asyncio.get_running_loop().run_in_executor(self._executor, self._run, self._request(messages, tools), gate)
        parser = AnswerParser()
        whole = False
        try:
            while (piece := await gate.get()) is not None:
                if error := piece.get("error"):
                    self._raise(error)
                for event in parser.feed(piece):
                    yield event
            await job
            whole = True
            for event in parser.finish():
                if not isinstance(event, TextDelta):
                    self._count(event)
                yield event
        finally:
            gate.stop()
            job.cancel()  # takes it out of the line when it has not begun; one that runs ends by the gate
            self._gates.discard(gate)
            self.stats.cancelled += not whole

    def _count(self, event: ChatEvent) -> None:
        self.stats.prompt_tokens += getattr(event, "prompt_tokens", 0)
        self.stats.completion_tokens += getattr(event, "completion_tokens", 0)

    def _raise(self, error: object) -> None:
        kind = error.get("type") if isinstance(error, dict) else None
        if kind == "exceed_context_size_error":
            raise _ContextExceededError
        text = str(error.get("message", "no reason given") if isinstance(error, dict) else error)[:200]
        raise ProviderError(f"llama.cpp refused the prompt: {text}", provider=PROVIDER)

    def _request(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> dict[str, Any]:
        request: dict[str, Any] = {
            "messages": dump_messages(messages),
            "max_tokens": self._config.max_tokens,
            "temperature": self._config.temperature,
            "repeat_penalty": REPEAT_PENALTY,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": True,
            "return_progress": True,  # a callback after every batch of the prompt, so that it can be cancelled too
            "chat_template_kwargs": {"enable_thinking": False},
        }
        if tools:
            request["tools"] = dump_tools(tools)
        return request

    # -- worker thread -------------------------------------------------------------------------------------------------
    def _run(self, request: dict[str, Any], gate: _Gate) -> None:
        try:
            self._load()
            if not gate.stopped:
                self._server.handle_chat_completions(request, gate.put)
        finally:
            gate.end()

    def _load(self) -> None:
        if self._closed:
            raise ProviderUnavailable("the language model is closed", provider=PROVIDER)
        if self._server is not None:
            return
        try:
            import xllamacpp
        except ImportError as error:
            message = "llm.kind is llama_cpp but the package xllamacpp cannot be loaded: install it or choose another llm"
            raise ProviderUnavailable(message, provider=PROVIDER) from error
        path = _gguf(self._store.resolve(self._config.model))
        with tempfile.TemporaryDirectory(prefix="llama-") as private:
            try:
                self._server = xllamacpp.Server(self._parameters(xllamacpp, path, socket=Path(private) / "llama.sock"))
            except RuntimeError as error:
                message = f"llama.cpp cannot load {path.name}: the file is damaged, or there is not enough memory"
                raise ProviderUnavailable(message, provider=PROVIDER) from error
        _log.info("language model loaded", model=path.name, context_tokens=self._config.context_tokens, threads=self._threads)
        if self._config.model == TOY_MODEL:
            _log.warning(
                "the built-in language model is a toy that chats in simple English and cannot call tools: "
                "configure a real one under llm (any OpenAI-compatible endpoint, or a larger GGUF file)"
            )

    def _unload(self) -> None:
        self._server = None

    def _parameters(self, xllamacpp: Any, path: Path, *, socket: Path) -> Any:
        parameters = xllamacpp.CommonParams()
        parameters.verbosity = SILENT  # llama.cpp's own log goes to stderr, hundreds of lines a load
        parameters.model.path = str(path)
        parameters.n_ctx = self._config.context_tokens
        parameters.n_parallel = 1
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = self._threads
        parameters.cache_ram_mib = 0  # else up to 8 GiB of old prompts
        parameters.hostnames = [str(socket)]  # by its ending .sock it knows that this is no TCP address
        parameters.api_keys = [secrets.token_urlsafe(32)]
        parameters.n_threads_http = 1
        parameters.ui = False
        return parameters


def _gguf(path: Path) -> Path:
    """The GGUF file itself; a directory must hold exactly one."""
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        raise ModelMissing(f"{path} holds {len(files)} GGUF files; name one in llm.model", provider=PROVIDER)
    return files[0]


def _without_oldest_turns(messages: list[Message]) -> list[Message]:
    """Half of the turns; leading system messages and the last turn stay. The same list when there is only one turn."""
    head = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
    starts = [n for n, message in enumerate(messages) if n >= head and message.role == "user"]
    if len(starts) < 2:
        return messages
    return messages[:head] + messages[starts[(len(starts) + 1) // 2] :]
