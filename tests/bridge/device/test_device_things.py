"""Legacy IoT of firmware before 1.8."""

from __future__ import annotations

import pytest

from bridge.device.mcp import Appliance
from bridge.device.things import Things


def test_only_changes_are_reported() -> None:
    appliance = Appliance()
    things = Things(appliance)
    assert [descriptor["name"] for descriptor in things.descriptors()] == ["Speaker"]
    assert things.changed_states() == [{"name": "Speaker", "state": {"volume": 70}}]
    assert things.changed_states() == []
    things.command({"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 150}})
    assert things.changed_states() == [{"name": "Speaker", "state": {"volume": 100}}]


@pytest.mark.parametrize(
    "command",
    [
        None,
        {"name": "Speaker"},
        {"name": "Speaker", "method": "Explode", "parameters": {"volume": 1}},
        {"name": "Speaker", "method": "SetVolume"},
        {"name": "Speaker", "method": "SetVolume", "parameters": {"volume": "1"}},
    ],
)
def test_commands_that_crash_old_firmware_are_counted(command: object) -> None:
    appliance = Appliance()
    things = Things(appliance)
    things.command(command)
    assert (things.crashes, appliance.volume) == (1, 70)


def test_unknown_things_are_ignored() -> None:
    things = Things(Appliance())
    things.command({"name": "Lamp", "method": "On", "parameters": {}})
    assert things.crashes == 0
