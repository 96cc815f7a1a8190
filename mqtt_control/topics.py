"""Topic names. Devices ignore them: the connection says whom a message is for, the name is kept for compatibility."""

from __future__ import annotations

from mqtt_control.identity import DeviceIdentity


def downlink_topic(identity: DeviceIdentity) -> str:
    """The topic of everything that is pushed to this device."""
    return f"devices/p2p/{identity.mac_underscored}"
