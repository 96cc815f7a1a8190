"""Guards around async generators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from providers.base import ProviderTimeout

T = TypeVar("T")


async def patient(stream: AsyncGenerator[T, None], *, seconds: float, what: str) -> AsyncGenerator[T, None]:
    """``stream``, but each piece must come within ``seconds``, else ProviderTimeout. Closes the stream in every case."""
    async with aclosing(stream):
        while True:
            try:
                async with asyncio.timeout(seconds):
                    piece = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ProviderTimeout(f"{what} gave nothing for {seconds:g} s") from None
            yield piece
