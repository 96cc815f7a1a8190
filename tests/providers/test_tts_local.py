"""Two real voices behind one door."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from providers.base import ModelMissing
from providers.models import ModelStore
from providers.tts.local import LocalTts
from settings import providers as configs
from tests.providers import voices

pytestmark = pytest.mark.models


def voice(**options: configs.PiperTts | configs.KokoroTts) -> LocalTts:
    return LocalTts(configs.LocalTts.model_validate(options), store=voices.store())


NO_PIPER = configs.PiperTts(voice="no-such-voice")
NO_KOKORO = configs.KokoroTts(voice="/no/such/voice.bin")


@pytest.mark.slow
async def test_each_sentence_by_its_script() -> None:
    voices.require("kokoro-82m-int8", "kokoro-voices", "piper-en-us-joe-medium")
    tts = voice()
    await tts.warm()
    await tts.warm()
    for text, rate_hz in (
        ("Good morning.", 22050),
        ("早上好。", 24000),
        ("打开Home Assistant。", 24000),
        ("I am 小智, hello there.", 22050),
    ):
        samples, got_hz = await voices.spoken(tts, text)
        assert got_hz == rate_hz
        voices.assert_clean(samples, got_hz)
    assert [frame async for frame in tts.synthesize("👍")] == []
    await tts.aclose()


async def test_without_the_chinese_voice_english_goes_on() -> None:
    voices.require("piper-en-us-joe-medium")
    tts = voice(chinese=NO_KOKORO)
    with capture_logs() as logs:
        await tts.warm()
        for _ in range(2):
            samples, rate_hz = await voices.spoken(tts, "Good morning.")
            voices.assert_clean(samples, rate_hz)
            with pytest.raises(ModelMissing, match=r"voice\.bin"):
                await voices.spoken(tts, "早上好。")
    assert [entry["script"] for entry in logs if entry["event"] == "A voice is missing"] == ["cjk"]


@pytest.mark.slow
async def test_without_piper_kokoro_speaks_english() -> None:
    voices.require("kokoro-82m-int8", "kokoro-voices")
    tts = voice(latin=NO_PIPER)
    await tts.warm()
    samples, rate_hz = await voices.spoken(tts, "Good morning.")
    assert rate_hz == 24000
    voices.assert_clean(samples, rate_hz)


async def test_without_any_voice_warm_says_why(tmp_path: Path) -> None:
    tts = LocalTts(configs.LocalTts(latin=NO_PIPER, chinese=NO_KOKORO), store=ModelStore(tmp_path, offline=True))
    with pytest.raises(ModelMissing, match="no-such-voice"):
        await tts.warm()
    with pytest.raises(ModelMissing, match="no-such-voice"):
        await voices.spoken(tts, "Hello.")
