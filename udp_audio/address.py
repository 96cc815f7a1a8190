"""Where a device is: which source address its packets are answered to.

Nothing on UDP is signed, so an address is believed by degrees. Only the packets that decrypt to plausible Opus count; noise
passes for that about once in a hundred tries.

- The IP address of the device's MQTT connection, and the one the device is already known at, are trusted: a packet
  from there is followed at once, whatever its port (NAT rebinds the port).
- Once an implausible packet came from anywhere but the known address, somebody is guessing: from then on even a
  trusted IP needs three plausible packets in a row.
- Any other address needs three in a row, may do so once in five seconds, and not within a second of a wrong guess.

An attacker who forges the device's own address and port, or repeats its packets first, is not stopped by this.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address

Address = tuple[str, int] | tuple[str, int, int, int]
"""As sockets give it: IPv6 has flow and scope as well."""

RUN_PACKETS = 3
_MOVE_INTERVAL_S = 5.0
_GUESS_PENALTY_S = 1.0


def plain_ip(ip: str) -> str:
    """The address as text; IPv4-mapped IPv6 (``::ffff:192.0.2.1``) as IPv4."""
    if ":" not in ip:
        return ip
    try:
        mapped = IPv6Address(ip).ipv4_mapped
    except AddressValueError:
        return ip
    return str(mapped) if mapped else ip


class PeerAddress:
    """The address of one device and how it may change."""

    __slots__ = ("_blocked_until", "_guessed", "_mqtt_ip", "_next_move", "current", "moves")

    def __init__(self, *, mqtt_ip: str | None) -> None:
        """``mqtt_ip``: where the device's MQTT connection comes from; None when that is not known (a broker between)."""
        self._mqtt_ip = plain_ip(mqtt_ip) if mqtt_ip is not None else None
        self._guessed = False
        self._blocked_until = float("-inf")
        self._next_move = float("-inf")
        self.current: Address | None = None
        self.moves = 0

    @property
    def peer(self) -> tuple[str, int] | None:
        """The current address, IPv4-mapped ones as IPv4."""
        return (plain_ip(self.current[0]), self.current[1]) if self.current else None

    def trusts(self, address: Address) -> bool:
        """Whether one plausible packet from ``address`` is enough."""
        return not self._guessed and self._is_familiar(address)

    def accepts_run(self, address: Address, now: float) -> bool:
        """Whether ``address``, after three plausible packets in a row, may become the current one."""
        if self.current is None or self._is_familiar(address):
            return True
        return now >= self._next_move and now >= self._blocked_until

    def move(self, address: Address, now: float) -> None:
        """Makes ``address`` the current one."""
        if self.current is not None and self.current != address:
            self.moves += 1
            if not self._is_familiar(address):
                self._next_move = now + _MOVE_INTERVAL_S
        self.current = address

    def implausible(self, address: Address, now: float) -> None:
        """Tells that a packet from ``address`` decrypted to something else than Opus."""
        if address != self.current:
            self._guessed = True
            self._blocked_until = now + _GUESS_PENALTY_S

    def _is_familiar(self, address: Address) -> bool:
        ip = plain_ip(address[0])
        return ip == self._mqtt_ip or (self.current is not None and ip == plain_ip(self.current[0]))
