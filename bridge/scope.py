"""A task group whose tasks end with its block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Left(Exception):
    """The block has been left."""


@asynccontextmanager
async def task_scope() -> AsyncIterator[asyncio.TaskGroup]:
    """Like :class:`asyncio.TaskGroup`, but leaving the block cancels the tasks and waits for them to be gone.

    A task that fails cancels the others and the block, and its error leaves the block in an ExceptionGroup.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
            raise _Left  # noqa: TRY301 - raising inside is how a group is cancelled
    except* _Left:
        pass
