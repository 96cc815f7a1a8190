"""How many files this process may have open: each connection is one, and many systems allow 1,024 unless a program asks for more."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

MOST: Final = 1 << 20
"""More than any number of devices needs; some systems allow a thousand times as much, and then nothing tells what is meant."""


def attainable() -> int | None:
    """What :func:`raise_limit` brings; None where there is no limit, or no such thing."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return None
    return max(soft, min(hard, MOST))


def raise_limit() -> None:
    """As many as this process, and those that it starts, may have without a privilege."""
    wanted = attainable()
    if wanted is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a system that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
