"""The real Piper voice, checked by a real recogniser."""

from __future__ import annotations

import asyncio
import builtins
import importlib.util
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers.base import ModelMissing, ProviderUnavailable
from providers.tts.piper import PiperTts
from settings import providers as configs
from tests.providers import voices

pytestmark = pytest.mark.models
VOICE = "piper-en-us-joe-medium"
SENTENCES = (
    "What time is it?",
    "The kitchen light is on, and it is twenty two degrees outside.",
    "I have set a timer for five minutes. Anything else?",
)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if importlib.util.find_spec("piper") is None:
        pytest.skip("piper-tts is an optional part")
    voices.require(VOICE)


def voice(**options: Any) -> PiperTts:
    return PiperTts(configs.PiperTts(**options), store=voices.store())


@pytest.mark.parametrize("sentence", SENTENCES)
async def test_speech_is_clean_and_understood(sentence: str) -> None:
    tts = voice()
    samples, rate_hz = await voices.spoken(tts, sentence)
    await tts.aclose()
    voices.assert_clean(samples, rate_hz)
    assert rate_hz == 22050
    assert 0.12 < len(samples) / rate_hz / len(sentence.split()) < 0.8  # seconds a word
    understood = voices.heard(samples, rate_hz, language="en").replace("22", "twenty two").replace("5", "five")
    assert voices.word_error_rate(sentence, understood) < 0.25


async def test_speed() -> None:
    slow, fast = voice(speed=0.7), voice(speed=1.6)
    slow_samples, _ = await voices.spoken(slow, SENTENCES[1])
    fast_samples, _ = await voices.spoken(fast, SENTENCES[1])
    assert len(slow_samples) > 1.6 * len(fast_samples)


async def test_chinese_names_and_raw_phoneme_marks_are_spoken() -> None:
    tts = voice()
    with_name, _ = await voices.spoken(tts, "My name is 小智 and I am here.")
    without, _ = await voices.spoken(tts, "My name is and I am here.")
    assert len(with_name) > len(without)
    await voices.spoken(tts, "Press [[ now ]] please.")


async def test_what_has_no_words_has_no_sound() -> None:
    tts = voice()
    assert [frame async for frame in tts.synthesize("😀 ** ...")] == []


async def test_a_long_text_comes_in_pieces_and_can_be_left() -> None:
    tts = voice()
    text = "This is a sentence of a long story that goes on. " * 8
    async with aclosing(tts.synthesize(text)) as frames:
        first = await anext(frames)
    assert first.duration_s < 20
    async with asyncio.TaskGroup() as tasks:
        speaking = tasks.create_task(voices.spoken(tts, text))
        await asyncio.sleep(0.02)
        speaking.cancel()
    samples, rate_hz = await voices.spoken(tts, "Still here.")
    voices.assert_clean(samples, rate_hz)


async def test_two_sentences_at_once_do_not_mix() -> None:
    tts = voice()
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(voices.spoken(tts, sentence)) for sentence in SENTENCES[:2]]
    (short, rate_hz), (long, _) = (task.result() for task in both)
    assert len(short) < len(long)
    assert voices.word_error_rate(SENTENCES[0], voices.heard(short, rate_hz, language="en")) < 0.3


async def test_path_of_a_voice() -> None:
    directory = voices.store().resolve(VOICE)
    file = next(directory.glob("*.onnx"))
    for path in (directory, file):
        tts = voice(voice=str(path))
        await tts.warm()
        await tts.aclose()


async def test_closed_voice_says_so() -> None:
    tts = voice()
    await tts.warm()
    await tts.aclose()
    await tts.aclose()
    with pytest.raises(ProviderUnavailable, match="closed"):
        await voices.spoken(tts, "Hello")


async def test_missing_and_broken_voices(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing):
        await voice(voice="no-such-voice").warm()
    with pytest.raises(ModelMissing, match=r"0 \.onnx files"):
        await voice(voice=str(tmp_path)).warm()
    broken = tmp_path / "a.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelMissing, match=r"\.json is missing"):
        await voice(voice=str(broken)).warm()
    (tmp_path / "a.onnx.json").write_text(json.dumps({"audio": {}}))
    with pytest.raises(ProviderUnavailable, match="does not describe a Piper voice"):
        await voice(voice=str(broken)).warm()
    good = next(voices.store().resolve(VOICE).glob("*.json"))
    (tmp_path / "a.onnx.json").write_bytes(good.read_bytes())
    with pytest.raises(ProviderUnavailable, match="cannot be loaded"):
        await voice(voice=str(broken)).warm()


async def test_without_the_optional_part(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "piper":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ProviderUnavailable, match=r"pip install 'xiaozhi-bridge\[piper\]'"):
        await voice().warm()
