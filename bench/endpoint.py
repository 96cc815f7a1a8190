"""With which packet an utterance ends: the bridge's own codec, VAD and endpointing over a recording, without network or time.

The closing silence is counted in windows of 32 ms and seen in packets of 60 ms, so its end falls on a packet that
depends on how many packets went before (a cycle of 8). What the server adds is counted from that packet on.
"""

from __future__ import annotations

import math

import numpy as np

from bridge.device.speech import Speech
from bridge.endpointing import Endpointer, Mark
from providers.base import Vad
from settings.providers import VadConfig
from udp_audio.opus import OpusDecoder, is_dtx

SAMPLE_RATE_HZ = 16000


async def end_packets(speech: Speech, vad: Vad, options: VadConfig) -> tuple[int, ...]:
    """For 0, 1, 2 ... quiet packets before it: the index in ``speech`` of the packet that ends the utterance."""
    frame_samples = SAMPLE_RATE_HZ * speech.frame_ms // 1000
    cycle = math.lcm(frame_samples, vad.open().window_samples) // frame_samples
    return tuple([await _end(speech, vad, options, quiet=quiet, frame_samples=frame_samples) for quiet in range(cycle)])


async def _end(speech: Speech, vad: Vad, options: VadConfig, *, quiet: int, frame_samples: int) -> int:
    stream, decoder = vad.open(), OpusDecoder(sample_rate_hz=SAMPLE_RATE_HZ)
    endpointer = Endpointer(options, window_ms=stream.window_samples * 1000 / SAMPLE_RATE_HZ)
    silence = np.zeros(frame_samples, np.int16)
    for index in range(-quiet, len(speech.frames)):
        packet = speech.frames[index] if index >= 0 else b""
        samples = silence if index < 0 or is_dtx(packet) else decoder.decode(packet)
        for probability in await stream.feed(samples):
            if endpointer.push(probability) is Mark.END:
                return index
    raise ValueError("the recording does not end in silence")
