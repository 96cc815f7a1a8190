"""The real Kokoro voice, checked by a real recogniser."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from providers.base import ModelMissing, ProviderUnavailable
from providers.tts.kokoro import SAMPLE_RATE_HZ, KokoroTts
from settings import providers as configs
from tests.providers import voices

pytestmark = [pytest.mark.models, pytest.mark.slow]
SENTENCES = ("现在几点了？", "客厅的灯已经打开了。", "今天天气很好，气温二十五度，适合出去走走。")


@pytest.fixture(scope="module", autouse=True)
def models() -> None:
    voices.require("kokoro-82m-int8", "kokoro-voices")


def voice(**options: Any) -> KokoroTts:
    return KokoroTts(configs.KokoroTts(**options), store=voices.store())


async def test_speech_is_clean_and_understood() -> None:
    tts = voice()
    rates: list[float] = []
    for sentence in SENTENCES:
        samples, rate_hz = await voices.spoken(tts, sentence)
        voices.assert_clean(samples, rate_hz)
        assert rate_hz == SAMPLE_RATE_HZ
        assert 0.1 < len(samples) / rate_hz / len(sentence) < 0.5  # seconds a character
        understood = voices.heard(samples, rate_hz, language="zh").replace("25", "二十五")
        rates.append(voices.character_error_rate(sentence, understood))
    assert np.mean(rates) < 0.2
    assert max(rates) < 0.35


async def test_clauses_come_one_by_one_and_can_be_left() -> None:
    tts = voice()
    text = "今天天气很好，气温二十五度，适合出去走走，记得带上水和帽子。"
    frames = [frame async for frame in tts.synthesize(text)]
    assert len(frames) == 4
    before = tts.stats.clauses
    async with aclosing(tts.synthesize(text)) as left:
        await anext(left)
    assert tts.stats.clauses == before + 1
    async with asyncio.TaskGroup() as tasks:
        speaking = tasks.create_task(voices.spoken(tts, text))
        await asyncio.sleep(0.05)
        speaking.cancel()
    samples, rate_hz = await voices.spoken(tts, SENTENCES[0])  # waits for the clause that could not be stopped
    voices.assert_clean(samples, rate_hz)
    assert tts.stats.clauses <= before + 3


async def test_english_words_in_chinese_are_spoken() -> None:
    tts = voice()
    with_english, rate_hz = await voices.spoken(tts, "请打开Bluetooth和Wi-Fi。")
    without, _ = await voices.spoken(tts, "请打开和。")
    assert len(with_english) - len(without) > 0.5 * rate_hz
    assert tts.stats.unspoken_characters == 0


async def test_an_english_sentence_is_understood() -> None:
    samples, rate_hz = await voices.spoken(voice(), "The kitchen light is on now.")
    assert voices.word_error_rate("The kitchen light is on now", voices.heard(samples, rate_hz, language="en")) < 0.35


async def test_speed_and_voice() -> None:
    slow, _ = await voices.spoken(voice(speed=0.7), SENTENCES[1])
    fast, _ = await voices.spoken(voice(speed=1.5), SENTENCES[1])
    assert len(slow) > 1.5 * len(fast)
    other, rate_hz = await voices.spoken(voice(voice="zm_yunjian"), SENTENCES[1])
    voices.assert_clean(other, rate_hz)


async def test_other_scripts_are_counted_not_fatal() -> None:
    tts = voice()
    assert [frame async for frame in tts.synthesize("ひらがな")] == []
    assert tts.stats.unspoken_characters == 4


async def test_a_monstrous_word_is_cut_into_what_fits() -> None:
    samples, _ = await voices.spoken(voice(speed=2.9), "ㄅ好" + "ABCDE" * 40)
    assert len(samples) > 3 * SAMPLE_RATE_HZ


async def test_closed_voice_says_so() -> None:
    tts = voice()
    await tts.aclose()
    await tts.aclose()
    with pytest.raises(ProviderUnavailable, match="closed"):
        await voices.spoken(tts, "你好")


async def test_missing_and_broken_parts(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"no Kokoro voice 'nobody'; there are .*zf_xiaoxiao"):
        await voice(voice="nobody").warm()
    odd = tmp_path / "odd.bin"
    odd.write_bytes(bytes(100))
    with pytest.raises(ModelMissing, match="not a Kokoro voice"):
        await voice(voice=str(odd)).warm()
    with pytest.raises(ModelMissing, match=r"holds no \.onnx"):
        await voice(model=str(tmp_path)).warm()
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(ProviderUnavailable, match="cannot be loaded"):
        await voice(model=str(tmp_path)).warm()
