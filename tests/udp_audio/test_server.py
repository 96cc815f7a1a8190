"""Real sockets on loopback, on both event loops. 127.0.0.2 and the like stand for other hosts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import structlog

from tests.udp_audio.stand_in import SILENCE_60_MS, Downlink, counter_blocks, read_downlink, udp_socket, uplink
from udp_audio import AudioChannel, AudioServer, ChannelClosed, UplinkFrame, server


class Device:
    """A client socket with the key of one channel."""

    def __init__(self, channel: AudioChannel, port: int, *, ip: str = "127.0.0.1") -> None:
        self.channel, self.port = channel, port
        self.sent: list[bytes] = []
        self.heard: list[bytes] = []
        self.sockets: list[socket.socket] = []
        self.rebind(ip)

    def rebind(self, ip: str = "127.0.0.1") -> None:
        self.socket = udp_socket(ip)
        self.sockets.append(self.socket)

    def say(self, sequence: int, opus: bytes = SILENCE_60_MS) -> None:
        self.throw(uplink(self.channel.key, self.channel.nonce, sequence, opus))

    def throw(self, datagram: bytes) -> None:
        self.sent.append(datagram)
        self.socket.sendto(datagram, ("127.0.0.1", self.port))

    async def hear(self) -> Downlink:
        async with asyncio.timeout(5):
            datagram = await asyncio.get_running_loop().sock_recv(self.socket, 2000)
        self.heard.append(datagram)
        return read_downlink(self.channel.key, datagram)

    async def hears_nothing(self) -> bool:
        await asyncio.sleep(0.05)
        try:
            self.socket.recv(2000)
        except BlockingIOError:
            return True
        return False


Dial = Callable[..., Device]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Makes devices and closes their sockets."""
    devices: list[Device] = []

    def make(channel: AudioChannel, port: int, *, ip: str = "127.0.0.1") -> Device:
        devices.append(Device(channel, port, ip=ip))
        return devices[-1]

    yield make
    for device in devices:
        for sock in device.sockets:
            sock.close()


async def frames_of(channel: AudioChannel, count: int) -> list[int]:
    sequences: list[int] = []
    async with asyncio.timeout(5):
        while len(sequences) < count:
            sequences += [frame.sequence for frame in await channel.receive() if not frame.lost]
    return sequences


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a counter says so."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def audio() -> AsyncIterator[AudioServer]:
    audio = AudioServer()
    yield audio
    await audio.aclose()


@pytest.fixture
async def port(audio: AudioServer) -> int:
    return await audio.start(host="127.0.0.1", port=0, receive_buffer_bytes=1 << 20)


async def test_two_channels_hear_only_their_own(audio: AudioServer, port: int, dial: Dial) -> None:
    channels = [audio.open(frame_ms=60, peer_ip="127.0.0.1") for _ in range(2)]
    devices = [dial(channel, port) for channel in channels]
    for sequence in range(1, 6):
        for number, device in enumerate(devices):
            device.say(sequence, b"\x58" + bytes([number, sequence]))
    for number, channel in enumerate(channels):
        frames: list[UplinkFrame] = []
        while len(frames) < 5:
            frames += await channel.receive()
        assert [frame.opus for frame in frames] == [b"\x58" + bytes([number, sequence]) for sequence in range(1, 6)]
        assert frames[0].received_at == pytest.approx(asyncio.get_running_loop().time(), abs=5)
    for number, channel in enumerate(channels):
        channel.send(b"to %d" % number)
        channel.send(b"again", timestamp_ms=120)
    for number, device in enumerate(devices):
        assert await device.hear() == Downlink(flags=0x80, timestamp=0, sequence=1, opus=b"to %d" % number)
        assert await device.hear() == Downlink(flags=0x80, timestamp=120, sequence=2, opus=b"again")


async def test_check_033_key_and_ssrc_are_fresh(audio: AudioServer, port: int) -> None:
    channels = [audio.open(frame_ms=60, peer_ip=None) for _ in range(50)]
    assert port > 0
    assert len({channel.key for channel in channels}) == len({channel.ssrc for channel in channels}) == 50
    for channel in channels:
        assert channel.nonce == bytes.fromhex("01000000") + channel.ssrc.to_bytes(4, "big") + bytes(8)
        assert len(channel.key) == 16


async def test_check_045_thousand_sessions_leave_nothing(audio: AudioServer, port: int) -> None:
    assert port > 0
    for _ in range(1000):
        audio.open(frame_ms=60, peer_ip="127.0.0.1").close()
    assert (audio.stats.channels_opened, audio.stats.channels_open) == (1000, 0)
    assert not audio._channels


async def test_check_066_frames_wait_for_the_address(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    for number in range(5):
        channel.send(b"frame %d" % number)
    assert await device.hears_nothing()
    assert channel.peer is None
    device.say(1)
    async with asyncio.timeout(5):
        await channel.reachable()
    assert [(await device.hear()).opus for _ in range(5)] == [b"frame %d" % number for number in range(5)]
    assert channel.peer == device.socket.getsockname()


async def test_check_067_downlink_follows_a_new_port(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    device.say(1)
    await frames_of(channel, 1)
    device.rebind()
    device.say(2)
    await frames_of(channel, 1)
    channel.send(b"follows")
    assert (await device.hear()).opus == b"follows"


async def test_check_067_downlink_follows_to_another_network(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    device.say(1)
    await frames_of(channel, 1)
    device.rebind("127.0.0.3")
    for sequence in (2, 3, 4):
        device.say(sequence)
    assert await frames_of(channel, 3) == [2, 3, 4]
    channel.send(b"follows")
    assert (await device.hear()).opus == b"follows"


async def test_check_068_spoofed_packets_divert_nothing(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device, spoofers = dial(channel, port), [dial(channel, port, ip=ip) for ip in ("127.0.0.1", "127.0.0.2")]
    device.say(1)
    await frames_of(channel, 1)
    dice = random.Random(68)
    for spoofer in spoofers:
        for sequence in range(2, 40):
            header = channel.nonce[:2] + (40).to_bytes(2, "big") + channel.nonce[4:12] + sequence.to_bytes(4, "big")
            # two bits of the plaintext are known to be wrong (stereo), whatever the key
            opus = b"\x5c" + dice.randbytes(39)
            spoofer.throw(uplink(channel.key, channel.nonce, sequence, opus) if sequence % 2 else header + opus)
    spoofers[1].throw(device.sent[0])  # and a true packet once more
    device.say(2)
    assert await frames_of(channel, 1) == [2]
    channel.send(b"for the device")
    assert (await device.hear()).opus == b"for the device"
    assert channel.peer == device.socket.getsockname()
    for spoofer in spoofers:
        assert await spoofer.hears_nothing()


async def test_check_070_replayed_packets_are_heard_once(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device, attacker = dial(channel, port), dial(channel, port, ip="127.0.0.2")
    for sequence in range(1, 6):
        device.say(sequence)
    assert await frames_of(channel, 5) == [1, 2, 3, 4, 5]
    for datagram in list(device.sent):
        device.throw(datagram)
        attacker.throw(datagram)
    await until(lambda: channel.stats.duplicates == 10)
    device.say(6)
    assert await frames_of(channel, 1) == [6]
    assert channel.peer == device.socket.getsockname()


async def test_check_071_bad_datagrams_are_not_answered(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    good = uplink(channel.key, channel.nonce, 1)
    bad = [b"", b"\x01", good[:16], b"\x02" + good[1:], good + b"x", good[:-1], bytes(3000), bytes([1, 0x80]) + good[2:]]
    stranger = bytes([1, 0]) + good[2:4] + ((channel.ssrc + 1) % 2**32).to_bytes(4, "big") + good[8:]
    for datagram in (*bad, stranger):
        device.throw(datagram)
    await until(lambda: audio.stats.received >= len(bad) + 1)
    assert (audio.stats.malformed, audio.stats.wrong_flags, audio.stats.unknown_ssrc) == (7, 1, 1)
    assert channel.peer is None
    assert await device.hears_nothing()
    device.say(1)
    assert await frames_of(channel, 1) == [1]


async def test_stream_with_a_wrong_key_is_said_once(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    with structlog.testing.capture_logs() as entries:
        for sequence in range(1, 70):
            device.say(sequence, b"\xff" * 40)
        await until(lambda: channel.stats.implausible == 69)
    assert [(entry["log_level"], entry["packets"]) for entry in entries] == [("warning", 50)]
    assert channel.key.hex() not in repr(entries)


async def test_check_098_hundred_thousand_random_datagrams(audio: AudioServer, port: int, dial: Dial) -> None:
    """Fed to the protocol object itself, which is what the loop does, so that none is lost on the way."""
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    device.say(1)
    await frames_of(channel, 1)
    dice = random.Random(98)
    for number in range(100_000):
        body = dice.randbytes(dice.choice((0, 1, 2, 16, 17, 60, 200)))
        if number % 2:
            sequence = dice.choice((2 + number // 1000, dice.getrandbits(32)))
            body = channel.nonce[:2] + len(body).to_bytes(2, "big") + channel.nonce[4:12] + sequence.to_bytes(4, "big") + body
        audio.datagram_received(body, ("127.0.0.2", 1024 + number % 60_000))
    assert channel.stats.implausible > 1000
    assert channel.peer == device.socket.getsockname()
    device.say(2)
    assert await frames_of(channel, 1) == [2]


async def test_check_074_captured_packets_share_no_counter_block(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    for sequence in range(1, 40):
        device.say(sequence, b"\x58" + bytes(120))
        await frames_of(channel, 1)
        channel.send(b"\x58" + bytes(120))
        await device.hear()
    down = [block for datagram in device.heard for block in counter_blocks(datagram)]
    up = [block for datagram in device.sent for block in counter_blocks(datagram)]
    assert len(set(down)) == len(down) == 39 * 8
    assert set(down).isdisjoint(up)


async def test_loss_is_given_up_by_the_clock(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    device.say(1)
    device.say(3)
    frames: list[UplinkFrame] = []
    async with asyncio.timeout(5):
        while len(frames) < 3:
            frames += await channel.receive()
    assert [(frame.sequence, frame.lost, frame.opus) for frame in frames] == [
        (1, False, SILENCE_60_MS),
        (2, True, b""),
        (3, False, SILENCE_60_MS),
    ]
    device.say(5)  # the clock runs for the next gap as well
    device.say(6)
    assert await frames_of(channel, 2) == [5, 6]


async def test_cancelled_receive_loses_nothing(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    got: list[int] = []
    for sequence in range(1, 41):
        device.say(sequence)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001 * (sequence % 2)):
                got += [frame.sequence for frame in await channel.receive()]
    got += await frames_of(channel, 40 - len(got)) if len(got) < 40 else []
    assert got == list(range(1, 41))


async def test_check_036_closed_channel_is_dead_at_once(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    device.say(1)
    device.say(3)  # leaves a gap, hence a timer
    await until(lambda: channel.stats.reception.received == 2)
    channel.close()
    channel.close()
    device.say(4)
    await until(lambda: audio.stats.unknown_ssrc == 1)
    with pytest.raises(ChannelClosed):
        await channel.receive()
    with pytest.raises(ChannelClosed):
        await channel.reachable()
    with pytest.raises(ChannelClosed):
        channel.send(b"late")
    channel.discard_unsent()


async def test_close_wakes_the_reader(audio: AudioServer, port: int) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    assert port > 0
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the group is what raises
        async with asyncio.TaskGroup() as group:
            group.create_task(channel.receive())
            await asyncio.sleep(0.01)
            channel.close()
    assert caught.value.subgroup(ChannelClosed) is not None


async def test_check_094_key_is_not_shown(audio: AudioServer, port: int) -> None:
    assert port > 0
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    assert channel.key.hex() not in repr(channel)
    assert repr(channel.key) not in repr(channel)
    assert f"{channel.ssrc:08x}" in repr(channel)


async def test_check_097_dual_stack_socket_serves_ipv4(audio: AudioServer, dial: Dial) -> None:
    try:
        port = await audio.start(host="::", port=0, receive_buffer_bytes=1 << 18)
    except OSError:
        pytest.skip("no IPv6 here")
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    device.say(1)
    await frames_of(channel, 1)
    assert channel.peer == device.socket.getsockname()
    channel.send(b"mapped")
    assert (await device.hear()).opus == b"mapped"


async def test_closed_server_refuses(audio: AudioServer, port: int) -> None:
    channel = audio.open(frame_ms=60, peer_ip=None)
    with pytest.raises(RuntimeError, match="already started"):
        await audio.start(host="127.0.0.1", port=port, receive_buffer_bytes=1 << 16)
    await audio.aclose()
    await audio.aclose()
    assert channel.closed
    with pytest.raises(RuntimeError, match="not started"):
        audio.open(frame_ms=60, peer_ip=None)
    audio.transmit(b"nowhere", ("127.0.0.1", 9))
    assert audio.stats.send_dropped == 1
    assert await audio.start(host="127.0.0.1", port=port, receive_buffer_bytes=1 << 16) == port


async def test_taken_port_is_an_error_and_leaves_no_socket(port: int) -> None:
    other = AudioServer()
    with pytest.raises(OSError, match=r"."):
        await other.start(host="127.0.0.1", port=port, receive_buffer_bytes=1 << 16)
    await other.aclose()


async def test_small_receive_buffer_is_said(audio: AudioServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SO_RCVBUFFORCE", 9999)  # as without the privilege
    with structlog.testing.capture_logs() as entries:
        await audio.start(host="127.0.0.1", port=0, receive_buffer_bytes=1 << 30)
    assert audio.receive_buffer_bytes < 1 << 30
    assert [entry["fix"] for entry in entries] == [f"sysctl -w net.core.rmem_max={1 << 30}"]


async def test_choked_socket_drops_and_counts(audio: AudioServer, port: int, dial: Dial) -> None:
    channel = audio.open(frame_ms=60, peer_ip="127.0.0.1")
    device = dial(channel, port)
    device.say(1)
    await frames_of(channel, 1)
    audio.pause_writing()
    channel.send(b"dropped")
    audio.resume_writing()
    channel.send(b"passes")
    assert (await device.hear()).opus == b"passes"
    assert audio.stats.send_dropped == 1
    audio.error_received(ConnectionRefusedError())
    assert audio.stats.send_errors == 1


def test_granted_buffer_is_what_was_asked_for() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert server._enlarge_receive_buffer(sock, 65536) == 65536
