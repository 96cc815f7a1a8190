"""A language model that repeats what it is told: the smallest provider that does everything a provider must.

In the settings::

    llm:
      kind: echo
      prefix: "You said: "
      words_per_s: 20
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from providers.base import ChatEvent, Message, ProviderRejected, TextDelta, ToolSpec


def build(*, prefix: str = "", words_per_s: float = 20.0) -> Echo:
    """Called with the options that stand beside ``kind``. A ValueError or TypeError is reported as a wrong option."""
    if words_per_s <= 0:
        raise ValueError("words_per_s must be above 0")
    return Echo(prefix, words_per_s)


class Echo:
    """Implements :class:`providers.base.Llm`. It lives as long as the process and keeps nothing of a session."""

    tools = False  # none are offered to it

    def __init__(self, prefix: str, words_per_s: float) -> None:
        self._prefix = prefix
        self._pause_s = 1 / words_per_s

    async def warm(self, prefix: Sequence[Message] = ()) -> None:
        """A real one loads its model or opens its connection here. May be called more than once."""

    async def chat(self, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> AsyncGenerator[ChatEvent, None]:
        """The answer in pieces. Interrupting the user's answer cancels this generator at its next await: nothing is to be cleaned up."""
        if not history or history[-1].role != "user":
            raise ProviderRejected("there is nothing to repeat", provider="echo")  # spoken as an apology, logged as this sentence
        for word in f"{self._prefix}{history[-1].content}".split():
            await asyncio.sleep(self._pause_s)
            yield TextDelta(f"{word} ")

    async def aclose(self) -> None:
        """A real one frees its model or connection here."""
