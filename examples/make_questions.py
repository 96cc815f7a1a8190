"""Make the example questions with the bridge's own voices: ``python examples/make_questions.py [directory of models]``."""

from __future__ import annotations

import asyncio
import sys
import wave
from contextlib import aclosing
from pathlib import Path

import numpy as np
import soxr

from providers.models import ModelStore
from providers.tts.local import LocalTts
from settings.providers import LocalTts as LocalTtsConfig

QUESTIONS = {"question_en.wav": "What time is it?", "question_zh.wav": "现在几点了？"}
RATE_HZ = 16000  # what devices record
EDGE_S = 0.3  # silence before and after, as a recording has


async def main() -> None:
    models = ModelStore(Path(sys.argv[1] if len(sys.argv) > 1 else "data/models"))
    voice = LocalTts(LocalTtsConfig(), store=models)
    edge = np.zeros(int(RATE_HZ * EDGE_S), dtype=np.int16)
    for name, text in QUESTIONS.items():
        pieces = []
        async with aclosing(voice.synthesize(text)) as frames:
            async for frame in frames:
                pieces.append(frame.samples)
                rate_hz = frame.sample_rate_hz
        speech = soxr.resample(np.concatenate(pieces), rate_hz, RATE_HZ)
        with wave.open(str(Path(__file__).parent / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(np.concatenate([edge, speech, edge]).astype("<i2").tobytes())
        print(name, text)
    await voice.aclose()


if __name__ == "__main__":
    asyncio.run(main())
