"""MQTT user name and password of a device.

::

    username = base64(JSON claims)
    password = base64(HMAC-SHA256(server secret, client_id + "|" + username))

To the device both are opaque. The claims are public and sealed by the password: give them an expiry or a nonce when
passwords are to age. `|` occurs in neither part, so no other pair of parts gives the same sealed bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from mqtt_control.identity import DeviceIdentity

MAX_CLAIM_NAME = 15
"""Devices abort on longer keys in what they store (NVS); claims keep to the same limit."""

MAX_USERNAME = 512
"""Far under the 3999 bytes that a device can store, and short in every CONNECT."""


class CredentialsError(ValueError):
    """Credentials cannot be made of these values: a mistake of the caller."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a device puts into CONNECT. The password does not show in the representation."""

    client_id: str
    username: str
    password: str = field(repr=False)


def mint(secret: bytes, identity: DeviceIdentity, *, claims: Mapping[str, str | int]) -> Credentials:
    """Credentials of `identity`, sealed with `secret`; the same input gives the same credentials.

    Raises :class:`CredentialsError` when the secret is empty, a claim's name is longer than 15 characters or the
    user name would exceed 512.
    """
    if not secret:
        raise CredentialsError("the secret is empty")
    if any(len(name) > MAX_CLAIM_NAME for name in claims):
        raise CredentialsError(f"a claim's name is longer than {MAX_CLAIM_NAME} characters")
    username = base64.b64encode(msgspec.json.encode(dict(claims))).decode()
    if len(username) > MAX_USERNAME:
        raise CredentialsError(f"the claims make a user name of more than {MAX_USERNAME} characters")
    client_id = identity.mqtt_client_id
    return Credentials(client_id=client_id, username=username, password=_seal(secret, client_id, username).decode())


def mint_for_broker(secret: bytes, identity: DeviceIdentity) -> Credentials:
    """Credentials of `identity` at the user's own broker: the user name is the device's name in topics.

    Access rules can then say that each user has the topics of its own name. The same input gives the same credentials.
    Raises :class:`CredentialsError` when the secret is empty.
    """
    if not secret:
        raise CredentialsError("the secret is empty")
    client_id, username = identity.mqtt_client_id, identity.node
    return Credentials(client_id=client_id, username=username, password=_seal(secret, client_id, username).decode())


def verify(secret: bytes, *, client_id: str, username: str, password: str | bytes) -> bool:
    """Whether `password` is what :func:`mint` made for this client id and user name.

    Takes the same time wherever the password differs. False for anything that is no such thing, an empty secret
    included; never raises.
    """
    given = password if isinstance(password, bytes) else password.encode(errors="replace")
    genuine = bool(secret) and "|" not in client_id and "|" not in username
    return hmac.compare_digest(_seal(secret or b"\0", client_id, username), given) and genuine


def read_claims(username: str) -> dict[str, str | int]:
    """The claims in a user name, empty when it holds none. To be believed only after :func:`verify`."""
    if len(username) > MAX_USERNAME:
        return {}
    try:
        return msgspec.json.decode(base64.b64decode(username, validate=True), type=dict[str, str | int])
    except (binascii.Error, ValueError, RecursionError):
        return {}


def _seal(secret: bytes, client_id: str, username: str) -> bytes:
    sealed = f"{client_id}|{username}".encode(errors="replace")
    return base64.b64encode(hmac.new(secret, sealed, hashlib.sha256).digest())
