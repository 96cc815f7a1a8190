from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.device.profiles import PROFILES
from bridge.lead import LeadPolicy


@pytest.mark.parametrize(
    ("firmware", "queue"),
    [
        ("", None),
        ("unknown", None),
        ("2", None),
        ("0.9.9", 40),  # not bounded
        ("1.5.9", 40),
        ("1.6.0", 5),
        ("1.6.1", 5),
        ("1.6.2", 10),
        ("1.6.5", 10),
        ("1.6.6", 40),
        ("1.8.0", 40),
        ("2.4.2", 40),
        ("2.4.2-custom", 40),
        ("10.0.0", 40),
    ],
)
def test_queue_of_the_firmware(firmware: str, queue: int | None) -> None:
    assert LeadPolicy(4, 60, firmware).queue_packets == queue


@pytest.mark.parametrize("name", PROFILES)
def test_queue_is_that_of_the_simulated_device(name: str) -> None:
    profile = PROFILES[name]
    assert LeadPolicy(4, 60, profile.firmware_version).queue_packets == profile.queue_packets


@pytest.mark.parametrize(
    ("firmware", "lead", "calm", "jittery"),
    [
        ("2.4.2", 4, 4, 7),
        ("1.6.2", 4, 4, 6),
        ("1.6.0", 4, 3, 3),
        ("1.6.2", 12, 6, 6),
        ("", 4, 4, 4),
        ("2.4.2", 12, 12, 12),
        ("1.6.0", 1, 1, 3),
    ],
)
def test_lead_on_a_calm_and_on_a_jittery_network(firmware: str, lead: int, calm: int, jittery: int) -> None:
    policy = LeadPolicy(lead, 60, firmware)
    assert policy.frames(jitter_ms=2.0) == calm
    assert policy.frames(jitter_ms=60.0) == jittery


def test_short_frames_take_more_of_them() -> None:
    assert LeadPolicy(4, 20, "2.4.2").frames(jitter_ms=20.0) == 7
    assert LeadPolicy(4, 60, "2.4.2").frames(jitter_ms=20.0) == 5


@given(st.integers(1, 20), st.sampled_from([20, 40, 60]), st.sampled_from(["", "1.6.0", "1.6.2", "2.4.2"]), st.floats(0, 1e6))
def test_bounds(lead: int, frame_ms: int, firmware: str, jitter_ms: float) -> None:
    policy = LeadPolicy(lead, frame_ms, firmware)
    frames = policy.frames(jitter_ms=jitter_ms)
    assert 1 <= frames <= max(lead, 10)
    assert policy.queue_packets is None or frames < policy.queue_packets
    assert policy.frames(jitter_ms=jitter_ms + 1) >= frames
