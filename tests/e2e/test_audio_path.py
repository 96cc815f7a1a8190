"""Checklist E: UDP audio, both directions, as it stands on the wire."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge import turn
from bridge.device import Impairment, is_message
from bridge.device.codec import Decoder
from providers.base import PcmFrame
from tests.e2e.pitch import EchoLlm, PitchAsr, PitchTts, pitch_of
from tests.e2e.raw_device import RawDevice, counter_blocks, raw_device, udp_socket
from tests.e2e.running import Cast, Server, running, sung
from tests.scripted import ScriptedLlm

FRAME_S = 0.06
LONG_S = 30.06
"""Three sentences of 167 frames."""


def loud_s(heard: PcmFrame) -> float:
    """How long the tone lasts in what the recogniser got: a sine of 8000 is over 1000 for 92 % of the time."""
    return float((np.abs(heard.samples.astype(np.int32)) > 1000).sum()) / 16000 / 0.92


# -- downlink --------------------------------------------------------------------------------------------------------------
async def test_check_061_065_and_075_header_of_every_packet(tmp_path: Path) -> None:
    """Numbers go on over the turns of one hello, and begin again with the next."""
    async with running(tmp_path) as server, raw_device(server) as device:
        for _ in range(2):
            device.socket.datagrams.clear()
            await device.hello()
            for hz in (400, 600):
                assert await device.answer(device.sing(hz)) == [f"You sang {hz}."]
            packets = device.packets
            assert [packet.sequence for packet in packets] == list(range(1, len(packets) + 1))
            assert {packet.kind for packet in packets} == {1}
            assert all(packet.length == len(packet.datagram) - 16 for packet in packets)
            assert all(len(packet.datagram) <= 1400 for packet in packets)
            assert {packet.flags for packet in packets} == {0x80}
            assert device.session.nonce[1] == 0
            decoder = Decoder()
            assert {len(decoder.decode(packet.opus)) for packet in packets} == {1440}
            assert {packet.timestamp for packet in packets} == {0}


async def test_check_065_largest_datagrams(tmp_path: Path) -> None:
    """The highest bit rate, on noise."""

    @dataclass
    class Noise(PitchTts):
        async def synthesize(self, text: str):  # type: ignore[no-untyped-def]
            yield PcmFrame(np.random.default_rng(1).integers(-20000, 20000, 48000).astype(np.int16), 48000)

    settings = {"audio.bitrate_bps": 128000, "audio.sample_rate_hz": 48000}
    async with running(tmp_path, Cast(tts=Noise()), settings=settings) as server, raw_device(server) as device:
        await device.hello()
        await device.answer(device.sing(500))
        sizes = [len(packet.datagram) for packet in device.packets]
        assert 600 < max(sizes) <= 1400


async def test_check_062_and_063_long_answer_is_paced_for_every_queue(tmp_path: Path) -> None:
    """Half a minute of speech for queues of 40, 10 and 40 packets of 60 ms, and to a client that looks at the clock."""
    cast = Cast(llm=ScriptedLlm((("La 300. ", "Li 500. ", "Lo 700. "),)), tts=PitchTts(seconds=LONG_S / 3))
    async with (
        running(tmp_path, cast) as server,
        server.device(1) as new,
        server.device(2, profile="1.6.2") as old,
        server.device(3, profile="py-xiaozhi") as desktop,
        raw_device(server, 4) as raw,
        asyncio.TaskGroup() as tasks,
    ):
        devices = (new, old, desktop)
        for device in devices:
            await device.boot()
        await raw.hello()
        turns = [tasks.create_task(device.converse(sung(500, frame_ms=device.profile.frame_ms), timeout_s=60)) for device in devices]
        answer = tasks.create_task(raw.answer(raw.sing(500), timeout_s=60))
        for device, task in zip(devices, turns, strict=True):
            record = await task
            assert record.counters.dropped == {}, device.profile.name
            assert record.counters.max_depth <= 6
            assert record.counters.lost_packets == 0
            assert record.counters.underrun_s < 1.0  # none at all but for a stall of this machine
            assert abs(len(record.heard_wav) / 24000 - LONG_S) < 1.5
        assert await answer == ["La 300.", "Li 500.", "Lo 700."]
        times = [packet.at_s for packet in raw.packets]
        assert len(times) == 501
        assert sum(at_s < times[0] + FRAME_S / 2 for at_s in times) <= 5
        ahead = [number * FRAME_S - (at_s - times[0]) for number, at_s in enumerate(times)]
        assert max(ahead) < 6 * FRAME_S  # by the device's playback clock; never near the 20 that overflow
        assert abs((times[-1] - times[0]) - (LONG_S - 4 * FRAME_S)) < 0.01 * LONG_S


async def test_check_066_audio_waits_for_the_address(tmp_path: Path) -> None:
    settings = {"session.greeting": "Hello 300"}
    async with running(tmp_path, settings=settings) as server, raw_device(server) as device:
        await device.hello()
        device.listen("detect", text="hello")
        device.listen()
        await device.wait("tts", state="start")
        await asyncio.sleep(0.5)
        assert device.socket.datagrams == []
        device.transmit(sung(500, 0.0, rest_s=0.06).frames)
        await device.wait("tts", state="stop")
        decoder = Decoder()
        heard = np.concatenate([decoder.decode(packet.opus) for packet in device.packets])
        assert pitch_of(heard, rate_hz=24000) == 300
        assert len(heard) == 0.24 * 24000


async def test_check_066_answer_that_nobody_can_hear_ends_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall drops UDP: the greeting is given up, what comes later is not stuck behind it."""
    monkeypatch.setattr(turn, "ADDRESS_WAIT_S", 0.5)  # no setting, and too long to wait for
    settings = {"session.greeting": "Hello 300"}
    async with running(tmp_path, settings=settings) as server, raw_device(server) as device:
        await device.hello()
        device.listen("detect", text="hello")
        device.listen()
        await device.wait("tts", state="stop", timeout_s=30)
        assert await device.answer(device.sing(500)) == ["You sang 500."]
        decoder = Decoder()
        heard = np.concatenate([decoder.decode(packet.opus) for packet in device.packets])
        assert pitch_of(heard, rate_hz=24000) == 500  # nothing of the greeting


async def test_check_067_downlink_follows_a_rebound_port(tmp_path: Path) -> None:
    async with running(tmp_path, Cast(llm=EchoLlm(sentences=20))) as server, raw_device(server) as device, udp_socket() as rebound:
        await device.hello()
        device.sing(500, mode="realtime")
        await device.packets_until(5)
        first, device.socket = device.socket, rebound
        device.transmit(sung(500, 0.0, rest_s=0.18).frames)  # three packets, as a full-duplex device sends all the time
        await device.packets_until(5)
        count = len(first.datagrams)
        await device.packets_until(15)
        assert len(first.datagrams) - count <= 1
        device.abort()


# -- hostile ---------------------------------------------------------------------------------------------------------------
async def _speaking(device: RawDevice) -> None:
    await device.hello()
    device.sing(500, mode="realtime")
    await device.packets_until(3)


async def test_check_068_spoofed_packets_divert_nothing(tmp_path: Path) -> None:
    """Right ssrc, from another port and from another address: invented, and copied from the device."""
    async with (
        running(tmp_path, Cast(llm=EchoLlm(sentences=4))) as server,
        raw_device(server) as device,
        udp_socket() as neighbour,
        udp_socket("127.0.0.2") as stranger,
    ):
        await _speaking(device)
        grant = device.session
        for number in range(1, 60):
            header = grant.nonce[:2] + struct.pack(">H", 80) + grant.nonce[4:8] + struct.pack(">II", 0, device.sequence + number)
            forged = header + np.random.default_rng(number).bytes(80)
            for socket in (stranger, neighbour):
                socket.send(forged, grant.server)
        for datagram in device.sent_datagrams:
            stranger.send(datagram, grant.server)
            neighbour.send(datagram, grant.server)
        await device.wait("tts", state="stop")
        assert neighbour.datagrams == []
        assert stranger.datagrams == []
        assert [packet.sequence for packet in device.packets] == list(range(1, 17))
        assert await device.answer(device.sing(800)) == ["You sang 800."] * 4


async def test_check_069_forged_sequence_does_not_block(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        await device.hello()
        assert await device.answer(device.sing(400)) == ["You sang 400."]
        grant = device.session
        for sequence in (0xFFFFFFF0, 0xFFFFFFFF, 0x7FFFFFFF, device.sequence + 5000):
            header = grant.nonce[:2] + struct.pack(">H", 60) + grant.nonce[4:8] + struct.pack(">II", 0, sequence)
            device.socket.send(header + np.random.default_rng(sequence).bytes(60), grant.server)
            device.socket.send(device.sealed(sung(900).frames[3], sequence=sequence), grant.server)  # even with the key
        assert await device.answer(device.sing(600)) == ["You sang 600."]


async def test_check_070_replayed_and_reordered_packets(tmp_path: Path) -> None:
    asr = PitchAsr()
    async with running(tmp_path, Cast(asr=asr)) as server, raw_device(server) as device:
        await device.hello()
        frames = sung(500, 0.6, rest_s=0.6).frames
        plain = [device.sealed(frame, sequence=number) for number, frame in enumerate(frames, start=1)]
        before = device.events.mark()
        device.listen()
        swapped = [datagram for start in range(0, len(plain), 3) for datagram in reversed(plain[start : start + 3])]
        for number, datagram in enumerate(swapped):
            device.socket.send(datagram, device.session.server)
            device.socket.send(datagram, device.session.server)
            device.socket.send(swapped[max(0, number - 7)], device.session.server)
        assert await device.answer(before) == ["You sang 500."]
        assert len(asr.utterances) == 1
        assert abs(loud_s(asr.utterances[0]) - 0.6) < 0.1
        device.sequence = len(plain)
        before = device.events.mark()
        device.listen()
        for datagram in plain:  # the whole sentence once more
            device.socket.send(datagram, device.session.server)
        device.transmit(sung(800, 0.6, rest_s=0.6).frames)
        assert await device.answer(before) == ["You sang 800."]


async def test_check_071_bad_datagrams_are_dropped_without_a_word(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device, udp_socket() as stranger:
        grant = await device.hello()
        good = device.sealed(sung(500).frames[0], sequence=1)
        bad = [
            b"",
            b"\x01",
            good[:15],
            good[:16],
            b"\x02" + good[1:],
            good[:1] + b"\x80" + good[2:],
            good[:2] + b"\xff\xff" + good[4:],
            good[:4] + b"\xde\xad\xbe\xef" + good[8:],
            good + bytes(3000),
            bytes(60000),
        ]
        for datagram in bad:
            stranger.send(datagram, grant.server)
            device.socket.send(datagram, grant.server)
        assert await device.answer(device.sing(500)) == ["You sang 500."]
        assert stranger.datagrams == []
        metrics = await server.metrics()
        assert metrics["xiaozhi_udp_malformed"] >= 10
        assert metrics["xiaozhi_udp_unknown_ssrc"] == 2
        assert metrics["xiaozhi_udp_wrong_flags"] == 2


async def test_check_072_dtx_empty_and_broken_opus(tmp_path: Path) -> None:
    asr = PitchAsr()
    async with running(tmp_path, Cast(asr=asr)) as server, raw_device(server) as device:
        await device.hello()
        voiced = sung(500, 0.6).frames
        before = device.events.mark()
        device.listen()
        for frame in voiced:
            device.transmit([frame, b"", b"\xff\xff\xff"])  # nothing, and what is no Opus
        broken = bytes([voiced[0][0]]) + bytes(40)  # plausible in its first byte only
        device.transmit([broken, *[b"\xb8"] * 2, *[voiced[0][:1]] * 10])  # DTX: one byte, the device's own configuration
        device.transmit(sung(500, 0.0, rest_s=0.6).frames)
        assert await device.answer(before) == ["You sang 500."]
        assert await device.answer(device.sing(700)) == ["You sang 700."]


async def test_check_073_one_in_ten_lost_and_reordered(tmp_path: Path) -> None:
    asr = PitchAsr()
    bad = Impairment(loss=0.1, jitter_ms=30, reorder=0.05, duplicate=0.05, seed=7)
    options: dict[str, Any] = {"impairment": bad, "downlink_impairment": Impairment(), "realtime": True}
    async with running(tmp_path, Cast(asr=asr), settings={"vad.silence_ms": 300}) as server, server.device(**options) as device:
        await device.boot()
        record = await device.converse(sung(700, 1.0))
        assert record.sentences == ["You sang 700."]
        assert pitch_of(record.heard_wav, rate_hz=24000) == 700
        assert record.counters.lost_packets == 0
        assert asr.utterances[0].duration_s > 1.0  # what was lost is concealed, not cut out
        assert loud_s(asr.utterances[0]) > 0.6  # and concealment fades


# -- keystream -------------------------------------------------------------------------------------------------------------
async def test_check_074_no_counter_block_is_used_twice(tmp_path: Path) -> None:
    """Over three turns: among downlink packets, and between the directions. (The uplink's headers are the firmware's.)"""
    async with running(tmp_path) as server, raw_device(server) as device:
        await device.hello()
        for hz in (400, 600, 800):
            await device.answer(device.sing(hz, mode="realtime"))
        down = [block for packet in device.packets for block in counter_blocks(packet.datagram)]
        up = {block for datagram in device.sent_datagrams for block in counter_blocks(datagram)}
        assert len(down) > 100
        assert len(set(down)) == len(down)
        assert not up & set(down)


async def test_check_076_timestamps_for_echo_cancelling_devices(tmp_path: Path) -> None:
    async with running(tmp_path) as server, raw_device(server) as device:
        await device.hello(features={"aec": True, "mcp": False})
        for hz in (400, 600):
            device.listen(mode="realtime")
            before = device.events.mark()
            device.transmit(sung(hz, 0.6, rest_s=0.6).frames, timestamp=12345)
            assert await device.answer(before) == [f"You sang {hz}."]
        stamps = [packet.timestamp for packet in device.packets]
        assert stamps[0] > 0
        assert {second - first for first, second in pairwise(stamps)} == {60}


async def test_check_077_older_clients(tmp_path: Path) -> None:
    """With all their differences: kept nonce bytes, equal sequence numbers, 20 ms frames, goodbyes that are answered."""

    async def converse(server: Server, number: int, profile: str) -> None:
        async with server.device(number, profile=profile) as device:
            await device.boot()
            for hz in (400, 700):
                record = await device.converse(sung(hz, frame_ms=device.profile.frame_ms))
                assert record.sentences == [f"You sang {hz}."]
                assert pitch_of(record.heard_wav, rate_hz=24000) == hz
                assert record.counters.dropped == {}
            assert device.stats.crashes == 0
            assert device.things.crashes == 0
            await device.wait_for(is_message("goodbye"), since=0)
            await server.settled("xiaozhi_bridge_sessions", 0)
            assert len([event for event in device.events if event.message["type"] == "goodbye"]) == 1

    async with running(tmp_path, beyond={"session.idle_timeout_s": 1.5}) as server, asyncio.TaskGroup() as tasks:
        for number, profile in enumerate(("2.1", "1.8", "1.6.2", "py-xiaozhi"), start=1):
            tasks.create_task(converse(server, number, profile))
