"""Who a device is: its MAC address and its UUID, and the MQTT client id that carries both.

Client-id grammar::

    GID_default@@@02_00_00_00_00_01@@@0f7c3f5e-...
    group       @@@ MAC, underscores  @@@ the device's UUID (its HTTP ``Client-Id``)

Only the form with three parts names a device. The form with two, without the UUID, is what other servers let in
without a password; here it is an error.

Firmware before 1.1 has no UUID and sends no ``Client-Id`` at all; :data:`NO_CLIENT_ID` stands for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEPARATOR = "@@@"
NO_CLIENT_ID = "none"
"""The client id of a device that tells none. Nothing but the MAC address names such a device."""

_MAC = re.compile(r"[0-9a-f]{2}(?:([:_-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}", re.IGNORECASE | re.ASCII)
_NORMAL_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class IdentityError(ValueError):
    """A text that was to name a device does not. The sentence never repeats the text."""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """One device.

    ``device_id`` is the MAC address in lower case with colons, the name of the device everywhere in the server.
    ``client_id`` is the UUID the device made up (it changes when its flash is erased), 1 to 64 of ``[A-Za-z0-9_.-]``;
    ``group`` has the same alphabet. Anything else raises :class:`IdentityError`, so a constructed identity always
    survives the way through :attr:`mqtt_client_id` and :func:`parse_client_id`.
    """

    device_id: str
    client_id: str
    group: str = "GID_default"

    def __post_init__(self) -> None:
        if not _NORMAL_MAC.fullmatch(self.device_id):
            raise IdentityError("the device id is not a MAC address in lower case with colons")
        if not _PART.fullmatch(self.client_id):
            raise IdentityError("the client id is not 1 to 64 letters, digits, '_', '.' or '-'")
        if not _PART.fullmatch(self.group):
            raise IdentityError("the group is not 1 to 64 letters, digits, '_', '.' or '-'")

    @property
    def mac_underscored(self) -> str:
        """``02_00_00_00_00_01``, as it stands in client ids and topics."""
        return self.device_id.replace(":", "_")

    @property
    def mqtt_client_id(self) -> str:
        """What the device sends as MQTT client id."""
        return f"{self.group}{SEPARATOR}{self.mac_underscored}{SEPARATOR}{self.client_id}"

    @property
    def node(self) -> str:
        """The twelve hexadecimal digits alone, for places that allow no punctuation."""
        return self.device_id.replace(":", "")


def parse_mac(text: str) -> str:
    """The MAC address in lower case with colons.

    Takes six pairs of hexadecimal digits in any case, all separated by the same one of ``:``, ``-`` and ``_``.
    Raises :class:`IdentityError` for everything else, surrounding space included.
    """
    if not _MAC.fullmatch(text):
        raise IdentityError("not a MAC address of six pairs of hexadecimal digits")
    return text.lower().replace("-", ":").replace("_", ":")


def parse_client_id(text: str) -> DeviceIdentity:
    """The device that an MQTT client id names; :class:`IdentityError` unless it has exactly three good parts."""
    parts = text.split(SEPARATOR)
    if len(parts) != 3:
        raise IdentityError(f"the MQTT client id has {len(parts)} parts and not three")
    group, mac, client_id = parts
    return DeviceIdentity(device_id=parse_mac(mac), client_id=client_id, group=group)
