"""What the server said and when: a bounded list that can be waited on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

MAX_EVENTS: Final = 2000

Message: TypeAlias = dict[str, Any]
Predicate: TypeAlias = Callable[[Message], bool]


@dataclass(frozen=True, slots=True)
class Event:
    """One JSON message. ``index`` counts from 0 over the device's life; ``at_s`` is loop time."""

    index: int
    at_s: float
    message: Message


def is_message(kind: str, **members: object) -> Predicate:
    """True for messages of this type whose members equal these: ``is_message("tts", state="stop")``."""

    def matches(message: Message) -> bool:
        return message.get("type") == kind and all(message.get(name) == value for name, value in members.items())

    return matches


class EventLog:
    """The last 2000 messages, oldest first; older ones are forgotten and counted by :attr:`forgotten`."""

    def __init__(self, *, on_event: Callable[[Event], None] = lambda _: None) -> None:
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._count = 0
        self._waiting: dict[asyncio.Future[Event], Predicate] = {}
        self._on_event = on_event

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    @property
    def forgotten(self) -> int:
        return self._count - len(self._events)

    def mark(self) -> int:
        """The index that the next event will have."""
        return self._count

    def since(self, mark: int) -> list[Event]:
        return [event for event in self._events if event.index >= mark]

    def append(self, message: Message, at_s: float) -> None:
        event = Event(self._count, at_s, message)
        self._count += 1
        self._events.append(event)
        self._on_event(event)
        for future, predicate in tuple(self._waiting.items()):
            if not future.done() and predicate(message):
                future.set_result(event)

    async def wait_for(self, predicate: Predicate, *, timeout_s: float, since: int | None = None) -> Event:
        """The first event at or after mark ``since`` (default: from now on) that matches. Raises TimeoutError."""
        for event in self.since(self._count if since is None else since):
            if predicate(event.message):
                return event
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting[future] = predicate
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            del self._waiting[future]
