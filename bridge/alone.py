"""One provider alone, for ``xiaozhi-bridge try``: the result on standard output, what it took on standard error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import typer

from bridge.errors import OperatorError
from bridge.wav import read_wav, write_wav
from providers.base import Message, Pcm, PcmFrame, SpeechToText, TextDelta
from providers.factory import build_asr, build_llm, build_tts, build_vad
from providers.models import ModelStore
from settings.model import SettingsTree

ASR_RATE_HZ = 16000
_FRAME_SAMPLES = 960  # 60 ms, as a device sends them


async def asr(tree: SettingsTree, store: ModelStore, file: Path) -> None:
    samples = read_wav(file, sample_rate_hz=ASR_RATE_HZ)
    provider = build_asr(tree.asr, store=store)
    try:
        await provider.warm()
        clock = asyncio.get_running_loop().time
        begin_s = clock()
        typer.echo(await transcribe(provider, samples))
        typer.echo(f"{len(samples) / ASR_RATE_HZ:.1f} s of audio in {clock() - begin_s:.2f} s", err=True)
    finally:
        await provider.aclose()


async def transcribe(provider: SpeechToText, samples: Pcm) -> str:
    """The final transcript of 16 kHz samples. Raises ProviderError."""

    async def frames() -> AsyncIterator[PcmFrame]:
        for start in range(0, len(samples), _FRAME_SAMPLES):
            yield PcmFrame(samples[start : start + _FRAME_SAMPLES], ASR_RATE_HZ)

    text = ""
    async with aclosing(provider.transcribe(frames())) as transcripts:
        async for transcript in transcripts:
            text = transcript.text
    return text


async def vad(tree: SettingsTree, store: ModelStore, file: Path) -> None:
    samples = read_wav(file, sample_rate_hz=ASR_RATE_HZ)
    provider = build_vad(tree.vad, store=store)
    try:
        await provider.warm()
        stream = provider.open()
        probabilities = await stream.feed(np.concatenate([samples, np.zeros(stream.window_samples, np.int16)]))
        window_s = stream.window_samples / ASR_RATE_HZ
    finally:
        await provider.aclose()
    spans = speech_spans(probabilities, begin=tree.vad.threshold, end=tree.vad.release_threshold)
    for first, last in spans:
        typer.echo(f"speech {first * window_s:6.2f} s - {last * window_s:6.2f} s, at most {max(probabilities[first:last]):.2f}")
    if not spans:
        typer.echo(f"no speech; the highest probability is {max(probabilities, default=0.0):.2f}, the threshold {tree.vad.threshold}")


def speech_spans(probabilities: list[float], *, begin: float, end: float) -> list[tuple[int, int]]:
    """Runs of windows (first, one past the last): from a probability of at least ``begin`` until one below ``end``."""
    spans: list[tuple[int, int]] = []
    first: int | None = None
    for index, probability in enumerate(probabilities):
        if first is None and probability >= begin:
            first = index
        elif first is not None and probability < end:
            spans.append((first, index))
            first = None
    return spans if first is None else [*spans, (first, len(probabilities))]


async def llm(tree: SettingsTree, store: ModelStore, text: str) -> None:
    provider = build_llm(tree.llm, store=store)
    history = [Message("system", tree.assistant.prompt.replace("{name}", tree.assistant.name)), Message("user", text)]
    try:
        await provider.warm()
        clock = asyncio.get_running_loop().time
        begin_s = clock()
        first_s: float | None = None
        async with aclosing(provider.chat(history)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    first_s = clock() - begin_s if first_s is None else first_s
                    typer.echo(event.text, nl=False)
        typer.echo()
        typer.echo(f"first words after {first_s or 0:.2f} s, all after {clock() - begin_s:.2f} s", err=True)
    finally:
        await provider.aclose()


async def tts(tree: SettingsTree, store: ModelStore, text: str, out: Path) -> None:
    provider = build_tts(tree.tts, store=store)
    pieces: list[Pcm] = []
    rate_hz = 0
    try:
        await provider.warm()
        clock = asyncio.get_running_loop().time
        begin_s = clock()
        async with aclosing(provider.synthesize(text)) as frames:
            async for frame in frames:
                pieces.append(frame.samples)
                rate_hz = frame.sample_rate_hz
        took_s = clock() - begin_s
    finally:
        await provider.aclose()
    if not pieces:
        raise OperatorError("There is nothing in this text that can be spoken")
    write_wav(out, pieces, sample_rate_hz=rate_hz)
    typer.echo(f"{out}: {sum(map(len, pieces)) / rate_hz:.1f} s of speech at {rate_hz} Hz in {took_s:.2f} s", err=True)
