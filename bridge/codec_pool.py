"""Where speech is encoded, for all turns of the process: whose packets are due first is served first.

When many answers begin at once, each would like to encode seconds ahead. In the order of their asking, the second piece of one
answer waits behind the eighth of another that is needed much later, and is late. So the order is that of the deadlines
(earliest deadline first, Liu and Layland 1973).

One process alone encodes in threads: a burst of answers needs more than one core. A thread pays for that with a wait for the
interpreter's lock after every packet. Where several workers share the cores, each encodes on its event loop, a small piece at a time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


THREADS_PIECE_S = 0.24
LOOP_PIECE_S = 0.12
"""The loop stands still for half a millisecond."""


class CodecPool:
    """Runs short blocking calls, at most ``at_once`` of them, in ``executor``, which remains its owner's; on the loop without one.

    ``at_once``: one or two more than there are threads, so that none idles until the loop hears that it is free; one on the loop.
    Each turn waits for one call at a time, so as many wait as there are turns.
    """

    def __init__(self, executor: Executor | None, *, at_once: int = 1) -> None:
        self.piece_s = LOOP_PIECE_S if executor is None else THREADS_PIECE_S
        """Speech to be encoded in one call: small, so that the first packet does not wait for the whole sentence."""
        self._executor = executor
        self._free = at_once
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    async def run(self, due: float, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``function``'s result, or what it raises. ``due``: loop time at which the result is needed; it may have passed.

        Cancelled while it waits, the function is not called; while it runs in a thread, its result is dropped.
        """
        waits = not self._free
        if waits:
            await self._turn(due)
        else:
            self._free -= 1
        try:
            if self._executor is not None:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))
            if not waits:
                await asyncio.sleep(0)  # between two pieces everybody else has the loop once
            return function(*args, **kwargs)
        finally:
            self._pass_on()

    async def _turn(self, due: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was our turn already
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
