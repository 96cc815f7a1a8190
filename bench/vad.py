"""Silero: microseconds per window through the whole provider, for one listener and for many at once.

python -m bench.vad
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from providers.models import ModelStore
from providers.vad.silero import WINDOW_SAMPLES, Silero, SileroStream
from settings.providers import SileroVad

WINDOWS = 300


async def listen(stream: SileroStream, audio: np.ndarray[tuple[int], np.dtype[np.int16]]) -> None:
    for start in range(0, len(audio), WINDOW_SAMPLES):
        await stream.feed(audio[start : start + WINDOW_SAMPLES])


async def measure(listeners: int, windows: int) -> None:
    noise = np.random.default_rng(1).normal(0, 1000, windows * WINDOW_SAMPLES).astype(np.int16)
    with TemporaryDirectory() as root:
        vad = Silero(SileroVad(), store=ModelStore(Path(root), offline=True))
        await vad.warm()
        begin, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(listeners):
                group.create_task(listen(vad.open(), noise))
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        done = vad.stats.windows
        print(
            f"{listeners:4} listeners: {wall / done * 1e6:6.0f} us a window, {cpu / done * 1e6:6.0f} us CPU, "
            f"mean batch {done / vad.stats.batches:5.1f}, {0.032 / (cpu / done):5.0f} listeners a core"
        )
        await vad.aclose()


def main() -> None:
    for listeners in (1, 8, 32, 128):
        asyncio.run(measure(listeners, max(WINDOWS * 8 // (8 + listeners), 20)))


if __name__ == "__main__":
    main()
