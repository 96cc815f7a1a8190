"""The harness itself, then a whole channel on bad networks: the device's packets in, the ear's frames out, on a virtual clock."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest

from tests.udp_audio.impaired_link import BurstLoss, Conditions, ImpairedLink, Wire
from tests.udp_audio.stand_in import SILENCE_60_MS, read_downlink, uplink
from udp_audio.channel import ChannelCore, UplinkFrame
from udp_audio.pacer import Pacer
from udp_audio.packet import parse

KEY = bytes(range(16))
FRAME_S = 0.06
HOME = ("192.0.2.7", 4000)


def passed(wire: Wire, count: int, *, every_s: float = FRAME_S, size: int = 100) -> list[tuple[float, int]]:
    """Arrival time and number of each datagram that came through."""
    for number in range(count):
        wire.send(number.to_bytes(4, "big") + bytes(size - 4), number * every_s)
    return [(at, int.from_bytes(datagram[:4], "big")) for at, datagram in wire.arrived(1e9)]


def test_a_clean_wire_changes_nothing() -> None:
    assert passed(Wire(Conditions()), 50) == [(number * FRAME_S, number) for number in range(50)]


def test_the_same_seed_is_the_same_network() -> None:
    bad = Conditions(loss=0.1, jitter_ms=150, reorder=0.1, duplicate=0.1, burst=BurstLoss(loss=0.1))
    assert passed(Wire(bad, 7), 500) == passed(Wire(bad, 7), 500)
    assert passed(Wire(bad, 7), 500) != passed(Wire(bad, 8), 500)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_loss_is_what_was_asked_for_and_bursts_are_bursts(share: float) -> None:
    single, burst = Wire(Conditions(loss=share), 1), Wire(Conditions(burst=BurstLoss(loss=share, mean_packets=4)), 1)
    runs = []
    for wire in (single, burst):
        numbers = [number for _, number in passed(wire, 20_000)]
        assert wire.stats.lost / 20_000 == pytest.approx(share, rel=0.15)
        gaps = sum(after - before > 1 for before, after in itertools.pairwise(numbers))
        runs.append(wire.stats.lost / gaps)
    assert runs[0] == pytest.approx(1 / (1 - share), rel=0.1)
    assert runs[1] == pytest.approx(4, rel=0.1)


def test_a_bottleneck_queues_and_then_drops() -> None:
    # 128 bytes with headers in 62.5 ms: 16,384 bit/s
    wire = Wire(Conditions(rate_bps=16_384, queue_ms=200))
    times = [at for at, _ in passed(wire, 10, every_s=0.0)]
    assert times == pytest.approx([0.0625, 0.125, 0.1875, 0.25])
    assert wire.stats.choked == 6


def test_the_directions_do_not_share_dice() -> None:
    conditions = Conditions(loss=0.3)
    quiet, busy = ImpairedLink(up=conditions, down=conditions, seed=3), ImpairedLink(up=conditions, down=conditions, seed=3)
    for number in range(100):
        busy.down.send(bytes(20), number)
    assert passed(quiet.up, 200) == passed(busy.up, 200)


# -- a channel on such networks -------------------------------------------------------------------------------------------
@dataclass
class Call:
    """A device that talks for a while and hears an answer, both at once."""

    link: ImpairedLink
    packets: int = 500
    lead_frames: int = 4
    core: ChannelCore = field(init=False)
    frames: list[UplinkFrame] = field(default_factory=list)
    heard: list[tuple[float, int]] = field(default_factory=list)
    """Arrival and sequence of each downlink packet."""
    waits_s: list[float] = field(default_factory=list)
    """Of each frame of the device that was not lost: from the arrival of its packet to the ear."""

    def run(self) -> None:
        self.core = ChannelCore(ssrc=0x01020304, key=KEY, frame_ms=60, mqtt_ip=HOME[0], counter_start=5, now=0.0)
        spoken = played = 0
        pacer = Pacer(frame_s=FRAME_S, lead_frames=self.lead_frames)
        now = 0.0
        while True:
            due = [self.link.due, self.core.deadline]
            due.append(spoken * FRAME_S if spoken < self.packets else None)
            due.append(max(1.0, pacer.next_send(now)) if played < self.packets else None)
            times = [at for at in due if at is not None]
            if not times:
                break
            now = max(now, min(times))
            if spoken < self.packets and spoken * FRAME_S <= now:
                spoken += 1
                self.link.up.send(uplink(KEY, self.core.nonce, spoken), now)
            if played < self.packets and now >= 1.0 and pacer.next_send(now) <= now:
                datagram = self.core.send(SILENCE_60_MS, timestamp_ms=0)
                if datagram is not None:
                    self.link.down.send(datagram, now)
                pacer.sent(now)
                played += 1
            self._deliver(now)

    def _deliver(self, now: float) -> None:
        for at, datagram in self.link.up.arrived(now):
            header = parse(datagram)
            assert header is not None
            self.core.receive(header, datagram, HOME, at)
        if self.core.deadline is not None and self.core.deadline <= now:
            self.core.poll(now)
        for frame in self.core.take():
            self.frames.append(frame)
            if not frame.lost:
                self.waits_s.append(now - frame.received_at)
        self.heard += [(at, read_downlink(KEY, datagram).sequence) for at, datagram in self.link.down.arrived(now)]

    @property
    def numbers(self) -> list[int]:
        return [frame.sequence for frame in self.frames]


NETWORKS = {
    "clean": Conditions(delay_ms=5, jitter_ms=2),
    "lossy": Conditions(delay_ms=20, loss=0.1, jitter_ms=5),
    "bursty": Conditions(delay_ms=20, burst=BurstLoss(loss=0.1), jitter_ms=5),
    "jittery": Conditions(delay_ms=20, jitter_ms=150),
    "reordering": Conditions(delay_ms=20, reorder=0.1, reorder_ms=100),
    "all at once": Conditions(delay_ms=40, jitter_ms=120, loss=0.05, duplicate=0.05, burst=BurstLoss(loss=0.05), reorder=0.05),
    "narrow": Conditions(delay_ms=40, rate_bps=7_000),  # 48 bytes a frame are 6,400 bit/s
}


@pytest.mark.parametrize("name", NETWORKS)
def test_check_070_every_frame_once_and_in_order(name: str) -> None:
    call = Call(ImpairedLink(up=NETWORKS[name], seed=70))
    call.run()
    assert call.numbers == sorted(set(call.numbers))
    stats = call.core.stats.reception
    delivered = sum(not frame.lost for frame in call.frames)
    assert delivered + stats.late == stats.received
    assert stats.lost == call.link.up.stats.lost - (500 - stats.highest)
    # what the link has delivered is used, but for a straggler now and then
    assert stats.late <= 0.04 * stats.received


@pytest.mark.parametrize("name", ["lossy", "bursty", "all at once"])
def test_check_073_loss_uplink_leaves_the_downlink_alone(name: str) -> None:
    call = Call(ImpairedLink(up=NETWORKS[name], seed=73))
    call.run()
    arrivals = [at for at, _ in call.heard]
    assert [sequence for _, sequence in call.heard] == list(range(1, 501))
    assert max(after - before for before, after in itertools.pairwise(arrivals)) < 0.061


def test_a_clean_link_is_not_delayed_and_a_loss_only_briefly() -> None:
    call = Call(ImpairedLink(up=NETWORKS["clean"]))
    call.run()
    assert max(call.waits_s) == 0.0
    call = Call(ImpairedLink(up=NETWORKS["lossy"]))
    call.run()
    late_half = call.waits_s[len(call.waits_s) // 2 :]
    assert max(late_half) <= 0.05  # half a frame, and three times a jitter of 2 ms


def test_the_wait_follows_the_link() -> None:
    bad = Call(ImpairedLink(up=NETWORKS["jittery"]))
    bad.run()
    good = Call(ImpairedLink(up=NETWORKS["lossy"]))
    good.run()
    assert bad.core.stats.reception.late < 0.02 * 500
    assert bad.core.stats.reception.max_hold_s > 2 * good.core.jitter_hold_s
    assert max(bad.waits_s) <= 0.24 + 1e-6


def test_duplicates_are_heard_once() -> None:
    call = Call(ImpairedLink(up=Conditions(duplicate=1.0, jitter_ms=30)))
    call.run()
    assert call.numbers == list(range(1, 501))
    assert call.core.stats.duplicates == 500


@pytest.mark.parametrize("seed", range(20))
def test_any_network_ends_without_a_leftover(seed: int) -> None:
    dice = random.Random(seed)
    up = Conditions(
        loss=dice.uniform(0, 0.3),
        burst=BurstLoss(loss=dice.uniform(0, 0.3), mean_packets=dice.uniform(1, 8)),
        jitter_ms=dice.uniform(0, 400),
        reorder=dice.uniform(0, 0.2),
        reorder_ms=dice.uniform(0, 500),
        duplicate=dice.uniform(0, 0.2),
    )
    call = Call(ImpairedLink(up=up, seed=seed), packets=150)
    call.run()
    assert call.core.deadline is None
    assert call.numbers == sorted(set(call.numbers))
