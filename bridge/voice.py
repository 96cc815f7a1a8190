"""The voice of a turn: synthesised PCM of any rate to Opus packets of the session's format.

Resampling and encoding run in the :class:`CodecPool`; one :class:`VoiceEncoder` belongs to one turn.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import numpy as np
import soxr

from bridge.codec_pool import CodecPool
from providers.base import Pcm, PcmFrame
from settings.model import Audio
from udp_audio.opus import OpusEncoder


class VoiceEncoder:
    """Encodes one sentence after another. Blocking; not to be used by two threads at once."""

    def __init__(self, options: Audio) -> None:
        self._rate_hz: int = options.sample_rate_hz
        self._frame_samples = options.sample_rate_hz * options.frame_ms // 1000
        self._encoder = OpusEncoder(
            sample_rate_hz=options.sample_rate_hz,
            frame_ms=options.frame_ms,
            bitrate_bps=options.bitrate_bps,
            complexity=options.complexity,
        )
        self._resampler: soxr.ResampleStream | None = None
        self._input_hz = 0
        self._rest: Pcm = np.zeros(0, np.int16)

    def push(self, samples: Pcm, sample_rate_hz: int) -> list[bytes]:
        """The packets completed by these samples."""
        return self._cut(self._resample(samples, sample_rate_hz, last=False))

    def finish(self) -> list[bytes]:
        """The rest of the sentence, its last packet filled with silence."""
        packets = self._cut(self._resample(np.zeros(0, np.int16), self._input_hz, last=True)) if self._resampler else []
        self._resampler = None
        if len(self._rest):
            packets += self._cut(np.zeros(self._frame_samples - len(self._rest), np.int16))
        return packets

    def _resample(self, samples: Pcm, sample_rate_hz: int, *, last: bool) -> Pcm:
        if sample_rate_hz == self._rate_hz:
            return samples
        if self._resampler is None or sample_rate_hz != self._input_hz:
            self._resampler = soxr.ResampleStream(sample_rate_hz, self._rate_hz, 1, dtype="int16", quality="MQ")
            self._input_hz = sample_rate_hz
        resampled: Pcm = self._resampler.resample_chunk(samples, last=last)
        return resampled

    def _cut(self, samples: Pcm) -> list[bytes]:
        samples = np.concatenate((self._rest, samples))
        count = len(samples) // self._frame_samples
        whole = count * self._frame_samples
        self._rest = samples[whole:]
        return [self._encoder.encode(frame) for frame in samples[:whole].reshape(count, self._frame_samples)]


async def packets(
    speech: AsyncGenerator[PcmFrame, None], encoder: VoiceEncoder, codec: CodecPool, *, due: Callable[[], float]
) -> AsyncGenerator[bytes, None]:
    """The Opus packets of one sentence, as early as they are complete. ``due``: when the next one is needed. Closes ``speech``."""
    async with aclosing(speech):
        async for frame in speech:
            piece = max(1, int(frame.sample_rate_hz * codec.piece_s))
            for start in range(0, len(frame.samples), piece):
                chunk = frame.samples[start : start + piece]
                for packet in await codec.run(due(), encoder.push, chunk, frame.sample_rate_hz):
                    yield packet
    for packet in await codec.run(due(), encoder.finish):
        yield packet
