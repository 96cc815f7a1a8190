"""Which worker answers a device at the user's broker, where every worker hears every device (P).

A device belongs to its *home*, which its id alone decides. While the home does not serve, another worker stands in; devices
whose home serves never move. All workers must agree at any time, so a change has two steps: first each gives up what it
will not have (:meth:`Share.prepare`); when all have, each takes what it is to have (:meth:`Share.settle`). In between
nobody answers the devices that move. At no time do two.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b


def owner_of(device_id: str, *, count: int, members: Sequence[int]) -> int | None:
    """The worker that answers this device. ``members``: those of ``count`` that serve, in ascending order; none: nobody does."""
    if not members:
        return None
    number = int.from_bytes(blake2b(device_id.encode(), digest_size=8).digest())
    rest, home = divmod(number, count)
    return home if home in members else members[rest % len(members)]


class Share:
    """The devices of worker ``index`` of ``count``; none before the first :meth:`settle`."""

    __slots__ = ("_count", "_index", "_members", "_next")

    def __init__(self, index: int, *, count: int) -> None:
        self._index = index
        self._count = count
        self._members: tuple[int, ...] = ()
        self._next: tuple[int, ...] | None = None

    def has(self, device_id: str) -> bool:
        """Whether this worker answers the device now."""
        return self._owns(device_id, self._members) and (self._next is None or self._owns(device_id, self._next))

    def prepare(self, members: Sequence[int]) -> None:
        """These workers will serve: what is not ours then is ours no longer."""
        self._next = tuple(members)

    def settle(self, members: Sequence[int]) -> None:
        """These workers serve, and all others have given up what is ours."""
        self._members, self._next = tuple(members), None

    def _owns(self, device_id: str, members: tuple[int, ...]) -> bool:
        return owner_of(device_id, count=self._count, members=members) == self._index
