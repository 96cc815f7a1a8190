"""CPU time of the codec: decoding 60 ms at 16 kHz (a device's uplink), encoding 60 ms at 24 kHz (our downlink), judging plausibility.

The signal is a vowel-like sum of harmonics with a changing pitch and some noise, not silence.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from bench.report import Options, Row
from bench.signals import voice
from settings.model import Audio
from udp_audio.opus import OpusDecoder, OpusEncoder, plausible


def cpu_us(step: Callable[[], object], *, seconds: float) -> float:
    """Microseconds of CPU time a call, over about ``seconds``."""
    calls, begin_s = 0, time.process_time()
    while (used_s := time.process_time() - begin_s) < seconds:
        for _ in range(50):
            step()
        calls += 50
    return used_s / calls * 1e6


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    seconds = 0.2 if options.quick else 1.0
    device = OpusEncoder(sample_rate_hz=16000, frame_ms=60, bitrate_bps=24000, complexity=0)
    packets = [device.encode(frame) for frame in voice(rate_hz=16000, duration_s=6).reshape(-1, 960)]
    decoder, uplink = OpusDecoder(), itertools.cycle(packets)
    yield Row(part="opus", case="decode 60 ms, 16 kHz", value=cpu_us(lambda: decoder.decode(next(uplink)), seconds=seconds), unit="us")
    judged_us = cpu_us(lambda: plausible(next(uplink), frame_ms=60), seconds=seconds)
    yield Row(part="opus", case="judge whether a packet is Opus", value=judged_us, unit="us")
    chosen = Audio().complexity
    for complexity in sorted({0, chosen, 5}):
        encoder = OpusEncoder(sample_rate_hz=24000, frame_ms=60, bitrate_bps=32000, complexity=complexity)
        downlink = itertools.cycle(voice(rate_hz=24000, duration_s=6).reshape(-1, 1440))
        encoded_us = cpu_us(lambda encoder=encoder, downlink=downlink: encoder.encode(next(downlink)), seconds=seconds)  # type: ignore[misc]  # bound for this case
        note = f"{60_000 / encoded_us:.0f} answers at once a core" + (", the default" if complexity == chosen else "")
        yield Row(part="opus", case=f"encode 60 ms, 24 kHz, complexity {complexity}", value=encoded_us, unit="us", note=note)
