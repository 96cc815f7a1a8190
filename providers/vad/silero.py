"""Voice activity with Silero on onnxruntime: one model call for all listeners that have a window due.

The model takes 512 samples at 16 kHz (32 ms) with the 64 before them, and a state of its own per listener; its first
dimension is the batch, and a batch gives what one call per listener gives. All windows that have come while the event loop was
busy with other things make up one batch: a lone listener is answered at once, and under load the batches grow by themselves.

The published graph is laid out anew for that (:mod:`providers.vad.silero_layout`): 48 us of CPU a window alone, 13 us in a
batch of 64, where it takes 119 and 55 as it is. That is less than handing a window to a thread and back costs, so the model runs on
the loop, for about a millisecond at a time at most; only loading it is left to a thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from providers.base import Pcm, ProviderError, ProviderUnavailable
from providers.engine_thread import EngineThread
from providers.models import ModelStore
from providers.onnx_errors import engine_errors
from providers.vad.silero_layout import UnknownLayout, laid_out
from settings.providers import SileroVad

log = structlog.get_logger(__name__)

SAMPLE_RATE_HZ: Final = 16_000
WINDOW_SAMPLES: Final = 512
CONTEXT_SAMPLES: Final = 64
_INPUT_SAMPLES: Final = CONTEXT_SAMPLES + WINDOW_SAMPLES
_TO_UNIT: Final = np.float32(1 / 32768)
_STATE_SHAPE: Final = (2, 1, 128)
_MAX_BATCH: Final = 32  # listeners at a time: the gain is flat beyond, the wait of everything else is not
_MAX_ROUNDS: Final = 2  # windows of one of them at a time, what a packet of 60 ms brings: a backlog must not hold up the others
_SILENCE_PEAK: Final = 1  # digital silence, as a decoder makes of lost or DTX packets: no model is needed to know it
_SILENT_WINDOWS: Final = 8  # but the model hears this much of it first, so that its state knows of the pause

_SAME: Final = 1e-4  # sums in another order differ in the seventh digit

_Floats = NDArray[np.float32]


@dataclass(slots=True)
class VadStats:
    """Counters since the start."""

    windows: int = 0
    batches: int = 0
    silent_windows: int = 0


@dataclass(slots=True)
class _Job:
    """Windows of one listener, oldest first, that wait for the model: 576 samples each."""

    stream: SileroStream
    generation: int
    windows: list[Pcm]
    probabilities: list[float]
    done: asyncio.Future[None]


class _Network(Protocol):
    """A model that hears several listeners at once. Not re-entrant."""

    def run(self, windows: _Floats, counts: Sequence[int], states: _Floats) -> list[list[float]]:
        """Probabilities of the listeners' first windows, of their second ones, ...

        ``windows`` [sum of counts, 576]: the first of each listener, then the second of the first ``counts[1]`` of them, ...
        ``states`` [2, counts[0], 128] move on.
        """


class _Published:
    """The model as it is."""

    def __init__(self, model: bytes) -> None:
        self._session = _session(model)
        # it may have a network for 8 kHz too
        takes_rate = any(one.name == "sr" for one in self._session.get_inputs())
        self._rate = {"sr": np.array(SAMPLE_RATE_HZ, np.int64)} if takes_rate else {}

    def run(self, windows: _Floats, counts: Sequence[int], states: _Floats) -> list[list[float]]:
        found, start = [], 0
        for count in counts:
            inputs = {"input": windows[start : start + count], "state": np.ascontiguousarray(states[:, :count]), **self._rate}
            probabilities, states[:, :count] = self._session.run(None, inputs)
            found.append(probabilities[:, 0].tolist())
            start += count
        return found


class _LaidOut:
    """The same, laid out for batches. Raises UnknownLayout for a model that is not known well enough."""

    def __init__(self, model: bytes) -> None:
        layout = laid_out(model)
        self._front, self._cell = _session(layout.front), _session(layout.cell)

    def run(self, windows: _Floats, counts: Sequence[int], states: _Floats) -> list[list[float]]:
        drives = self._front.run(None, {"input": windows})[0]
        found, start = [], 0
        for count in counts:
            inputs = {"drive": drives[start : start + count], "state": np.ascontiguousarray(states[:, :count])}
            probabilities, states[:, :count] = self._cell.run(None, inputs)
            found.append(probabilities[:, 0].tolist())
            start += count
        return found


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


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
        silent = [self._silent(window) for window in windows]
        voiced = [window for window, still in zip(windows, silent, strict=True) if not still]
        found = iter(await self._vad.infer(self, voiced) if voiced else ())
        return [0.0 if still else next(found) for still in silent]

    def _silent(self, window: Pcm) -> bool:
        new = window[CONTEXT_SAMPLES:]
        # one sample decides nearly always, and to look at all of them takes ten times as long
        if abs(new.item(-1)) > _SILENCE_PEAK or int(new.max()) > _SILENCE_PEAK or int(new.min()) < -_SILENCE_PEAK:
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
        self._network: _Network | None = None
        self._due: deque[_Job] = deque()
        self._awaited = False
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

    async def infer(self, stream: SileroStream, windows: list[Pcm]) -> list[float]:
        """Probabilities of one stream's windows of 576 samples; for :class:`SileroStream` only."""
        if self._network is None:
            await self.warm()
        if self._closed:
            raise ProviderUnavailable("voice activity detection is closed", provider="silero")
        loop = asyncio.get_running_loop()
        job = _Job(stream, stream.generation, windows, [], loop.create_future())
        self._due.append(job)
        self._await_turn(loop)
        await job.done
        return job.probabilities

    def _await_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the model once the loop has been through what is ready now: who else is heard by then is in the same batch."""
        if not self._awaited and self._due:
            self._awaited = True
            loop.call_soon(self._run_batch, loop)

    def _run_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        """One batch of what is due; jobs whose feed was cancelled are dropped."""
        self._awaited = False
        batch: list[_Job] = []
        while self._due and len(batch) < _MAX_BATCH:
            job = self._due.popleft()
            if not job.done.done():
                batch.append(job)
        if self._network is None or not batch:
            return
        try:
            with engine_errors("voice activity detection failed", provider="silero"):
                self._compute(self._network, batch)
        except ProviderError as error:
            _fail(batch, error)
        except BaseException:  # nobody may wait for ever
            _fail(batch, ProviderUnavailable("voice activity detection failed", provider="silero"))
            raise
        else:
            self._answer(batch)
        finally:
            self._await_turn(loop)

    def _compute(self, network: _Network, batch: list[_Job]) -> None:
        """Up to so many windows of each listener: its probabilities grow and its state moves on."""
        batch.sort(key=lambda job: -min(len(job.windows), _MAX_ROUNDS))  # who has a second window has it among the first
        rounds = [[job.windows[step] for job in batch if len(job.windows) > step] for step in range(_MAX_ROUNDS)]
        counts = [len(windows) for windows in rounds if windows]
        windows = np.concatenate([window for step in rounds for window in step]).reshape(-1, _INPUT_SAMPLES) * _TO_UNIT
        states = np.concatenate([job.stream.state for job in batch], axis=1)
        for probabilities in network.run(windows, counts, states):
            for job, probability in zip(batch, probabilities, strict=False):
                job.probabilities.append(probability)
        for place, job in enumerate(batch):
            del job.windows[:_MAX_ROUNDS]
            if job.generation == job.stream.generation:  # not reset meanwhile
                job.stream.state = states[:, place : place + 1].copy()  # the batch it is a part of need not be kept
        self.stats.batches += 1
        self.stats.windows += len(windows)

    def _answer(self, batch: list[_Job]) -> None:
        for job in batch:
            if job.windows:
                self._due.append(job)
            else:
                job.done.set_result(None)

    def _load(self) -> None:
        """In the thread, one caller after the other."""
        if self._network is None:
            path = self._config.model_path or self._store.resolve("silero-vad") / "silero_vad.onnx"
            self._network = _best_network(path.read_bytes())
            log.info("Voice activity model is loaded", path=str(path))


def _best_network(model: bytes) -> _Network:
    """The model laid out for batches, or as it is when that is not known to be the same."""
    published = _Published(model)
    try:
        network = _LaidOut(model)
    except UnknownLayout as reason:
        log.info("Voice activity model is used as it is, which takes about three times as long", reason=str(reason))
        return published
    windows = np.random.default_rng(0).normal(0, 0.1, (3, _INPUT_SAMPLES)).astype(np.float32)
    wanted_after, after = np.zeros((2, 2, 128), np.float32), np.zeros((2, 2, 128), np.float32)
    wanted, found = (np.concatenate(each.run(windows, (2, 1), to)) for each, to in ((published, wanted_after), (network, after)))
    if not (np.allclose(found, wanted, atol=_SAME) and np.allclose(after, wanted_after, atol=_SAME)):
        log.warning("Voice activity model is used as it is: laid out for batches it would say something else")
        return published
    return network


def _fail(batch: list[_Job], error: ProviderError) -> None:
    for job in batch:
        if not job.done.done():
            job.done.set_exception(error)
