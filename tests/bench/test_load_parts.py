"""The parts of bench.load that need no server."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.cores import busy_s
from bench.load.probe import WatchedAudioServer, WatchedVad, answers, paced
from bench.load.search import PRECISION, largest
from bench.load.servers import Answer
from bench.load.talkers import monologue
from providers.base import Pcm
from tests.scripted import EnergyVad, tone
from udp_audio.opus import OpusDecoder

RECORDINGS = [Path("examples/question_en.wav"), Path("examples/question_zh.wav")]
ADDRESS = ("192.0.2.1", 7)


@given(limit=st.integers(0, 6000), first=st.integers(1, 5000), most=st.integers(1, 5000))
def test_the_search_closes_in_on_the_limit(limit: int, first: int, most: int) -> None:
    asked: list[int] = []

    async def carried(number: int) -> bool:
        asked.append(number)
        return number <= limit

    good, bad = asyncio.run(largest(carried, first=first, most=most))
    assert good <= limit
    assert len(set(asked)) == len(asked) <= 40
    assert all(1 <= number <= most for number in asked)
    if bad is None:
        assert good == most
    else:
        assert limit < bad
        assert bad - good <= max(1, PRECISION * bad)


def test_the_sends_of_a_device_are_cut_into_answers() -> None:
    first = [(10 + max(0, number - 3) * 0.06, 1 + number) for number in range(20)]
    second = [(14 + max(0, number - 3) * 0.06, 21 + number) for number in range(20)]
    assert answers(first + second) == [first, second]
    assert answers([]) == []
    late = [(at + (0.05 if number >= 8 else 0.0), sequence) for number, (at, sequence) in enumerate(second)]
    errors_ms, gaps = paced({ADDRESS: first + late})
    assert sorted(errors_ms) == pytest.approx([0.0] * 28 + [50.0] * 12)
    assert gaps == 1


async def test_a_watched_socket_notes_what_leaves() -> None:
    server = WatchedAudioServer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        await server.start(host="127.0.0.1", port=0, receive_buffer_bytes=65536)
        server.transmit(bytes(12) + (258).to_bytes(4) + b"x", peer.getsockname())
        assert peer.recv(100)[12:16] == bytes((0, 0, 1, 2))
        await server.aclose()
    assert [sequence for sends in server.log.values() for _, sequence in sends] == [258]
    assert server.queue_dropped == 0


async def test_an_ear_that_stops_hearing_is_behind() -> None:
    vad = WatchedVad(EnergyVad())
    stream = vad.open()
    sound: Pcm = tone(0.06)
    for _ in range(32):  # much faster than a microphone gives them
        await stream.feed(sound)
    await asyncio.sleep(0.2)
    for _ in range(16):
        await stream.feed(sound[:16])  # 1 ms: not enough to make up for it
    behind_s = vad.hearing.behind_s
    assert len(behind_s) == 3
    assert behind_s[2] > 0.1
    assert min(behind_s) >= 0


def test_answers_of_several_processes_are_joined() -> None:
    one = {
        **dict.fromkeys(("cpu_s", "loop_cpu_s", "lag_p50_ms", "lag_p99_ms", "lag_max_ms"), 1.0),
        **dict.fromkeys(("received", "queue_dropped", "windows", "batches", "silent_windows", "send_gaps"), 2),
        **{name: [3.0] for name in ("behind_ms", "gc_ms", "send_ms")},
    }
    both = Answer.together([one, one | {"lag_max_ms": 9.0, "send_ms": [4.0]}])
    assert (both.cpu_s, both.received, both.send_ms, both.lag_p99_ms, both.lag_max_ms) == (2.0, 4, [3.0, 4.0], 1.0, 9.0)


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_a_monologue_has_the_share_of_speech_that_was_asked_for(share: float) -> None:
    speech = monologue(RECORDINGS, speech_share=share, frame_ms=60)
    whole = monologue(RECORDINGS, speech_share=1.0, frame_ms=60)
    assert len(whole.frames) / len(speech.frames) == pytest.approx(share, abs=0.03)
    decoder = OpusDecoder(sample_rate_hz=16000)
    heard = np.concatenate([decoder.decode(frame) for frame in speech.frames])
    assert len(heard) == len(speech.frames) * 960


def test_cores_are_busy() -> None:
    if not Path("/proc/stat").exists():
        pytest.skip("no /proc")
    assert busy_s([0]) > 0
    assert busy_s([]) == 0
