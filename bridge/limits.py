"""Who may ask how often: one object for the MQTT front, the registry and the HTTP side.

Implements :class:`mqtt_control.front.Gate`. ``now`` is the event loop's clock. Tables are bounded, so that a flood from
many addresses costs no more memory than one from few; who has been quiet longest is forgotten first.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ota.token_bucket import TokenBuckets, source_of
from settings.model import Limits
from udp_audio.address import plain_ip

MAX_TURNED_AWAY = 10_000


@dataclass(slots=True)
class GateStats:
    turned_away: int = 0
    """Addresses that were shut out for their wrong credentials."""
    connections_refused: int = 0
    device_connections_refused: int = 0
    hellos_refused: int = 0


class Gate:
    """The limits in force."""

    def __init__(self, options: Limits, *, now: Callable[[], float]) -> None:
        self.stats = GateStats()
        self._options = options
        self._now = now
        self._exempt = [ipaddress.ip_network(text, strict=False) for text in options.exempt]
        self._connections = _per_minute(options.connections_per_minute)
        self._failures = _per_minute(options.failed_logins_per_minute)
        self._device_connections = _per_minute(options.device_connections_per_minute)
        self._hellos = _per_minute(options.device_hellos_per_minute)
        self._messages = _per_minute(options.device_messages_per_minute)
        self._turned_away: OrderedDict[str, float] = OrderedDict()

    def is_exempt(self, address: str) -> bool:
        """Whether no limit holds for this address."""
        if not self._exempt:
            return False
        try:
            parsed = ipaddress.ip_address(plain_ip(address.partition("%")[0]))
        except ValueError:
            return False
        return any(parsed in network for network in self._exempt)

    def admits(self, peer_ip: str) -> bool:
        if self.is_exempt(peer_ip):
            return True
        source, now = source_of(peer_ip), self._now()
        if not self._is_turned_away(source, now) and self._connections.take(source, now=now):
            return True
        self.stats.connections_refused += 1
        return False

    def admits_device(self, device_id: str, peer_ip: str) -> bool:
        if self.is_exempt(peer_ip) or self._device_connections.take(device_id, now=self._now()):
            return True
        self.stats.device_connections_refused += 1
        return False

    def login_failed(self, peer_ip: str) -> None:
        source, now = source_of(peer_ip), self._now()
        if self.is_exempt(peer_ip) or self._failures.take(source, now=now):
            return
        if not self._is_turned_away(source, now):
            self.stats.turned_away += 1
        self._turned_away[source] = now + self._options.turned_away_s
        self._turned_away.move_to_end(source)
        if len(self._turned_away) > MAX_TURNED_AWAY:
            self._turned_away.popitem(last=False)

    def turned_away_s(self, peer_ip: str) -> float:
        """How long this address is still shut out for its wrong credentials; 0 when it is not."""
        until = self._turned_away.get(source_of(peer_ip), 0.0)
        return 0.0 if self.is_exempt(peer_ip) else max(0.0, until - self._now())

    def source(self, peer_ip: str) -> str:
        return "" if self.is_exempt(peer_ip) else source_of(peer_ip)

    def pace(self, device_id: str, peer_ip: str, cost: float) -> float:
        return 0.0 if self.is_exempt(peer_ip) else self._messages.owe(device_id, cost, now=self._now())

    def admits_hello(self, device_id: str, peer_ip: str) -> bool:
        """Whether the device may open a session now; called once for each hello."""
        if self.is_exempt(peer_ip) or self._hellos.take(device_id, now=self._now()):
            return True
        self.stats.hellos_refused += 1
        return False

    def _is_turned_away(self, source: str, now: float) -> bool:
        until = self._turned_away.get(source)
        if until is None:
            return False
        if now < until:
            return True
        del self._turned_away[source]
        return False


def _per_minute(count: int) -> TokenBuckets:
    return TokenBuckets(rate_per_s=count / 60, burst=count)
