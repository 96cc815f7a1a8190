"""Silero: CPU time of a window of 32 ms through the whole provider, for one listener and for many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.report import Options, Row
from providers.base import Pcm
from providers.models import ModelStore
from providers.vad.silero import WINDOW_SAMPLES, Silero, SileroStream
from settings.providers import SileroVad

WINDOWS = 2400
"""Of all listeners together, at least."""


async def listen(stream: SileroStream, audio: Pcm) -> None:
    for start in range(0, len(audio), WINDOW_SAMPLES):
        await stream.feed(audio[start : start + WINDOW_SAMPLES])


async def cpu_us(listeners: int, windows: int) -> tuple[float, float]:
    """Microseconds of CPU time a window, and the mean size of a batch."""
    noise = np.random.default_rng(1).normal(0, 1000, windows * WINDOW_SAMPLES).astype(np.int16)
    with TemporaryDirectory() as root:
        vad = Silero(SileroVad(), store=ModelStore(Path(root), offline=True))
        await vad.warm()
        begin_s = time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(listeners):
                group.create_task(listen(vad.open(), noise))
        used_s = time.process_time() - begin_s
        await vad.aclose()
        return used_s / vad.stats.windows * 1e6, vad.stats.windows / vad.stats.batches


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    for listeners in (1, 32) if options.quick else (1, 8, 32, 128):
        window_us, batch = asyncio.run(cpu_us(listeners, max(WINDOWS // (8 + listeners), 20)))
        note = f"mean batch {batch:.1f}, {32_000 / window_us:.0f} listeners a core"
        yield Row(part="vad", case=f"Silero window, {listeners} listening", value=window_us, unit="us", note=note)
