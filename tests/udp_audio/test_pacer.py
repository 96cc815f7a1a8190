from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udp_audio.pacer import Pacer

FRAME_S = 0.06


def test_check_062_lead_at_once_then_one_a_frame() -> None:
    pacer = Pacer(frame_s=FRAME_S, lead_frames=4)
    assert not pacer.started
    due = []
    now = 100.0
    for _ in range(8):
        now = max(now, pacer.next_send(now))
        due.append(now - 100.0)
        pacer.sent(now)
    assert due == pytest.approx([0, 0, 0, 0, 0.06, 0.12, 0.18, 0.24])
    assert pacer.started
    assert pacer.playback_end == pytest.approx(100.48)
    assert pacer.underruns == 0


def test_check_062_a_long_lead_is_gained_on_the_way() -> None:
    pacer = Pacer(frame_s=FRAME_S, lead_frames=8)
    due = []
    now = 0.0
    for _ in range(30):
        now = max(now, pacer.next_send(now))
        due.append(now)
        pacer.sent(now)
    # five at once, then 45 ms apart, until the eighth ahead: (n - 8 + 1) * 60 ms
    assert due[:8] == pytest.approx([0, 0, 0, 0, 0, 0.045, 0.09, 0.135])
    assert due[20:] == pytest.approx([(number - 7) * 0.06 for number in range(20, 30)])
    assert pacer.underruns == 0


@pytest.mark.parametrize("lead_frames", [1, 4, 10])
def test_check_063_pace_over_a_minute_with_a_late_loop(lead_frames: int) -> None:
    pacer = Pacer(frame_s=FRAME_S, lead_frames=lead_frames)
    now = start = 5.0
    for number in range(1001):
        # the loop wakes up to 20 ms late, never early
        now = max(now, pacer.next_send(now) + (number * 7 % 21) / 1000)
        pacer.sent(now)
        assert pacer.ahead_s(now) <= lead_frames * FRAME_S + 1e-9
    assert now - start == pytest.approx((1001 - lead_frames) * FRAME_S, rel=0.01)
    assert pacer.underruns == 0


def test_short_stall_is_caught_up() -> None:
    pacer = Pacer(frame_s=FRAME_S, lead_frames=4)
    for _ in range(4):
        pacer.sent(0.0)
    # 190 ms: three frames were played, one is left, three may follow at once
    burst = 0
    while pacer.next_send(0.19) <= 0.19:
        pacer.sent(0.19)
        burst += 1
    assert burst == 3
    assert pacer.underruns == 0


def test_long_stall_restarts_the_clock() -> None:
    pacer = Pacer(frame_s=FRAME_S, lead_frames=4)
    for _ in range(4):
        pacer.sent(0.0)
    burst = 0
    while pacer.next_send(10.0) <= 10.0:
        pacer.sent(10.0)
        burst += 1
    assert burst == 4
    assert pacer.underruns == 1
    assert pacer.playback_end == pytest.approx(10.24)
    assert pacer.next_send(10.0) == pytest.approx(10.06)


def test_nothing_is_ahead_before_the_start() -> None:
    pacer = Pacer(frame_s=FRAME_S, lead_frames=4)
    assert pacer.ahead_s(7.0) == 0.0
    assert pacer.next_send(7.0) == 7.0


@pytest.mark.parametrize(("frame_s", "lead_frames"), [(0.0, 4), (0.06, 0)])
def test_impossible_settings(frame_s: float, lead_frames: int) -> None:
    with pytest.raises(ValueError, match="cannot pace"):
        Pacer(frame_s=frame_s, lead_frames=lead_frames)


@settings(deadline=None)
@given(st.sampled_from([0.02, 0.06]), st.integers(1, 20), st.lists(st.floats(0, 0.5), max_size=300))
def test_never_more_than_the_lead(frame_s: float, lead_frames: int, delays: list[float]) -> None:
    """A simulated device plays what was sent, by its own rules: it starts with the first frame and pauses when empty."""
    pacer = Pacer(frame_s=frame_s, lead_frames=lead_frames)
    now = 1000.0
    played_until = None  # when the device will have played all it got
    for delay in delays:
        now = max(now + delay, pacer.next_send(now + delay))
        pacer.sent(now)
        played_until = (now if played_until is None or played_until < now else played_until) + frame_s
        assert pacer.ahead_s(now) <= lead_frames * frame_s + 1e-6
        assert pacer.playback_end > now - frame_s
        # half a frame is the dry spell that the model overlooks, once
        assert played_until - now <= (lead_frames + 0.5) * frame_s + 1e-6
