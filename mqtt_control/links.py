"""Several ways to the devices as one: a device is on the link on which it was last heard.

Each :class:`~mqtt_control.link.Link` reports to a :class:`Route`; sessions see :class:`Links` alone and know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqtt_control.identity import DeviceIdentity
from mqtt_control.link import Link, LinkListener
from mqtt_control.messages import Inbound, Outbound


class Links:
    """Implements :class:`~mqtt_control.link.Link` over the links of its routes, for one ``listener``.

    A device that is heard on another link than before has moved: the listener hears a second ``device_connected``, as
    when a device takes over its own connection, and the older link is told to close what it has.
    """

    def __init__(self, listener: LinkListener) -> None:
        self._listener = listener
        self._current: dict[str, Route] = {}
        self.moves = 0

    def route(self) -> Route:
        """The listener for one more link. Set its ``link`` before that link lets devices in."""
        return Route(self)

    # -- Link ----------------------------------------------------------------------------------------------------------
    def send(self, device_id: str, message: Outbound) -> bool:
        """Queue `message` on the device's link; False when it is on none, or the link refuses."""
        route = self._current.get(device_id)
        return route is not None and route.link is not None and route.link.send(device_id, message)

    def connected(self, device_id: str) -> bool:
        """Whether the device is connected on its link."""
        route = self._current.get(device_id)
        return route is not None and route.link is not None and route.link.connected(device_id)

    def disconnect(self, device_id: str) -> None:
        """Close the device's connection, if it has one; the listener hears of it afterwards, not from within."""
        route = self._current.get(device_id)
        if route is not None and route.link is not None:
            route.link.disconnect(device_id)

    # -- for the routes ------------------------------------------------------------------------------------------------
    def entered(self, route: Route, identity: DeviceIdentity, peer_ip: str) -> None:
        """The device is (again) on this route's link."""
        older = self._current.get(identity.device_id)
        self._current[identity.device_id] = route
        self._listener.device_connected(identity, peer_ip)
        if older is not None and older is not route and older.link is not None:
            self.moves += 1
            older.link.disconnect(identity.device_id)

    def heard(self, route: Route, identity: DeviceIdentity, message: Inbound) -> None:
        """A message; from a device that has left this route's link for another one it is late, and lost with its connection."""
        if self._current.get(identity.device_id) is route:
            self._listener.device_message(identity, message)

    def missed(self, route: Route, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        """What may not have arrived; nothing to tell of a device that has moved."""
        if self._current.get(identity.device_id) is route:
            self._listener.messages_missed(identity, messages)

    def left(self, route: Route, identity: DeviceIdentity) -> None:
        """The device's connection on this route's link has ended; nothing to tell when it has moved."""
        if self._current.get(identity.device_id) is route:
            del self._current[identity.device_id]
            self._listener.device_disconnected(identity)


class Route:
    """The :class:`~mqtt_control.link.LinkListener` of one link."""

    __slots__ = ("_links", "link")

    def __init__(self, links: Links) -> None:
        self._links = links
        self.link: Link | None = None

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        """See :class:`~mqtt_control.link.LinkListener`."""
        self._links.entered(self, identity, peer_ip)

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        """See :class:`~mqtt_control.link.LinkListener`."""
        self._links.heard(self, identity, message)

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        """See :class:`~mqtt_control.link.LinkListener`."""
        self._links.missed(self, identity, messages)

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        """See :class:`~mqtt_control.link.LinkListener`."""
        self._links.left(self, identity)
