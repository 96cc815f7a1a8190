"""The language model in process, with the real weights."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers.base import Message, ModelMissing, ProviderRejected, ProviderUnavailable, TextDelta, Usage
from providers.llm.llama_cpp import LlamaCpp
from providers.models import ModelStore
from settings.providers import LlamaCppLlm

SYSTEM = Message("system", "You are a friendly voice assistant in a small speaker. " * 8)
LONG = [SYSTEM, Message("user", "Tell me a very long story about the sea.")]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path, offline=True)


@pytest.fixture
async def llm(store: ModelStore) -> AsyncIterator[LlamaCpp]:
    llm = LlamaCpp(LlamaCppLlm(context_tokens=512, max_tokens=40, temperature=0), store=store)
    yield llm
    await llm.aclose()


async def collect(llm: LlamaCpp, history: list[Message]) -> list[Any]:
    async with aclosing(llm.chat(history)) as events:
        return [event async for event in events]


class Spy:
    """The real engine, with what it gave to each request written down."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.pieces: list[list[dict[str, Any]]] = []

    def handle_chat_completions(self, request: dict[str, Any], callback: Any) -> Any:
        pieces: list[dict[str, Any]] = []
        self.pieces.append(pieces)

        def watch(piece: dict[str, Any]) -> Any:
            pieces.append(piece)
            return callback(piece)

        return self._engine.handle_chat_completions(request, watch)


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.models
async def test_answers_in_pieces(llm: LlamaCpp) -> None:
    events = await collect(llm, [SYSTEM, Message("user", "What is the capital of France?")])
    assert "Paris" in text_of(events)
    assert isinstance(events[-1], Usage)
    assert events[-1].completion_tokens == llm.stats.completion_tokens > 0


@pytest.mark.models
async def test_warm_evaluates_the_prefix(llm: LlamaCpp) -> None:
    await llm.warm([SYSTEM])
    await llm.warm([SYSTEM])
    spy = llm._server = Spy(llm._server)
    await collect(llm, [SYSTEM, Message("user", "Hi")])
    assert spy.pieces[0][-1]["timings"]["cache_n"] > 60


@pytest.mark.models
async def test_closing_frees_the_engine_within_a_token(llm: LlamaCpp) -> None:
    await llm.warm()
    spy = llm._server = Spy(llm._server)
    async with aclosing(llm.chat(LONG)) as events:
        first = await anext(events)
    assert isinstance(first, TextDelta)
    assert llm.stats.cancelled == 1
    assert text_of(await collect(llm, [SYSTEM, Message("user", "What is the capital of France?")]))
    assert len(spy.pieces[0]) < 40  # it would have been more than that without the stop


@pytest.mark.models
async def test_cancelled_in_line_never_runs(llm: LlamaCpp) -> None:
    async with aclosing(llm.chat(LONG)) as running:
        await anext(running)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), aclosing(llm.chat(LONG)) as waiting:
                await anext(waiting)
    assert text_of(await collect(llm, LONG))


@pytest.mark.models
async def test_loop_keeps_running_while_the_model_thinks(llm: LlamaCpp) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    await llm.warm()
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        await collect(llm, LONG)
        ticking.cancel()
    assert ticks >= 5


@pytest.mark.models
async def test_slow_reader_gets_everything(llm: LlamaCpp) -> None:
    await collect(llm, LONG)  # a prompt from the cache may be continued in other words than one just evaluated
    whole = text_of(await collect(llm, LONG))
    slow: list[Any] = []
    async with aclosing(llm.chat(LONG)) as events:
        async for event in events:
            await asyncio.sleep(0.002)
            slow.append(event)
    assert text_of(slow) == whole


@pytest.mark.models
async def test_long_history_loses_its_oldest_turns(llm: LlamaCpp) -> None:
    turns = [Message(role, "word " * 60) for _ in range(8) for role in ("user", "assistant")]
    assert text_of(await collect(llm, [SYSTEM, *turns, Message("user", "What is the capital of France?")]))
    assert llm.stats.shortened_histories > 0


@pytest.mark.models
async def test_message_longer_than_the_context(llm: LlamaCpp) -> None:
    with pytest.raises(ProviderRejected, match="context_tokens"):
        await collect(llm, [Message("user", "word " * 1000)])


@pytest.mark.models
async def test_close_ends_an_answer(llm: LlamaCpp) -> None:
    async with aclosing(llm.chat(LONG)) as events:
        await anext(events)
        await llm.aclose()
        assert len([event async for event in events]) < 40
    with pytest.raises(ProviderUnavailable):
        await collect(llm, LONG)


async def test_missing_model(store: ModelStore) -> None:
    llm = LlamaCpp(LlamaCppLlm(model="no-such-model"), store=store)
    with pytest.raises(ModelMissing):
        await collect(llm, LONG)
    await llm.aclose()


async def test_damaged_model(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    llm = LlamaCpp(LlamaCppLlm(model=str(tmp_path / "broken.gguf")), store=store)
    with pytest.raises(ProviderUnavailable, match=r"broken\.gguf"):
        await llm.warm()
    await llm.aclose()


async def test_directory_with_two_models(store: ModelStore, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    llm = LlamaCpp(LlamaCppLlm(model=str(tmp_path)), store=store)
    with pytest.raises(ModelMissing, match="2 GGUF files"):
        await llm.warm()
    await llm.aclose()


SCRIPT = """
import asyncio, sys
from pathlib import Path
import structlog
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
from providers.llm.llama_cpp import LlamaCpp
from providers.models import ModelStore
from settings.providers import LlamaCppLlm
from providers.base import Message
async def main():
    llm = LlamaCpp(LlamaCppLlm(context_tokens=512, max_tokens=4), store=ModelStore(Path(sys.argv[1]), offline=True))
    await llm.warm([Message("system", "Hi")])
    listening = Path("/proc/net/unix").read_text() if Path("/proc/net/unix").exists() else ""
    assert not [line for line in listening.splitlines() if "llama-" in line and Path(line.split()[-1]).exists()]
    await llm.aclose()
asyncio.run(main())
"""


@pytest.mark.models
def test_native_code_is_quiet_and_out_of_reach(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, timeout=60, check=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert (run.stdout, run.stderr) == (b"", b"")
