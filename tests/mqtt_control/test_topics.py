"""Topic names."""

from __future__ import annotations

import pytest

from mqtt_control.identity import DeviceIdentity
from mqtt_control.topics import BrokerTopics, Leaf, downlink_topic

TOPICS = BrokerTopics("home/voice")


def test_names() -> None:
    assert downlink_topic(DeviceIdentity("02:00:00:00:00:0a", "c")) == "devices/p2p/02_00_00_00_00_0a"
    assert TOPICS.of("02:00:00:00:00:0a", Leaf.DOWN) == "home/voice/02000000000a/down"
    assert TOPICS.of_all(Leaf.UP) == "home/voice/+/up"
    assert TOPICS.read("home/voice/02000000000a/up") == ("02:00:00:00:00:0a", Leaf.UP)
    assert TOPICS.read("home/voice/02000000000a/availability") == ("02:00:00:00:00:0a", Leaf.AVAILABILITY)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "up",
        "02000000000a/up",
        "voice/02000000000a/up",
        "x/home/voice/02000000000a/up",
        "home/voice/02000000000a/upper",
        "home/voice/02000000000a/up/",
        "home/voice/02000000000A/up",
        "home/voice/02000000000/up",
        "home/voice/02000000000a0/up",
        "home/voice/02000000000a\n/up",
        "home/voice/０2000000000a/up",
        "home/voice/bridge/up",
    ],
)
def test_what_names_no_device(topic: str) -> None:
    assert TOPICS.read(topic) is None
