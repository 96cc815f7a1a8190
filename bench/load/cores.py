"""Which process runs where: a server and what loads it must not take each other's time (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def pin(cores: Sequence[int]) -> None:
    """Keep this process and all that it starts on these cores; on none in particular if there are none given."""
    if cores:
        os.sched_setaffinity(0, cores)


def end_with_parent() -> None:
    """Get SIGTERM when the process that has started this one is gone: nothing of a bench stays behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def busy_s(cores: Sequence[int]) -> float:
    """Seconds that these cores have worked, for whomever; time that the machine below took away is in it."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    wanted = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
