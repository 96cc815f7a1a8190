"""Every asynchronous test of this package runs on both event loops: asyncio's, and uvloop, which the server uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


@pytest.hookimpl
def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Called by pytest-asyncio 1.x for each test."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
