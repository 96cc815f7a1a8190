"""Voice activity with Silero on onnxruntime: one model call for all listeners that have a window due.

The model takes 512 samples at 16 kHz (32 ms) with the 64 before them, and a state of its own per listener; its first
dimension is the batch, and a batch gives exactly what one call per listener gives. While one call runs, the windows that
arrive wait and make up the next batch: a lone listener is answered at once, and under load the batches grow by themselves
(112-168 us a window alone, 61-81 us at a batch of 8 on one thread).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from providers.base import Pcm, ProviderError, ProviderUnavailable
from providers.engine_thread import EngineThread
from providers.models import ModelStore
from settings.providers import SileroVad

log = structlog.get_logger(__name__)

SAMPLE_RATE_HZ: Final = 16_000
WINDOW_SAMPLES: Final = 512
CONTEXT_SAMPLES: Final = 64
_INPUT_SAMPLES: Final = CONTEXT_SAMPLES + WINDOW_SAMPLES
_TO_UNIT: Final = np.float32(1 / 32768)
_STATE_SHAPE: Final = (2, 128)
_MAX_BATCH: Final = 64  # the gain is flat beyond, the wait is not
_MAX_ROUNDS: Final = 4  # windows of one listener in one go to the thread: a backlog must not hold up the others
_SILENCE_PEAK: Final = 1  # digital silence, as a decoder makes of lost or DTX packets: no model is needed to know it
_SILENT_WINDOWS: Final = 8  # but the model hears this much of it first, so that its state knows of the pause

_RATE: Final = np.array(SAMPLE_RATE_HZ, np.int64)

_Floats = NDArray[np.float32]


@dataclass(slots=True)
class VadStats:
    """Counters since the start."""

    windows: int = 0
    batches: int = 0
    silent_windows: int = 0


@dataclass(slots=True)
class _Job:
    """Windows of one listener, oldest first, that wait for the model."""

    stream: SileroStream
    generation: int
    windows: _Floats
    probabilities: list[float]
    done: asyncio.Future[None]


class SileroStream:
    """The memory of one listener; made by :meth:`Silero.open`."""

    window_samples = WINDOW_SAMPLES

    def __init__(self, vad: Silero) -> None:
        self._vad = vad
        self.generation = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, also what is being computed."""
        self.generation += 1
        self.state: _Floats = np.zeros(_STATE_SHAPE, np.float32)
        self._tail: Pcm = np.zeros(CONTEXT_SAMPLES, np.int16)
        self._silent_run = 0

    async def feed(self, samples: Pcm) -> list[float]:
        """Speech probabilities of the windows that these samples complete, oldest first.

        When cancelled, the samples count as heard and their probabilities are dropped; the stream stays usable.
        Raises ProviderError when the model cannot be loaded or run.
        """
        heard = np.concatenate((self._tail, samples))
        count = (len(heard) - CONTEXT_SAMPLES) // WINDOW_SAMPLES
        self._tail = heard[count * WINDOW_SAMPLES :].copy()
        if count <= 0:
            return []
        windows = [heard[start : start + _INPUT_SAMPLES] for start in range(0, count * WINDOW_SAMPLES, WINDOW_SAMPLES)]
        voiced = [index for index, window in enumerate(windows) if not self._silent(window)]
        probabilities = [0.0] * count
        if voiced:
            wanted = np.concatenate([windows[index] for index in voiced]).reshape(len(voiced), _INPUT_SAMPLES)
            found = await self._vad.infer(self, wanted * _TO_UNIT)
            for index, probability in zip(voiced, found, strict=True):
                probabilities[index] = probability
        return probabilities

    def _silent(self, window: Pcm) -> bool:
        new = window[CONTEXT_SAMPLES:]
        if int(new.max()) > _SILENCE_PEAK or int(new.min()) < -_SILENCE_PEAK:
            self._silent_run = 0
            return False
        self._silent_run += 1
        if self._silent_run <= _SILENT_WINDOWS:
            return False
        self._vad.stats.silent_windows += 1
        return True


def build(config: SileroVad, *, store: ModelStore) -> Silero:
    """What :mod:`providers.factory` calls."""
    return Silero(config, store=store)


class Silero:
    """The model, shared by all listeners. Implements :class:`providers.base.Vad`."""

    def __init__(self, config: SileroVad, *, store: ModelStore) -> None:
        self._config = config
        self._store = store
        self._thread = EngineThread("silero")
        self._session: Any = None
        self._due: deque[_Job] = deque()
        self._busy = False
        self._closed = False
        self.stats = VadStats()

    async def warm(self) -> None:
        """Load the model and run it once. Idempotent. Raises ProviderError."""
        await self._thread.run(self._load)

    def open(self) -> SileroStream:
        """A new listener; it costs nothing to leave it."""
        return SileroStream(self)

    async def aclose(self) -> None:
        """End the thread; what still waits fails with ProviderUnavailable. Idempotent."""
        self._closed = True
        _fail(list(self._due), ProviderUnavailable("voice activity detection is closed", provider="silero"))
        self._due.clear()
        await self._thread.aclose()

    # -- in the loop's thread ------------------------------------------------------------------------------------------
    async def infer(self, stream: SileroStream, windows: _Floats) -> list[float]:
        """Probabilities of one stream's windows ``[n, 576]``; for :class:`SileroStream` only."""
        if self._closed:
            raise ProviderUnavailable("voice activity detection is closed", provider="silero")
        job = _Job(stream, stream.generation, windows, [], asyncio.get_running_loop().create_future())
        self._due.append(job)
        if not self._busy:
            self._start()
        await job.done
        return job.probabilities

    def _start(self) -> None:
        """Send the due windows to the thread, one batch at a time; jobs whose feed was cancelled are dropped."""
        batch: list[_Job] = []
        while self._due and len(batch) < _MAX_BATCH:
            job = self._due.popleft()
            if not job.done.done():
                batch.append(job)
        self._busy = bool(batch)
        if batch:
            try:
                future = self._thread.submit(self._compute, [(job.windows[:_MAX_ROUNDS], job.stream.state) for job in batch])
            except ProviderUnavailable as error:
                self._busy = False
                _fail(batch, error)
            else:
                future.add_done_callback(lambda finished: self._finished(batch, finished))

    def _finished(self, batch: list[_Job], future: asyncio.Future[list[tuple[list[float], _Floats]]]) -> None:
        if failure := self._thread.translated(future):
            _fail(batch, failure)
        else:
            for job, (probabilities, state) in zip(batch, future.result(), strict=True):
                self._advance(job, probabilities, state)
        self._start()

    def _advance(self, job: _Job, probabilities: list[float], state: _Floats) -> None:
        if job.generation == job.stream.generation:  # not reset meanwhile
            job.stream.state = state
        job.probabilities += probabilities
        job.windows = job.windows[len(probabilities) :]
        if job.done.done():  # cancelled meanwhile
            return
        if len(job.windows):
            self._due.append(job)
        else:
            job.done.set_result(None)

    # -- in the engine's thread ----------------------------------------------------------------------------------------
    def _load(self) -> Any:
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            path = self._config.model_path or self._store.resolve("silero-vad") / "silero_vad.onnx"
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            _run(session, np.zeros((1, _INPUT_SAMPLES), np.float32), np.zeros((2, 1, 128), np.float32))
            self._session = session
            log.info("Voice activity model is loaded", path=str(path))
        return self._session

    def _compute(self, batch: list[tuple[_Floats, _Floats]]) -> list[tuple[list[float], _Floats]]:
        """For each listener's (windows, state): the probabilities and the state after them."""
        session = self._load()
        order = sorted(range(len(batch)), key=lambda index: -len(batch[index][0]))  # those with most windows first
        states = np.stack([batch[index][1] for index in order], axis=1)
        probabilities: list[list[float]] = [[] for _ in batch]
        for step in range(len(batch[order[0]][0])):
            active = [index for index in order if len(batch[index][0]) > step]
            found, after = _run(session, np.stack([batch[index][0][step] for index in active]), states[:, : len(active)])
            states[:, : len(active)] = after
            for index, probability in zip(active, found, strict=True):
                probabilities[index].append(probability)
            self.stats.batches += 1
            self.stats.windows += len(active)
        after_all = {index: states[:, place].copy() for place, index in enumerate(order)}
        return [(probabilities[index], after_all[index]) for index in range(len(batch))]


def _run(session: Any, windows: _Floats, states: _Floats) -> tuple[list[float], _Floats]:
    """One call of the model: windows ``[B, 576]`` and states ``[2, B, 128]`` to B probabilities and the states after."""
    found, after = session.run(None, {"input": windows, "state": np.ascontiguousarray(states), "sr": _RATE})
    return cast("list[float]", found[:, 0].tolist()), after


def _fail(batch: list[_Job], error: ProviderError) -> None:
    for job in batch:
        if not job.done.done():
            job.done.set_exception(error)
