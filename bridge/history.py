"""What a device and its user have said to each other, as the language model is told it.

Pure. Only what was *heard* is kept: an interrupted answer ends with the last sentence that was played. Tool calls are
kept with their results; a call whose result is missing is repaired, because models refuse a history with dangling calls.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from providers.base import Message

INTERRUPTED = "[interrupted]"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn: what the user said, the tool messages it took, what was heard of the answer."""

    messages: tuple[Message, ...]
    language: str = ""
    """Empty: not known."""


class History:
    """The last ``turns`` exchanges."""

    __slots__ = ("_exchanges", "_turns")

    def __init__(self, *, turns: int) -> None:
        self._turns = turns
        self._exchanges: list[Exchange] = []  # an empty deque has 700 bytes, and every device that idles has a history

    def __len__(self) -> int:
        return len(self._exchanges)

    def messages(self, *, languages: Collection[str] | None = None) -> list[Message]:
        """All messages, oldest first; a valid history for any chat model.

        ``languages``: only the exchanges in these, for a small model that goes on in whatever language it is shown.
        """
        return [
            message
            for exchange in self._exchanges
            if languages is None or not exchange.language or exchange.language.partition("-")[0] in languages
            for message in exchange.messages
        ]

    def add(self, *, user: str, heard: Sequence[str], tools: Sequence[Message] = (), interrupted: bool = False, language: str = "") -> None:
        """Append a finished turn. ``tools`` are the assistant and tool messages of its tool rounds."""
        messages = [Message("user", user)] if user else []
        messages += repaired(tools)
        said = " ".join(heard)
        if interrupted:
            said = f"{said} {INTERRUPTED}".strip()
        if said:
            messages.append(Message("assistant", said))
        if messages:
            self._exchanges.append(Exchange(tuple(messages), language))
            del self._exchanges[: -self._turns or None]

    def clear(self) -> None:
        self._exchanges.clear()


def repaired(messages: Sequence[Message]) -> list[Message]:
    """The messages, with a result for every tool call and no result without its call."""
    answered = {message.tool_call_id for message in messages if message.role == "tool"}
    called = {call.id for message in messages for call in message.tool_calls}
    out: list[Message] = []
    for message in messages:
        if message.role == "tool" and message.tool_call_id not in called:
            continue
        out.append(message)
        out += [Message("tool", "no result: interrupted", tool_call_id=call.id) for call in message.tool_calls if call.id not in answered]
    return out
