"""The thread an engine runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from providers.base import ProviderUnavailable

T = TypeVar("T")


class Worker:
    """One thread with one owner: engine calls run in order, one at a time, off the event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tts-{name}")

    async def run(self, call: Callable[[], T]) -> T:
        """The result of ``call``, made in the thread. Raises what it raises, and ProviderUnavailable after :meth:`close`.

        Cancelled while waiting its turn, the call is not made; cancelled while it runs, it ends in the background and its
        result is dropped.
        """
        if self._closed:
            raise ProviderUnavailable("the voice has been closed", provider=self._name)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Take no more calls and drop those that wait; one that runs ends by itself. Idempotent."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
