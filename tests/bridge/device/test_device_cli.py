"""The command line, run in a thread beside a scripted server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest

from bridge.device.cli import CliOptions, run
from bridge.device.speech import read_wav, write_wav
from tests.bridge.device.gateway import Gateway
from tests.bridge.device.test_device_turns import Script


@pytest.fixture
async def gateway() -> AsyncGenerator[Gateway]:
    async with Gateway() as server:
        yield server


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    write_wav(path, (np.sin(np.arange(8000) / 5) * 8000).astype(np.int16), sample_rate_hz=16000)
    return path


async def test_one_turn_as_json_lines(gateway: Gateway, question: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reply = tmp_path / "reply.wav"
    options = CliOptions(ota_url=gateway.ota_url, recordings=(question,), reply=reply, json_lines=True, timeout_s=20)
    async with asyncio.TaskGroup() as tasks:
        Script(gateway, tasks)
        code = await asyncio.to_thread(run, options)
    text = capsys.readouterr().out
    assert code == 0
    lines = [json.loads(line) for line in text.splitlines()]
    turn = next(line for line in lines if line["kind"] == "turn")
    assert turn["stt"] == "what time is it"
    assert turn["latencies"]["first_audio_ms"] is not None
    assert len(read_wav(reply)) > 8000
    assert "000102030405060708090a0b0c0d0e0f" not in text, "the audio key is not printed"
    assert gateway.messages[-1]["type"] == "goodbye"


async def test_people_see_the_conversation(gateway: Gateway, question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = CliOptions(ota_url=gateway.ota_url, recordings=(question,), timeout_s=20)
    async with asyncio.TaskGroup() as tasks:
        Script(gateway, tasks)
        assert await asyncio.to_thread(run, options) == 0
    text = capsys.readouterr().out
    assert "what time is it" in text
    assert "It is noon." in text
    assert "after the last word" in text


async def test_failures_have_a_sentence_and_a_code(gateway: Gateway, question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unreachable = CliOptions(ota_url="http://127.0.0.1:1/xiaozhi/ota/", recordings=(question,))
    assert await asyncio.to_thread(run, unreachable) == 2
    gateway.connack = 4
    refused = CliOptions(ota_url=gateway.ota_url, recordings=(question,))
    assert await asyncio.to_thread(run, refused) == 3
    gateway.connack = 0
    silent = CliOptions(ota_url=gateway.ota_url, recordings=(question,), timeout_s=0.2, json_lines=True)
    assert await asyncio.to_thread(run, silent) == 6
    assert await asyncio.to_thread(run, CliOptions(ota_url=gateway.ota_url)) == 7
    assert await asyncio.to_thread(run, CliOptions(ota_url=gateway.ota_url, profile="9")) == 7
    captured = capsys.readouterr()
    assert "cannot be reached" in captured.err
    assert "refused the credentials" in captured.err
    assert "There is nothing to say" in captured.err
    failed = json.loads(captured.out.splitlines()[-1])
    assert (failed["kind"], failed["error"], failed["exit_code"]) == ("failed", "NoAnswerError", 6)
