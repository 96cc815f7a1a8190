"""How many words survive a bad uplink: real speech, the device's encoder, an impaired link on a virtual clock, real Whisper.

    python -m bench.uplink_loss

Accuracy is 1 - (word edits / words), over six sentences and all seeds. Columns: the stock device's encoder (no error
correction), the same with lost frames left out instead of concealed, and an encoder with in-band error correction.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np

from bridge.device.codec import Encoder
from bridge.ear import FrameDecoder
from providers.asr.whisper import Whisper
from providers.base import Pcm, PcmFrame
from providers.models import ModelStore
from settings.providers import WhisperAsr
from tests.providers.spoken import say
from tests.udp_audio.impaired_link import BurstLoss, Conditions, Wire
from tests.udp_audio.stand_in import uplink
from udp_audio.channel import ChannelCore, UplinkFrame
from udp_audio.opus import OpusEncoder
from udp_audio.packet import parse

SENTENCES = (
    "Turn on the kitchen light and close the blinds.",
    "What is the weather like tomorrow morning?",
    "Play some quiet music in the living room.",
    "Please remind my brother that the dog has to see the doctor on Friday.",
    "The train to the city leaves from the third platform in twenty minutes.",
    "Tell me a story about a dragon who was afraid of fire.",
)
SHARES = (0.05, 0.1, 0.2)
MEAN_BURST = 3.0
FRAME_S = 0.06
KEY = bytes(range(16))


def conditions() -> dict[str, Conditions]:
    """Name to network; every one has 20 ms of jitter."""
    networks = {"none": Conditions(jitter_ms=20)}
    networks |= {f"random {share:.0%}": Conditions(jitter_ms=20, loss=share) for share in SHARES}
    networks |= {f"bursts {share:.0%}": Conditions(jitter_ms=20, burst=BurstLoss(loss=share, mean_packets=MEAN_BURST)) for share in SHARES}
    return networks


def encode(samples: Pcm, *, fec: bool) -> list[bytes]:
    encoder = OpusEncoder(sample_rate_hz=16000, frame_ms=60, bitrate_bps=24000, complexity=0, fec=True) if fec else Encoder(60)
    padded = np.pad(samples, (0, -len(samples) % 960))
    return [encoder.encode(frame) for frame in padded.reshape(-1, 960)]


def received(packets: Sequence[bytes], wire: Wire) -> list[UplinkFrame]:
    """What the channel hands to the ear."""
    core = ChannelCore(ssrc=0x01020304, key=KEY, frame_ms=60, mqtt_ip="192.0.2.7", counter_start=5, now=0.0)
    for number, packet in enumerate(packets, 1):
        wire.send(uplink(KEY, core.nonce, number, packet), number * FRAME_S)
    frames: list[UplinkFrame] = []
    for at, datagram in wire.arrived(float("inf")):
        while core.deadline is not None and core.deadline <= at:
            core.poll(core.deadline)
        header = parse(datagram)
        assert header is not None
        core.receive(header, datagram, ("192.0.2.7", 4000), at)
        frames += core.take()
    core.poll(float("inf"))
    return frames + core.take()


def decode(frames: Sequence[UplinkFrame], *, conceal: bool = True) -> tuple[Pcm, FrameDecoder]:
    decoder = FrameDecoder(frame_ms=60)
    parts = [
        decoder.decode(frame, following) for frame, following in zip(frames, [*frames[1:], None], strict=True) if conceal or not frame.lost
    ]
    return np.concatenate(parts), decoder


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]", "", text.lower().replace("-", " ").replace("20", "twenty").replace("3rd", "third")).split()


def edits(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(reference, 1):
        above, row = row, [number]
        row += [0] * len(heard)
        for place, other in enumerate(heard, 1):
            row[place] = min(above[place] + 1, row[place - 1] + 1, above[place - 1] + (word != other))
    return row[-1]


async def transcript(asr: Whisper, samples: Pcm) -> str:
    async def audio() -> AsyncIterator[PcmFrame]:
        yield PcmFrame(samples, 16000)

    text = ""
    async with aclosing(asr.transcribe(audio())) as parts:
        async for part in parts:
            text = part.text
    return text


async def measure(seeds: int) -> None:
    speech = {sentence: say(sentence) for sentence in SENTENCES}
    with tempfile.TemporaryDirectory() as directory:
        asr = Whisper(WhisperAsr(), store=ModelStore(Path(directory), offline=True))
        try:
            await asr.warm()
            for name, network in conditions().items():
                row: dict[str, object] = {"loss": name}
                for column, fec, conceal in (
                    ("device", False, True),
                    ("device, gaps left out", False, False),
                    ("error correction", True, True),
                ):
                    wrong = total = lost = frames_count = recovered = 0
                    for seed in range(seeds if name != "none" else 1):
                        for sentence, samples in speech.items():
                            wire = Wire(network, f"{seed}/{sentence}")
                            frames = received(encode(samples, fec=fec), wire)
                            heard, decoder = decode(frames, conceal=conceal)
                            reference = words(sentence)
                            wrong += edits(reference, words(await transcript(asr, heard)))
                            total += len(reference)
                            lost += wire.stats.lost
                            frames_count += wire.stats.offered
                            recovered += decoder.stats.recovered
                    row[column] = round(1 - wrong / total, 3)
                    row["frames lost"] = round(lost / frames_count, 3)
                    if fec:
                        row["recovered"] = round(recovered / lost, 3) if lost else 0.0
                print(json.dumps(row), flush=True)
        finally:
            await asr.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="networks for each sentence")
    asyncio.run(measure(parser.parse_args().seeds))


if __name__ == "__main__":
    main()
