"""The default models on this machine: the stages of a turn, and the event loop's lag while many devices talk to them.

The shipped questions ask for the time, which the intents answer without the language model; a second run with intents
off shows its share. Stages are counted from the end of speech as the server hears it (``/metrics``).
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.child import Child
from bench.devices import Plan
from bench.report import Options, Row, median
from bench.turns import converse, server

STAGES = {
    "committed": "utterance ends",
    "asr_final": "text",
    "llm_first": "first of the answer",
    "tts_first": "voice",
    "first_packet": "first audio",
}
QUESTIONS = {"English": Path("examples/question_en.wav"), "Chinese": Path("examples/question_zh.wav")}
_STAGE = re.compile(r'^xiaozhi_turn_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', re.MULTILINE)


class Stages:
    """Reads the server's stage times: turns do not overlap, so the differences of the sums are single turns."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = self._read()

    def take_ms(self) -> dict[str, float]:
        """Mean milliseconds of each stage over the turns since the last call."""
        now, before = self._read(), self._before
        self._before = now
        counts = {stage: now.get(("count", stage), 0) - before.get(("count", stage), 0) for stage in STAGES}
        sums = {stage: now.get(("sum", stage), 0) - before.get(("sum", stage), 0) for stage in STAGES}
        return {stage: sums[stage] / counts[stage] * 1000 for stage in STAGES if counts[stage]}

    def _read(self) -> dict[tuple[str, str], float]:
        with urllib.request.urlopen(self._url, timeout=10) as answer:  # noqa: S310 - our own server
            text = answer.read().decode()
        return {(kind, stage): float(value) for kind, stage, value in _STAGE.findall(text)}


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    with server(options) as bridge:
        urls = _warm(bridge)
        for language in QUESTIONS:
            yield from _stages(bridge, urls, language, turns=2 if options.quick else 4)
        if not options.quick:
            yield from _lag(bridge, urls)
    if not options.quick:
        with server(options, settings={"intent.kind": "none"}) as bridge:
            yield from _stages(bridge, _warm(bridge), "English", turns=4, suffix=", intents off")


def _warm(bridge: Child) -> dict[str, str]:
    """The server's addresses, once all its engines are loaded."""
    urls: dict[str, str] = bridge.hear()
    while not bridge.ask({})["warm"]:
        time.sleep(0.2)  # noqa: TID251 - a process that only waits
    return urls


def _stages(bridge: Child, urls: dict[str, str], language: str, *, turns: int, suffix: str = "") -> Iterator[Row]:
    stages = Stages(urls["metrics_url"])
    plan = asdict(Plan(ota_url=urls["ota_url"], recording=str(QUESTIONS[language]), devices=1))
    each: list[dict[str, float]] = []
    for _ in range(turns):
        converse(bridge, urls["ota_url"], plan)
        each.append(stages.take_ms())
    for stage, meaning in STAGES.items():
        took = [turn[stage] for turn in each if stage in turn]
        if took:
            note = f"first turn {took[0]:.0f} ms; median of {len(took)}"
            yield Row(
                part="models", case=f"{language} question{suffix}: end of speech to {meaning}", value=median(took), unit="ms", note=note
            )


def _lag(bridge: Child, urls: dict[str, str]) -> Iterator[Row]:
    plan = Plan(ota_url=urls["ota_url"], recording=str(QUESTIONS["English"]), devices=20, turns=2, pause_s=8, seconds=30)
    result = converse(bridge, urls["ota_url"], asdict(plan))
    heard: dict[str, Any] = result.server
    note = f"{len(result.turns)} turns in 30 s"
    for name in ("p50", "p99", "max"):
        yield Row(part="loop", case=f"lag {name}, 20 devices on the default models", value=heard[f"lag_{name}_ms"], unit="ms", note=note)
