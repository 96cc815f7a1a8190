"""What waits to be sent on one WebSocket: text and binary messages in one order, bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

MAX_WAITING: Final = 128
"""Messages of one connection: an answer is paced, so a device that lets this many wait has stopped reading."""


class Outbox:
    """A queue with one reader, whose audio can be taken back."""

    def __init__(self) -> None:
        self._waiting: deque[str | bytes] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def put(self, message: str | bytes) -> bool:
        """Append; False when it is full. After :meth:`close` the message is gone, which is no fault of the device: True."""
        if self._closed:
            return True
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(message)
        self._news.set()
        return True

    def take_back_audio(self) -> int:
        """Drop the binary messages that wait; how many they were."""
        kept = [message for message in self._waiting if isinstance(message, str)]
        dropped = len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        return dropped

    def close(self) -> None:
        """Nothing is appended any more; what waits is still handed out."""
        self._closed = True
        self._news.set()

    async def get(self) -> str | bytes | None:
        """The next message; None when the box is closed and empty. Cancelled, it has taken nothing."""
        while not self._waiting:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()
