"""CPU time of the codec: decoding 60 ms at 16 kHz (a device's uplink), encoding 60 ms at 24 kHz (our downlink), judging plausibility.

    python -m bench.opus_codec [--seconds 1.0]

One JSON line a case. The signal is a vowel-like sum of harmonics with a changing pitch and some noise, not silence.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from udp_audio.opus import OpusDecoder, OpusEncoder, Pcm, plausible


def voice(*, rate_hz: int, duration_s: float) -> Pcm:
    """Something that keeps a speech codec busy."""
    at_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.5 * at_s)) / rate_hz
    harmonics = np.sum([np.sin(number * phase) / number for number in range(1, 20)], axis=0)
    noise = np.random.default_rng(0).standard_normal(len(at_s)) * 0.05
    samples: Pcm = ((harmonics + noise) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * at_s)) * 6000).astype(np.int16)
    return samples


def measure(case: str, step: Callable[[], object], *, seconds: float, **facts: object) -> None:
    """Runs ``step`` for about ``seconds`` and prints microseconds of CPU a call."""
    calls, begin_s = 0, time.process_time()
    while (cpu_s := time.process_time() - begin_s) < seconds:
        for _ in range(50):
            step()
        calls += 50
    print(json.dumps({"bench": "opus_codec", "case": case, "cpu_us": round(cpu_s / calls * 1e6, 2), "calls": calls, **facts}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each case")
    seconds: float = parser.parse_args().seconds

    device = OpusEncoder(sample_rate_hz=16000, frame_ms=60, bitrate_bps=24000, complexity=0)
    packets = [device.encode(frame) for frame in voice(rate_hz=16000, duration_s=6).reshape(-1, 960)]
    decoder, uplink = OpusDecoder(), itertools.cycle(packets)
    measure("decode 16 kHz 60 ms", lambda: decoder.decode(next(uplink)), seconds=seconds)
    measure("plausible", lambda: plausible(next(uplink), frame_ms=60), seconds=seconds)

    frames = voice(rate_hz=24000, duration_s=6).reshape(-1, 1440)
    applications: tuple[Literal["audio", "voip"], ...] = ("audio", "voip")
    for application, complexity in itertools.product(applications, (0, 3, 5)):
        encoder = OpusEncoder(sample_rate_hz=24000, frame_ms=60, bitrate_bps=32000, complexity=complexity, application=application)
        downlink = itertools.cycle(frames)
        size = np.mean([len(encoder.encode(frame)) for frame in frames])
        measure(
            "encode 24 kHz 60 ms",
            lambda encoder=encoder, downlink=downlink: encoder.encode(next(downlink)),  # type: ignore[misc]  # bound for this case
            seconds=seconds,
            application=application,
            complexity=complexity,
            mean_bytes=round(float(size)),
        )


if __name__ == "__main__":
    main()
