"""From the user's words to sentences to be spoken: an intent's answer, or the language model with its tool loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import structlog

from bridge.emotions import EMOTIONS, emotion_of
from bridge.history import INTERRUPTED
from bridge.phrases import phrases
from bridge.sentences import CodeFilter, SentenceSplitter
from bridge.streams import patient
from iot.toolbox import ToolBox
from providers.base import Llm, Message, TextDelta, ToolCall, Usage
from providers.tools import ToolResult
from providers.tts.text import speakable

log = structlog.get_logger(__name__)

FILLER_AFTER_S = 1.2
"""Tools that take longer are covered by a short spoken filler, once a turn and only when nothing has been said."""
FIRST_WORDS_AFTER_S = 0.25
"""From the model's first word: then what there is of the first sentence is spoken, if its end has not come."""
_TAG = re.compile(r"\[([a-z]+)\]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One piece to speak: ``text`` is plain words; ``emotion`` one of the 21 names, or None to keep the face."""

    text: str
    emotion: str | None = None


def sentence_of(raw: str) -> Sentence | None:
    """The raw sentence without markup, its emoji or ``[tag]`` turned into an emotion; None when nothing remains.

    A face alone is a sentence with an empty text.
    """
    raw = raw.replace(INTERRUPTED, "")  # small models imitate what they read in the history
    emotion = emotion_of(raw)
    for tag in _TAG.findall(raw):
        if tag in EMOTIONS:
            emotion, raw = tag, raw.replace(f"[{tag}]", "")
    text = speakable(raw)
    if not any(character.isalnum() for character in text):
        text = ""
    return Sentence(text, emotion) if text or emotion else None


@dataclass(slots=True)
class ModelReply:
    """One answer of the language model.

    ``run_tool`` starts a tool call as a task of the session: a barge-in drops its result but does not stop it half-way.
    """

    llm: Llm
    toolbox: ToolBox
    run_tool: Callable[[Coroutine[Any, Any, ToolResult]], asyncio.Task[ToolResult]]
    max_rounds: int
    piece_timeout_s: float
    language: str
    on_first: Callable[[], None]
    tool_messages: list[Message] = field(default_factory=list)
    """The assistant and tool messages of the rounds so far, for the history."""
    end_session: bool = False
    acted: bool = False
    """Tools were called, and none has failed."""
    done: bool = False
    """The tools have said, or left unsaid, all there is to say."""
    _spoke: bool = False
    _first_word_at: float | None = None

    async def sentences(self, history: Sequence[Message]) -> AsyncGenerator[Sentence, None]:
        """The sentences of the answer, as early as they are whole. Raises ProviderError."""
        for last_round in [*[False] * self.max_rounds, True]:
            tools = self.toolbox.specs() if self.llm.tools and not last_round else ()
            calls: list[ToolCall] = []
            prose, splitter = CodeFilter(), SentenceSplitter()
            said: list[str] = []
            stream = self.llm.chat([*history, *self.tool_messages], tools)
            async with aclosing(patient(stream, seconds=self.piece_timeout_s, what="the language model")) as events:
                async for event in events:
                    match event:
                        case TextDelta(text):
                            self.on_first()
                            said.append(text)
                            for sentence in self._spoken(splitter.feed(prose.feed(text)) or self._first_words(splitter)):
                                yield sentence
                        case ToolCall():
                            self.on_first()
                            calls.append(event)
                        case Usage(prompt, completion):
                            log.debug("the model has answered", prompt_tokens=prompt, completion_tokens=completion)
            for sentence in self._spoken([*splitter.feed(prose.flush()), *splitter.flush()]):
                yield sentence
            if not calls:
                return
            self.tool_messages.append(Message("assistant", "".join(said), tool_calls=tuple(calls)))
            async with aclosing(self._answers(calls)) as spoken:
                async for sentence in spoken:
                    yield sentence
            if self.done:
                return

    def _first_words(self, splitter: SentenceSplitter) -> list[str]:
        """Nobody should wait for the end of a long first sentence."""
        now = asyncio.get_running_loop().time()
        if self._first_word_at is None:
            self._first_word_at = now
        return splitter.cut() if not self._spoke and now >= self._first_word_at + FIRST_WORDS_AFTER_S else []

    def _spoken(self, raw: Sequence[str]) -> list[Sentence]:
        sentences = [sentence for piece in raw if (sentence := sentence_of(piece))]
        self._spoke = self._spoke or any(sentence.text for sentence in sentences)
        return sentences

    async def _answers(self, calls: Sequence[ToolCall]) -> AsyncGenerator[Sentence, None]:
        """Run the calls side by side; their results become tool messages, those to be spoken are yielded."""
        running = [self.run_tool(self._run(call)) for call in calls]
        _, pending = await asyncio.wait(running, timeout=FILLER_AFTER_S)
        if pending and not self._spoke:
            self._spoke = True
            yield Sentence(phrases(self.language).one_moment, "thinking")
        if pending:
            await asyncio.wait(running)
        results = [task.result() for task in running]
        for call, result in zip(calls, results, strict=True):
            self.tool_messages.append(Message("tool", result.text, tool_call_id=call.id))
        self.acted = not any(result.is_error for result in results)
        self.done = all(result.next != "ask_model" for result in results)
        self.end_session = any(result.next == "end" for result in results)
        for result in results:
            if result.next in {"speak", "end"} and (sentence := sentence_of(result.text)):
                self._spoke = True
                yield sentence

    async def _run(self, call: ToolCall) -> ToolResult:
        if call.malformed:
            return ToolResult(f"The arguments are not a JSON object: {call.malformed}", is_error=True)
        return await self.toolbox.call(call.name, call.arguments)
