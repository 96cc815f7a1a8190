"""The address that devices on the LAN reach this machine at."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

WATCH_PERIOD_S = 30.0
_TOWARDS = "192.0.2.1"
"""A documentation address (RFC 5737): choosing a route to it sends nothing."""


def lan_address() -> str | None:
    """The IPv4 address of the interface with the default route, else one the host name resolves to; None when only loopback is there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_TOWARDS, 9))
            address = str(probe.getsockname()[0])
        except OSError:
            address = ""
    if _is_usable(address):
        return address
    try:
        entries = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    except OSError:
        return None
    return next((str(entry[4][0]) for entry in entries if _is_usable(str(entry[4][0]))), None)


def _is_usable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not parsed.is_loopback and not parsed.is_unspecified and not parsed.is_link_local


class AdvertisedHost:
    """The name or address that devices are told: the one that is set, else that of this machine, also when it changes.

    A device learns of a change with its next check-version (at boot) or hello; the MQTT address that it has stored stays
    until then.
    """

    def __init__(self, fixed: str | None, *, find: Callable[[], str | None] = lan_address) -> None:
        """``find`` may block for a moment. It is called here, and by :meth:`watch` in a thread."""
        self._find = find
        self.is_fixed = fixed is not None
        self.changes = 0
        self.current = fixed or find() or "127.0.0.1"

    async def watch(self, *, period_s: float = WATCH_PERIOD_S) -> None:
        """Follow the machine's address until cancelled; returns at once when it is set. Without a network the last one stays."""
        while not self.is_fixed:
            await asyncio.sleep(period_s)
            found = await asyncio.to_thread(self._find)
            if found is not None and found != self.current:
                log.warning("the address of this machine has changed: devices are told the new one", before=self.current, now=found)
                self.current = found
                self.changes += 1
