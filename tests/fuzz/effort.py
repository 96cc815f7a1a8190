"""How long the fuzzers search: some seconds by default, ``FUZZ_EXAMPLES=100000`` for a night."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))


def effort(share: float = 1.0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The hypothesis settings of one fuzzer; ``share`` for those whose examples take longer or shorter."""
    return hypothesis_settings(
        max_examples=max(10, int(EXAMPLES * share)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )
