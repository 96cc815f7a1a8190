"""The edges of a spoken sentence: no long silence around it, no click where it begins and ends. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from providers.base import Pcm

FULL_SCALE: Final = 32767
SILENCE_LEVEL: Final = 200
"""Samples under this (-44 dBFS) are silence: over the noise of synthetic voices, under their softest consonants."""
_CEILING: Final = 0.9


class Envelope:
    """Trims and fades one sentence that arrives in pieces of any length.

    Silence before the first sound is cut to ``lead_ms``, silence after the last one to ``tail_ms``; pauses within stay.
    The first and last ``fade_ms`` are faded, for which the newest samples are held back until more comes or the end.
    """

    def __init__(self, sample_rate_hz: int, *, lead_ms: int = 30, tail_ms: int = 100, fade_ms: int = 4) -> None:
        self._lead = sample_rate_hz * lead_ms // 1000
        self._tail = sample_rate_hz * tail_ms // 1000
        self._fade = max(1, sample_rate_hz * fade_ms // 1000)
        self._held: Pcm = np.empty(0, dtype=np.int16)
        self._silent: list[Pcm] = []
        self._started = False
        self._risen = 0  # how many samples of the fade at the beginning have passed

    def feed(self, samples: Pcm) -> Pcm:
        """What of the sentence is settled now; may be empty."""
        sounding = np.flatnonzero(np.abs(samples.astype(np.int32)) >= SILENCE_LEVEL)
        if not len(sounding):
            self._hold_silence(samples)
            return samples[:0]
        pause = np.concatenate([*self._silent, samples[: sounding[0]]])
        sound = samples[sounding[0] : sounding[-1] + 1]
        self._silent = [samples[sounding[-1] + 1 :]]
        if not self._started:
            pause = pause[max(0, len(pause) - self._lead) :]
            self._started = True
        settled = np.concatenate([self._held, self._faded_in(np.concatenate([pause, sound]))])
        keep = min(self._fade, len(settled))
        self._held = settled[len(settled) - keep :]
        return settled[: len(settled) - keep]

    def finish(self) -> Pcm:
        """The end of the sentence; afterwards the object is ready for another one."""
        tail = np.concatenate([np.empty(0, dtype=np.int16), *self._silent])[: self._tail]
        end = self._faded_out(np.concatenate([self._held, tail])) if self._started else self._held
        self._held, self._silent, self._started, self._risen = np.empty(0, dtype=np.int16), [], False, 0
        return end

    def _hold_silence(self, samples: Pcm) -> None:
        self._silent.append(samples)
        if not self._started:
            # Of leading silence only the end can ever be used.
            self._silent = [np.concatenate(self._silent)[-self._lead :]] if self._lead else []

    def _faded_in(self, samples: Pcm) -> Pcm:
        count = min(self._fade - self._risen, len(samples))
        if not count:
            return samples
        ramp = np.arange(self._risen, self._risen + count) / self._fade
        self._risen += count
        return np.concatenate([(samples[:count] * ramp).astype(np.int16), samples[count:]])

    def _faded_out(self, samples: Pcm) -> Pcm:
        count = min(self._fade, len(samples))
        ramp = np.linspace(1, 0, count)
        return np.concatenate([samples[: len(samples) - count], (samples[len(samples) - count :] * ramp).astype(np.int16)])


def quantize(samples: NDArray[np.float32], *, gain: float = 1.0) -> Pcm:
    """Samples in -1..1 as 16 bit. Where the gain would exceed 90 % of full scale, it is lowered for the whole piece.

    What is not a number becomes silence: an engine's slip must not become the loudest possible noise.
    """
    scaled = np.nan_to_num(samples.astype(np.float32).reshape(-1), nan=0.0, posinf=0.0, neginf=0.0) * np.float32(gain)
    peak = float(np.max(np.abs(scaled))) if len(scaled) else 0.0
    if peak > _CEILING:
        scaled *= _CEILING / peak
    pcm: Pcm = np.rint(scaled * FULL_SCALE).astype(np.int16)
    return pcm
