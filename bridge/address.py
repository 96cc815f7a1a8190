"""The address that devices on the LAN reach this machine at."""

from __future__ import annotations

import ipaddress
import socket

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
