"""What waits to be sent through a broker (pure): in order for each device, bounded, and held back where nobody listens.

A broker forgets what it cannot deliver at once. So when the broker has been away, the messages for a device are *held*
until the device has shown itself, or its time to come back is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

HELD_PER_DEVICE: Final = 64
"""When full, the oldest goes: the newest says how things stand (``tts stop``, ``goodbye``)."""

Item = tuple[str, bytes]
"""Device id and payload."""


class Outbox:
    """At most `max_messages` that may be sent now; further ones are refused. See the module for what is held back."""

    __slots__ = ("_held", "_max", "_ready", "held_dropped")

    def __init__(self, *, max_messages: int) -> None:
        self._max = max_messages
        self._ready: deque[Item] = deque()
        self._held: dict[str, deque[bytes]] = {}
        self.held_dropped = 0

    def __len__(self) -> int:
        """How many may be sent now."""
        return len(self._ready)

    def put(self, device_id: str, payload: bytes) -> bool:
        """Queue a message; False when it does not fit."""
        held = self._held.get(device_id)
        if held is not None:
            self.held_dropped += len(held) == HELD_PER_DEVICE
            held.append(payload)
            return True
        if len(self._ready) >= self._max:
            return False
        self._ready.append((device_id, payload))
        return True

    def take(self) -> Item | None:
        """The next message to send."""
        return self._ready.popleft() if self._ready else None

    def put_back(self, item: Item) -> None:
        """A message that was taken and could not be sent: it is the next one again, whatever the bound."""
        self._ready.appendleft(item)

    def hold(self, device_ids: Iterable[str]) -> None:
        """From now on these devices' messages wait, those in the queue included; what is queued for others is dropped."""
        for device_id in device_ids:
            self._held.setdefault(device_id, deque(maxlen=HELD_PER_DEVICE))
        waiting, self._ready = self._ready, deque()
        for device_id, payload in reversed(waiting):  # what was ready is older than what has been held
            held = self._held.get(device_id)
            if held is None or len(held) == HELD_PER_DEVICE:
                self.held_dropped += 1
            else:
                held.appendleft(payload)

    def release(self, device_id: str) -> int:
        """The device listens: its held messages may go; how many. Nothing that was held is refused."""
        held = self._held.pop(device_id, None)
        if held is None:
            return 0
        self._ready.extend((device_id, payload) for payload in held)
        return len(held)

    def release_all(self) -> int:
        """All devices had their time; how many messages may go now."""
        return sum(self.release(device_id) for device_id in list(self._held))

    def drop(self, device_id: str) -> None:
        """The device is gone: nothing is held for it any longer. What may be sent is still sent (a goodbye, for one)."""
        self._held.pop(device_id, None)
