"""The network laid out for batches against the published one."""

from __future__ import annotations

import asyncio
import importlib.metadata
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


def session(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@pytest.mark.models
@pytest.mark.parametrize("listeners", [1, 5])
def test_it_gives_what_the_published_model_gives(published: bytes, listeners: int) -> None:
    audio = np.concatenate([noise(0.3, level=900), say("Turn on the light in the kitchen."), noise(0.3, level=20)]) / np.float32(32768)
    layout = laid_out(published)
    before, front, cell = session(published), session(layout.front), session(layout.cell)
    wanted_state = found_state = np.zeros((2, listeners, 128), np.float32)
    most = 0.0
    for start in range(0, len(audio) - 576 - 100 * listeners, 512):
        windows = np.stack([audio[start + 100 * each : start + 100 * each + 576] for each in range(listeners)]).astype(np.float32)
        wanted, wanted_state = before.run(None, {"input": windows, "state": wanted_state, "sr": np.array(16000, np.int64)})
        (drive,) = front.run(None, {"input": windows})
        found, found_state = cell.run(None, {"drive": drive, "state": found_state})
        assert found.shape == wanted.shape == (listeners, 1)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(found_state, wanted_state, atol=1e-3)
        most = max(most, float(found.max()))
    assert most > 0.9  # there was speech in it


@pytest.mark.models
def test_what_is_built_otherwise_is_not_guessed_at(published: bytes) -> None:
    with pytest.raises(UnknownLayout, match="other layers"):
        laid_out(laid_out(published).front)
    with pytest.raises(UnknownLayout):
        laid_out(published[: len(published) // 2])


@pytest.mark.models
def test_a_spectrum_that_cannot_be_folded_is_noticed(published: bytes) -> None:
    whole_window = published.find(np.float32(1).tobytes(), 1_000_000)  # the middle of the first cosine, which is a Hann window
    neighbour = np.frombuffer(published, "<f4", count=1, offset=whole_window + 4)[0]
    assert neighbour == pytest.approx(0.5 + 0.5 * np.cos(2 * np.pi / 256), abs=1e-6)
    changed = published[: whole_window + 4] + np.float32(0.9).tobytes() + published[whole_window + 8 :]
    with pytest.raises(UnknownLayout, match="spectrum"):
        laid_out(changed)


@given(st.binary(max_size=200))
def test_any_bytes_are_told_from_a_model(data: bytes) -> None:
    with pytest.raises(UnknownLayout):
        laid_out(data)


@pytest.mark.models
@pytest.mark.parametrize("other", ["silero_vad_op18_ifless.onnx", "silero_vad_16k_op15.onnx"])
async def test_another_graph_is_used_as_it_is(published: bytes, other: str, tmp_path: Path) -> None:
    """The same network as the package has it in other files, with other names and without the branch for 8 kHz."""
    path = importlib.metadata.distribution("silero-vad").locate_file(f"silero_vad/data/{other}")
    with pytest.raises(UnknownLayout):
        laid_out(await asyncio.to_thread(Path(str(path)).read_bytes))
    audio = say("Turn on the light in the kitchen.")
    found = []
    for config in (SileroVad(), SileroVad(model_path=Path(str(path)))):
        vad = Silero(config, store=ModelStore(tmp_path, offline=True))
        found.append(await vad.open().feed(audio))
        await vad.aclose()
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert max(found[0]) > 0.9
