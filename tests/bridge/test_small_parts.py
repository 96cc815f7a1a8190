"""Parts of a few lines: scope, streams, emotions, phrases, address, banner, prompt, metrics."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.address import lan_address
from bridge.banner import Facts, banner
from bridge.emotions import EMOJI, EMOTIONS, emotion_of, known
from bridge.observe import Metrics
from bridge.phrases import language_of, phrases
from bridge.prompt import system_prompt
from bridge.reply import Sentence, sentence_of
from bridge.scope import task_scope
from bridge.streams import patient
from providers.base import ProviderTimeout
from settings.model import Assistant
from tests.virtual_time import run


async def test_leaving_a_scope_ends_its_tasks() -> None:
    ended: list[str] = []

    async def sleeper() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("sleeper")

    async with task_scope() as tasks:
        tasks.create_task(sleeper())
        await asyncio.sleep(0)
    assert ended == ["sleeper"]


async def test_a_task_that_fails_ends_its_scope() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def scope() -> None:
        async with task_scope() as tasks:
            tasks.create_task(fails())
            await asyncio.sleep(3600)

    with pytest.raises(ExceptionGroup) as caught:
        await scope()
    assert caught.group_contains(ValueError, match="broken")


def test_a_stream_that_stalls_times_out_and_is_closed() -> None:
    closed: list[bool] = []

    async def stalls() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(3600)
        finally:
            closed.append(True)

    seen: list[int] = []

    async def main() -> None:
        async for piece in patient(stalls(), seconds=2, what="the engine"):
            seen.append(piece)  # noqa: PERF401 - it raises in the middle

    with pytest.raises(ProviderTimeout, match="the engine gave nothing for 2 s"):
        run(main())
    assert seen == [1]
    assert closed == [True]


def test_check_059_the_21_emotions() -> None:
    assert len(EMOTIONS) == 21
    assert known("happy") == "happy"
    assert known("furious") == "neutral"
    for name, characters in EMOJI.items():
        assert emotion_of(f"well {characters[-1]} then") in EMOTIONS, name
    assert emotion_of("no face") is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("**Hello** there.", Sentence("Hello there.")),
        ("[happy] Hello.", Sentence("Hello.", "happy")),
        ("Oh no 😢", Sentence("Oh no", "crying")),
        ("😂", Sentence("", "funny")),
        ("---", None),
        ("Once upon a time. [interrupted]", Sentence("Once upon a time.")),
        ("[interrupted]", None),
    ],
)
def test_what_is_spoken_of_a_raw_sentence(raw: str, expected: Sentence | None) -> None:
    assert sentence_of(raw) == expected


def test_phrases_by_language() -> None:
    assert phrases("zh-CN") is phrases("zh")
    assert phrases("fr") is phrases("en")
    assert language_of("现在几点了") == "zh"
    assert language_of("打开 Wi-Fi") == "zh"
    assert language_of("What time is it?") == "en"


def test_an_address_of_this_machine_or_none() -> None:
    address = lan_address()
    assert address is None or not ipaddress.ip_address(address).is_loopback


def test_the_banner_names_what_a_user_needs() -> None:
    facts = Facts(
        version="1.2.3",
        host="192.0.2.7",
        found_by_itself=True,
        http_port=8003,
        mqtt_port=1884,
        mqtt_tls_port=8883,
        udp_port=8884,
        enrolment="open",
        vad="silero",
        asr="whisper",
        llm="openai (some-model)",
        tts="local",
        data_dir=Path("data"),
    )
    page = banner(facts)
    for needed in ("http://192.0.2.7:8003/xiaozhi/ota/", "1884, TLS on 8883", "8884", "some-model", "xiaozhi-bridge device"):
        assert needed in page


def test_the_prompt_is_the_same_all_day() -> None:
    assistant = Assistant(name="Ada", prompt="You are {name}.")
    assert system_prompt(assistant, None) == system_prompt(assistant, None)
    assert system_prompt(assistant, None).startswith("You are Ada. Today is ")


@dataclass
class Stats:
    packets: int = 3
    load: float = 0.5
    name: str = "not a number"


def test_counters_of_the_packages_are_metrics() -> None:
    metrics = Metrics()
    metrics.stats.add("udp", Stats)
    metrics.stats.add("bridge", lambda: {"sessions": 2.0})
    text = metrics.exposition().decode()
    assert "xiaozhi_udp_packets_total 3.0" in text
    assert "xiaozhi_udp_load 0.5" in text
    assert "xiaozhi_bridge_sessions 2.0" in text
    assert "not a number" not in text
    assert "# TYPE xiaozhi_loop_lag_seconds histogram" in text
