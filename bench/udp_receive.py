"""CPU time of one received and one sent audio packet, all in: socket, parse, lookup, replay, decrypt, plausibility, jitter buffer, queue.

A second process plays the devices: it enciphers beforehand and sends at a fixed rate, so that this process sleeps in
between as a server does. The reader takes frames in batches, every 100 ms.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import select
import socket
import sys
import time
from collections.abc import Iterator

import uvloop
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.report import Options, Row
from udp_audio import AudioChannel, AudioServer

OPUS_BYTES = 120  # 60 ms at 16 kbit/s
TICK_S = 0.005
SESSIONS = 200
RATE = 20_000
"""Packets a second over all sessions."""


async def serve(packets: int) -> tuple[float, float, int]:
    """CPU microseconds of a received packet and of a sent one, and how many were lost on the way here."""
    server = AudioServer()
    port = await server.start(host="127.0.0.1", port=0, receive_buffer_bytes=4 << 20)
    channels = [server.open(frame_ms=60, peer_ip="127.0.0.1") for _ in range(SESSIONS)]
    generator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.udp_receive"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert generator.stdin is not None
    assert generator.stdout is not None
    each = packets // SESSIONS
    plan = {"port": port, "packets": each, "sessions": [[channel.key.hex(), channel.nonce.hex()] for channel in channels]}
    generator.stdin.write(json.dumps(plan).encode() + b"\n")
    await generator.stdout.readline()  # enciphered and ready
    generator.stdin.write(b"go\n")
    frames, cpu_s = await receive(server, channels, asyncio.ensure_future(generator.stdout.readline()))  # noqa: TID251 - awaited there
    received = server.stats.received
    if frames != received:
        raise SystemExit(f"{received} packets came, {frames} frames were handed on")
    send_cpu_s = send(channels, packets)
    sent = server.stats.sent
    generator.stdin.write(b"end\n")
    await generator.wait()
    await server.aclose()
    return cpu_s / received * 1e6, send_cpu_s / sent * 1e6, each * SESSIONS - received


async def receive(server: AudioServer, channels: list[AudioChannel], done: asyncio.Future[bytes]) -> tuple[int, float]:
    """Frames taken and CPU seconds used until the generator is done."""
    frames = 0
    begin_s = time.process_time()
    while not done.done():
        await asyncio.wait([done], timeout=0.1)
        for channel in channels:
            frames += len(channel._core.take())  # noqa: SLF001 - a batch without a task for each channel
    cpu_s = time.process_time() - begin_s
    if not server.stats.received:
        sys.exit("nothing was received")
    return frames, cpu_s


def send(channels: list[AudioChannel], packets: int) -> float:
    """CPU seconds for sending to all channels in turn. The other side does not read: the kernel drops, which is part of the cost."""
    opus = secrets.token_bytes(OPUS_BYTES)
    begin_s = time.process_time()
    for _ in range(packets // len(channels)):
        for channel in channels:
            channel.send(opus)
    return time.process_time() - begin_s


def generate() -> None:
    """The devices' process: plan in, "ready", "go", packets, "done", "end"."""
    plan = json.loads(sys.stdin.readline())
    sessions = [(bytes.fromhex(key), bytes.fromhex(nonce)) for key, nonce in plan["sessions"]]
    opus = b"\x58" + secrets.token_bytes(OPUS_BYTES - 1)
    datagrams: list[bytes] = []
    for sequence in range(1, plan["packets"] + 1):
        for key, nonce in sessions:
            header = nonce[:2] + len(opus).to_bytes(2, "big") + nonce[4:12] + sequence.to_bytes(4, "big")
            datagrams.append(header + Cipher(algorithms.AES(key), modes.CTR(header)).encryptor().update(opus))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", plan["port"]))
    print("ready", flush=True)
    sys.stdin.readline()
    batch = max(1, int(RATE * TICK_S))
    begin_s = time.perf_counter()
    for number in range(0, len(datagrams), batch):
        for datagram in datagrams[number : number + batch]:
            sock.send(datagram)
        wait_s = begin_s + (number + batch) / RATE - time.perf_counter()
        if wait_s > 0:
            select.select([], [], [], wait_s)
    select.select([], [], [], 0.3)  # the last ones are on their way
    print("done", flush=True)
    sys.stdin.readline()


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    packets = 20_000 if options.quick else 100_000
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        receive_us, send_us, lost = runner.run(serve(packets))
    note = f"{SESSIONS} sessions, {RATE:,} packets/s, {lost} lost"
    yield Row(part="udp", case="CPU of a received packet", value=receive_us, unit="us", at_most=8, note=note)
    yield Row(part="udp", case="CPU of a sent packet", value=send_us, unit="us", note="enciphered and handed to the kernel")


if __name__ == "__main__":
    generate()
