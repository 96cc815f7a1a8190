"""What holds for every test: logging is as each test found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Whole programs set logging up for their process; in the tests that process is everybody's."""
    root = logging.getLogger()
    configured, handlers, level = structlog.get_config(), root.handlers[:], root.level
    processors = configured["processors"][:]  # `capture_logs` changes this list in place
    yield
    logging.captureWarnings(False)
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    configured["processors"][:] = processors
    structlog.configure(**configured)
