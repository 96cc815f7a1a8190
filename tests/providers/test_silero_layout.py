"""The network laid out for batches against the published one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.models import ModelStore
from providers.vad.silero import Silero
from providers.vad.silero_layout import UnknownLayout, laid_out
from settings.providers import SileroVad
from tests.providers.spoken import noise, say


@pytest.fixture
def published(tmp_path: Path) -> bytes:
    return (ModelStore(tmp_path, offline=True).resolve("silero-vad") / "silero_vad.onnx").read_bytes()


@pytest.mark.models
@pytest.mark.parametrize("listeners", [1, 5])
def test_it_gives_what_the_published_model_gives(published: bytes, listeners: int) -> None:
    audio = np.concatenate([noise(0.3, level=900), say("Turn on the light in the kitchen."), noise(0.3, level=20)]) / np.float32(32768)
    before = onnxruntime.InferenceSession(published, providers=["CPUExecutionProvider"])
    after = onnxruntime.InferenceSession(laid_out(published), providers=["CPUExecutionProvider"])
    wanted_state = found_state = np.zeros((2, listeners, 128), np.float32)
    most = 0.0
    for start in range(0, len(audio) - 576 - 100 * listeners, 512):
        windows = np.stack([audio[start + 100 * each : start + 100 * each + 576] for each in range(listeners)]).astype(np.float32)
        wanted, wanted_state = before.run(None, {"input": windows, "state": wanted_state, "sr": np.array(16000, np.int64)})
        found, found_state = after.run(None, {"input": windows, "state": found_state})
        assert found.shape == wanted.shape == (listeners, 1)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(found_state, wanted_state, atol=1e-3)
        most = max(most, float(found.max()))
    assert most > 0.9  # there was speech in it


@pytest.mark.models
def test_what_is_built_otherwise_is_not_guessed_at(published: bytes) -> None:
    with pytest.raises(UnknownLayout, match="other layers"):
        laid_out(laid_out(published))  # the same weights, but not where the published graph has them
    with pytest.raises(UnknownLayout):
        laid_out(published[: len(published) // 2])


@given(st.binary(max_size=200))
def test_any_bytes_are_told_from_a_model(data: bytes) -> None:
    with pytest.raises(UnknownLayout):
        laid_out(data)


@pytest.mark.models
async def test_another_graph_is_used_as_it_is(published: bytes, tmp_path: Path) -> None:
    audio = say("Turn on the light in the kitchen.")
    found = []
    for name, model in (("published", published), ("other", laid_out(published))):  # what is laid out already is another graph
        (tmp_path / name).write_bytes(model)
        vad = Silero(SileroVad(model_path=tmp_path / name), store=ModelStore(tmp_path))
        found.append(await vad.open().feed(audio))
        await vad.aclose()
    assert found[0] == found[1]
    assert max(found[0]) > 0.9
