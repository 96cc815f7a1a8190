"""The client side of JSON-RPC 2.0 for a device that is an MCP server (P).

What the firmware asks for (device protocol §9): ``id`` is a JSON number that fits int32, ``params`` is always an object, and an
error may come without a code. Answers are matched by id; those of expired or unknown ids are counted and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from iot.bounds import bounded_text

LAST_ID: Final = 2**31 - 1
ERROR_TEXT_LIMIT: Final = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """The request succeeded; ``result`` is whatever JSON value the peer gave."""

    id: int
    result: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer refused. ``message`` is bounded and printable; ``code`` is missing in this firmware."""

    id: int
    message: str
    code: int | None = None


class TableFullError(Exception):
    """Too many requests wait for an answer."""


@dataclass(slots=True)
class RpcStats:
    """Counters of one client."""

    requests: int = 0
    answers: int = 0
    failures: int = 0
    late: int = 0
    garbage: int = 0


class RpcClient:
    """Numbers requests and recognises their answers. Holds no payload, only the ids that wait."""

    __slots__ = ("_max_pending", "_next_id", "_pending", "stats")

    def __init__(self, *, max_pending: int = 32, first_id: int = 1) -> None:
        self.stats = RpcStats()
        self._max_pending = max_pending
        self._next_id = first_id
        self._pending: dict[int, None] = {}  # empty, a third of an empty set; there is one for every device that idles

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return len(self._pending)

    def request(self, method: str, params: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """A new request: its id and its payload. Raises TableFullError when too many wait."""
        if len(self._pending) >= self._max_pending:
            raise TableFullError
        number = self._free_id()
        self._pending[number] = None
        self.stats.requests += 1
        return number, {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params or {})}

    @staticmethod
    def notification(method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """A payload that is never answered."""
        return {"jsonrpc": "2.0", "method": method, "params": dict(params or {})}

    def feed(self, payload: object) -> Answer | Failure | None:
        """The answer in ``payload`` if it belongs to a waiting request, else None. Never raises."""
        if not isinstance(payload, dict) or "method" in payload:
            self.stats.garbage += 1
            return None
        number = _whole_number(payload.get("id"))
        if number is None:
            self.stats.garbage += 1
            return None
        if number not in self._pending:
            self.stats.late += 1
            return None
        self._pending.pop(number, None)
        error = payload.get("error")
        if error is None and "result" in payload:
            self.stats.answers += 1
            return Answer(number, payload["result"])
        self.stats.failures += 1
        return _failure(number, error)

    def abandon(self, number: int) -> None:
        """Forget a request: its answer, should it come, is late."""
        self._pending.pop(number, None)

    def _free_id(self) -> int:
        while self._next_id in self._pending:
            self._next_id = self._next_id % LAST_ID + 1
        number = self._next_id
        self._next_id = number % LAST_ID + 1
        return number


def _whole_number(value: object) -> int | None:
    """JSON 5 and 5.0 are the same number; "5", true and 5.5 are no ids of ours."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def _failure(number: int, error: object) -> Failure:
    code = None
    message: object = error
    if isinstance(error, dict):
        message = error.get("message")
        code = _whole_number(error.get("code"))
    return Failure(number, bounded_text(message, limit=ERROR_TEXT_LIMIT) or "the device reported an error without a text", code)
