"""Legacy IoT of firmware 0.9 to 1.7 (pure): a speaker that describes itself, reports changes and takes commands."""

from __future__ import annotations

from typing import Any, Final

from bridge.device.hello import is_number
from bridge.device.mcp import Appliance

_SPEAKER: Final[dict[str, Any]] = {
    "name": "Speaker",
    "description": "The speaker",
    "properties": {"volume": {"description": "Current volume", "type": "number"}},
    "methods": {
        "SetVolume": {
            "description": "Set the volume",
            "parameters": {"volume": {"description": "An integer from 0 to 100", "type": "number"}},
        }
    },
}


class Things:
    """The things of one device. ``crashes`` counts commands that null-dereference 1.x firmware."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._reported: dict[str, Any] = {}
        self.crashes = 0

    def descriptors(self) -> tuple[dict[str, Any], ...]:
        """One descriptor a message, sent when the channel has opened; the state is then unreported."""
        self._reported = {}
        return (_SPEAKER,)

    def changed_states(self) -> list[dict[str, Any]]:
        """What has changed since the last report; sent before each ``listen start``."""
        state = {"volume": self._appliance.volume}
        if state == self._reported:
            return []
        self._reported = state
        return [{"name": "Speaker", "state": state}]

    def command(self, command: object) -> None:
        """Carry a command out. There is no answer: the effect appears in the next states."""
        if not isinstance(command, dict):
            self.crashes += 1
            return
        parameters = command.get("parameters")
        volume = parameters.get("volume") if isinstance(parameters, dict) else None
        if command.get("name") != "Speaker":
            return
        if command.get("method") != "SetVolume" or not is_number(volume):
            self.crashes += 1
            return
        self._appliance.volume = min(max(int(volume), 0), 100)
