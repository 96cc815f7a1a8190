"""The messages that a connection has taken and its peer may not have received (pure)."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

Message = TypeVar("Message")

MAX_KEPT: Final = 64
"""Beyond, the oldest is taken for received: a peer that has let so many wait is cut off before long."""


class Unconfirmed(Generic[Message]):
    """Counts the bytes of one stream; acknowledgements come in the order of the bytes."""

    __slots__ = ("_kept", "_written")

    def __init__(self) -> None:
        self._written = 0
        self._kept: deque[tuple[int, Message]] = deque(maxlen=MAX_KEPT)

    def __bool__(self) -> bool:
        return bool(self._kept)

    def wrote(self, size: int) -> None:
        """So many bytes went out."""
        self._written += size

    def sent(self, message: Message) -> None:
        """``message`` ends with the byte that was written last."""
        self._kept.append((self._written, message))

    def confirm(self, *, unacknowledged: int) -> None:
        """All but the last ``unacknowledged`` bytes have arrived. Too high a number (encryption adds bytes) keeps more."""
        arrived = self._written - unacknowledged
        while self._kept and self._kept[0][0] <= arrived:
            self._kept.popleft()

    @property
    def messages(self) -> list[Message]:
        """Those that are not confirmed, oldest first."""
        return [message for _, message in self._kept]
