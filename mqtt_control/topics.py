"""Topic names (pure).

On the front devices ignore them: the connection says whom a message is for, the name is kept for compatibility. At a
broker the topic is all there is: the broker's access rules see to it that only the device can write its ``up``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mqtt_control.identity import DeviceIdentity

_NODE = re.compile(r"[0-9a-f]{12}", re.ASCII)


def downlink_topic(identity: DeviceIdentity) -> str:
    """The topic of everything that the front pushes to this device."""
    return f"devices/p2p/{identity.mac_underscored}"


class Leaf(StrEnum):
    """What a topic below a device's name carries."""

    UP = "up"
    """Control messages from the device."""
    DOWN = "down"
    """Control messages to the device."""
    AVAILABILITY = "availability"
    """``online`` or ``offline``; the place for a device's will."""


_LEAVES = frozenset(leaf.value for leaf in Leaf)


@dataclass(frozen=True, slots=True)
class BrokerTopics:
    """``<root>/<MAC as twelve lower-case hexadecimal digits>/<leaf>``."""

    root: str

    def of(self, device_id: str, leaf: Leaf) -> str:
        """The topic of one device (a MAC address in lower case with colons)."""
        return f"{self.root}/{device_id.replace(':', '')}/{leaf}"

    @property
    def marks(self) -> str:
        """Where a server tells itself something, to know what came before it. No device: its name is no MAC address."""
        return f"{self.root}/server/{Leaf.UP}"

    def of_all(self, leaf: Leaf) -> str:
        """The filter for all devices."""
        return f"{self.root}/+/{leaf}"

    def read(self, topic: str) -> tuple[str, Leaf] | None:
        """Device id and leaf that a topic names; None when it names none."""
        root, _, rest = topic.rpartition("/")
        root, _, node = root.rpartition("/")
        if root != self.root or not _NODE.fullmatch(node) or rest not in _LEAVES:
            return None
        return ":".join(node[at : at + 2] for at in range(0, 12, 2)), Leaf(rest)
