"""The interface between the control path and whoever talks to devices; every transport of control messages has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Inbound, Outbound


class Link(Protocol):
    """The way to the devices. All methods are to be called on the event loop and return at once."""

    def send(self, device_id: str, message: Outbound) -> bool:
        """Queue `message` for the device; False when it is not connected (the message is then gone)."""

    def connected(self, device_id: str) -> bool:
        """Whether the device has an authenticated connection now."""

    def disconnect(self, device_id: str) -> None:
        """Close the device's connection, if it has one; the listener hears of it afterwards, not from within."""


class LinkListener(Protocol):
    """Who hears of devices. Synchronous callbacks on the event loop: they must return quickly and not block.

    For one device the order is `connected`, any number of `message`, `disconnected`. When a device connects anew while
    its older connection lives, the older one ends silently: the listener sees a second `connected` and nothing else.
    """

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        """The device has authenticated itself. Messages can be sent to it from here on."""

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        """A readable message has come. Whom it is from is known from the connection, not from its content."""

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        """The device's connection has been lost or replaced, and these, oldest first, may not have arrived.

        Comes before the `disconnected` or the second `connected` that it explains, and not when everything was acknowledged
        or nobody can know.
        """

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        """The device's newest connection has ended, for whatever reason."""
