"""Who has connected and not yet proved who they are: bounded in all and for each source (pure).

A device passes within milliseconds; who stays is slow or has come to stay. So the one that has waited longest gives way to the
newest, and nobody can lock devices out by filling the lobby.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Guest = TypeVar("Guest")


class Lobby(Generic[Guest]):
    """Guests in the order of their arrival. They must be hashable; each may be inside once."""

    __slots__ = ("_by_source", "_guests", "_max_guests", "_max_per_source")

    def __init__(self, *, max_guests: int, max_per_source: int) -> None:
        self._max_guests = max_guests
        self._max_per_source = max_per_source
        self._guests: dict[Guest, str] = {}
        self._by_source: dict[str, dict[Guest, None]] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, guest: Guest, source: str) -> Guest | None:
        """Let ``guest`` in; returns who has to go for it, and is inside no longer. An empty source has no bound of its own."""
        self._guests[guest] = source
        if source:
            self._by_source.setdefault(source, {})[guest] = None
            if len(self._by_source[source]) > self._max_per_source:
                return self._dismiss(next(iter(self._by_source[source])))
        return self.oldest_leaves() if len(self._guests) > self._max_guests else None

    def leave(self, guest: Guest) -> None:
        """``guest`` has proved who it is, or is gone. Harmless when it is not inside."""
        if guest in self._guests:
            self._dismiss(guest)

    def oldest_leaves(self) -> Guest | None:
        """Who has waited longest, and is inside no longer; None when nobody is."""
        return self._dismiss(next(iter(self._guests))) if self._guests else None

    def _dismiss(self, guest: Guest) -> Guest:
        source = self._guests.pop(guest)
        if source:
            here = self._by_source[source]
            del here[guest]
            if not here:
                del self._by_source[source]
        return guest
