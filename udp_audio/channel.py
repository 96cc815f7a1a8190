"""One device's audio channel without its socket: datagrams and the time in, frames and datagrams out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from udp_audio.address import RUN_PACKETS, Address, PeerAddress
from udp_audio.cipher import Encryption, datagram_cipher
from udp_audio.jitter import JitterBuffer, ReceptionStats
from udp_audio.opus import plausible
from udp_audio.packet import MAX_DOWNLINK_PAYLOAD_BYTES, Header, downlink_header, uplink_nonce
from udp_audio.replay import ReplayWindow, Verdict

MAX_QUEUED_FRAMES = 50
"""Uplink frames that wait for a reader (3 s at 60 ms); when full the oldest goes."""
MAX_UNSENT_FRAMES = 40
"""Downlink frames that wait for the device's address: a device's whole queue; when full the newest is refused."""

_MAX_FORWARD = 1000
_MAX_RUNS = 8
"""Addresses on probation at a time."""


class UplinkFrame(NamedTuple):
    """One frame from the device, in order. A frame that got lost has ``lost`` set and no bytes; a jump of ``sequence``
    by more than one is a longer loss. A named tuple and not a dataclass: one is made for every datagram."""

    opus: bytes
    sequence: int
    timestamp_ms: int
    """From a device with server AEC: the timestamp of the downlink frame it was playing; else 0."""
    lost: bool
    received_at: float
    """Event loop time at which the packet came in or was given up."""


@dataclass(slots=True)
class ChannelStats:
    """Counters of one channel."""

    reception: ReceptionStats = field(default_factory=ReceptionStats)
    duplicates: int = 0
    old: int = 0
    far_ahead: int = 0
    implausible: int = 0
    forged: int = 0
    """Not authentic; in an authenticated session only."""
    distrusted: int = 0
    """Plausible packets dropped because their address or sequence number was never confirmed."""
    queue_dropped: int = 0
    address_moves: int = 0
    sent: int = 0
    unsent_refused: int = 0
    unsent_discarded: int = 0


class ChannelCore:
    """Composes header, replay window, cipher, plausibility, address and jitter buffer of one session.

    A packet is decrypted only if its number is new, and its number and address count only once its plaintext is plausible
    Opus of the announced duration. What comes from an unconfirmed address, or jumps ahead by more than a replay window,
    is kept until three such packets came in a row; then all of them count.

    In an authenticated session (``encryption`` with a tag) nothing has to be guessed: what is authentic and new counts at once,
    its address with it, and anything else changes nothing.
    """

    def __init__(
        self,
        *,
        ssrc: int,
        key: bytes,
        frame_ms: int,
        mqtt_ip: str | None,
        counter_start: int,
        now: float,
        encryption: Encryption = "aes-128-ctr",
    ) -> None:
        """``counter_start``: random start of the number in downlink bytes 4..7."""
        self.ssrc = ssrc
        self.nonce = uplink_nonce(ssrc)
        self.address = PeerAddress(mqtt_ip=mqtt_ip)
        self.last_received_at: float | None = None
        self._cipher = datagram_cipher(encryption, key)
        self._replay = ReplayWindow(max_forward=_MAX_FORWARD)
        self._jitter: JitterBuffer[UplinkFrame] = JitterBuffer(frame_s=frame_ms / 1000)
        self.stats = ChannelStats(reception=self._jitter.stats)
        self._frame_ms = frame_ms
        self._frames: deque[UplinkFrame] = deque()
        self._runs: dict[Address, list[UplinkFrame]] = {}
        self._heard_at = now
        self._counter_start = counter_start
        self._sequence = 0
        self._unsent: deque[tuple[bytes, int]] = deque()

    @property
    def deadline(self) -> float | None:
        """When :meth:`poll` has to be called; None when nothing waits."""
        return self._jitter.deadline

    @property
    def jitter_hold_s(self) -> float:
        """How long a gap is waited for at present (:class:`udp_audio.jitter.HoldTime`)."""
        return self._jitter.hold_s

    @property
    def has_frames(self) -> bool:
        """Whether :meth:`take` would return something."""
        return bool(self._frames)

    def receive(self, header: Header, datagram: bytes, address: Address, now: float) -> None:
        """Takes in a well-formed datagram with this channel's ssrc. Anything may be in it; nothing raises."""
        verdict = self._replay.check(header.sequence)
        if verdict is Verdict.DUPLICATE:
            self.stats.duplicates += 1
            return
        if verdict is Verdict.OLD:
            self.stats.old += 1
            return
        opus = self._cipher.decrypt(datagram)
        if opus is None:
            self.stats.forged += 1
            return
        if self._cipher.authenticated:
            self._believe(header, opus, address, now)
            return
        if not plausible(opus, frame_ms=self._frame_ms):
            self.stats.implausible += 1
            self._runs.pop(address, None)
            self.address.implausible(address, now)
            return
        frame = UplinkFrame(opus, header.sequence, header.timestamp, lost=False, received_at=now)
        if verdict is Verdict.FRESH and address == self.address.current:
            self._accept(frame, now)
        else:
            self._weigh(frame, verdict, address, now)

    def poll(self, now: float) -> None:
        """Gives up the gaps whose time is over."""
        self._enqueue(self._jitter.poll(now), now)

    def take(self) -> list[UplinkFrame]:
        """All frames that wait, oldest first."""
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def send(self, opus: bytes, *, timestamp_ms: int) -> bytes | None:
        """The next datagram to the device, or None when its address is not known yet: the frame then waits.

        Raises ValueError if ``opus`` is empty or larger than a datagram may be (1384 bytes, less the tag where there is one).
        """
        if not 0 < len(opus) <= MAX_DOWNLINK_PAYLOAD_BYTES - self._cipher.overhead_bytes:
            raise ValueError(f"a downlink packet cannot carry {len(opus)} bytes")
        if self.address.current is not None:
            return self._seal(opus, timestamp_ms)
        if len(self._unsent) >= MAX_UNSENT_FRAMES:
            self.stats.unsent_refused += 1
        else:
            self._unsent.append((opus, timestamp_ms))
        return None

    def flush(self) -> list[bytes]:
        """The datagrams of the frames that waited for the address, now that it is known."""
        if not self._unsent or self.address.current is None:
            return []
        datagrams = [self._seal(opus, timestamp_ms) for opus, timestamp_ms in self._unsent]
        self._unsent.clear()
        return datagrams

    def discard_unsent(self) -> None:
        """Forgets the frames that wait for the address."""
        self.stats.unsent_discarded += len(self._unsent)
        self._unsent.clear()

    def _seal(self, opus: bytes, timestamp_ms: int) -> bytes:
        self._sequence += 1
        self.stats.sent += 1
        header = downlink_header(
            length=len(opus) + self._cipher.overhead_bytes,
            counter=self._counter_start + self._sequence,
            timestamp_ms=timestamp_ms,
            sequence=self._sequence,
        )
        return self._cipher.encrypt(header, opus)

    def _believe(self, header: Header, opus: bytes, address: Address, now: float) -> None:
        """Takes in an authentic packet that is new. Only one newer than all others tells where the device is now."""
        if header.sequence > self._replay.highest and address != self.address.current:
            self._move(address, now)
        if plausible(opus, frame_ms=self._frame_ms):
            self._accept(UplinkFrame(opus, header.sequence, header.timestamp, lost=False, received_at=now), now)
        else:
            self._replay.commit(header.sequence)
            self.stats.implausible += 1

    def _weigh(self, frame: UplinkFrame, verdict: Verdict, address: Address, now: float) -> None:
        """Decides about a plausible packet from another address or from far ahead."""
        if verdict is Verdict.FAR and not self._can_have_advanced(frame.sequence, now):
            self.stats.far_ahead += 1
            return
        newer = frame.sequence > self._replay.highest
        if verdict is Verdict.FRESH and self.address.trusts(address):
            if newer:  # an older one was on its way when the address changed
                self._move(address, now)
            self._accept(frame, now)
            return
        if not newer:
            self.stats.distrusted += 1
            return
        run = self._extend_run(frame, address)
        if len(run) < RUN_PACKETS:
            return
        del self._runs[address]
        if address != self.address.current and not self.address.accepts_run(address, now):
            self.stats.distrusted += len(run)
            return
        self._move(address, now)
        for confirmed in run:
            self._accept(confirmed, now)

    def _extend_run(self, frame: UplinkFrame, address: Address) -> list[UplinkFrame]:
        """The packets in a row from an address, this one included.

        A number that falls back or jumps starts a new row, and so does one that came by a believed way meanwhile: who
        merely repeats the device's packets from elsewhere does not get a row together.
        """
        run = self._runs.pop(address, [])
        if run and not (run[0].sequence > self._replay.highest and 0 < frame.sequence - run[-1].sequence <= RUN_PACKETS):
            self.stats.distrusted += len(run)
            run = []
        if len(self._runs) >= _MAX_RUNS:
            self.stats.distrusted += len(self._runs.pop(next(iter(self._runs))))
        run.append(frame)
        self._runs[address] = run
        return run

    def _can_have_advanced(self, sequence: int, now: float) -> bool:
        """Whether a sender that numbers frames in real time (twice that, for bursts) can have come so far since we last heard it."""
        frames_since = (now - self._heard_at) * 2000 / self._frame_ms
        return sequence - self._replay.highest < _MAX_FORWARD + frames_since

    def _move(self, address: Address, now: float) -> None:
        self.address.move(address, now)
        self.stats.address_moves = self.address.moves
        # rows that other addresses had begun are judged afresh
        for run in self._runs.values():
            self.stats.distrusted += len(run)
        self._runs.clear()

    def _accept(self, frame: UplinkFrame, now: float) -> None:
        self._replay.commit(frame.sequence)
        self.last_received_at = self._heard_at = now
        self._enqueue(self._jitter.push(frame.sequence, frame, now), now)

    def _enqueue(self, released: list[tuple[int, UplinkFrame | None]], now: float) -> None:
        for sequence, frame in released:
            if len(self._frames) >= MAX_QUEUED_FRAMES:
                self._frames.popleft()
                self.stats.queue_dropped += 1
            self._frames.append(frame or UplinkFrame(b"", sequence, 0, lost=True, received_at=now))
