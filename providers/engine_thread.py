"""The one thread in which an engine lives: models that block and are not re-entrant are loaded and used there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from providers.base import ProviderError, ProviderUnavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class EngineThread:
    """Runs functions one after another in a thread of its own. Its owner closes it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        """The bare future of a call, for those who want a callback instead of a task; :meth:`translated` names its errors."""
        try:
            return asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        except RuntimeError as error:  # the executor is shut down
            raise ProviderUnavailable(f"{self._name} is closed", provider=self._name) from error

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What the function returns; what it raises, as a ProviderError.

        When cancelled, a call that has not begun never begins; one that has runs to its end and its result is dropped.
        """
        future = self.submit(function, *args, **kwargs)
        try:
            await asyncio.wait([future])
        finally:
            future.cancel()  # nothing, when it is done
        if failure := self.translated(future):
            raise failure
        return future.result()

    def translated(self, future: asyncio.Future[_T]) -> ProviderError | None:
        """What went wrong with a finished call, in the project's words: engines raise what they like, often plain Exception."""
        if future.cancelled():
            return ProviderUnavailable(f"{self._name} was closed meanwhile", provider=self._name)
        error = future.exception()
        if error is None or isinstance(error, ProviderError):
            return error
        failure = ProviderUnavailable(f"{self._name} failed: {type(error).__name__}: {error}", provider=self._name)
        failure.__cause__ = error
        return failure

    async def aclose(self) -> None:
        """Drop what waits, let what runs end (off the loop). Idempotent."""
        await asyncio.get_running_loop().run_in_executor(None, lambda: self._executor.shutdown(wait=True, cancel_futures=True))
