"""Bearer tokens of devices, sealed with the device's own secret. Pure.

::

    token = base64url(HMAC-SHA256(device secret, purpose + "|" + Device-Id + "|" + Client-Id)), without padding

An MQTT password is sealed with the same secret over a text that begins with ``GID_…@@@``, which no purpose does: neither can
stand for the other, nor a token for one of another purpose.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from mqtt_control.identity import DeviceIdentity


def mint_bearer(secret: bytes, identity: DeviceIdentity, *, purpose: str) -> str:
    """The device's token for one purpose, always the same. 43 characters without a space: firmware then puts ``Bearer`` before it.

    Raises ValueError when the secret is empty or the purpose is not a plain word.
    """
    if not secret or not purpose.isalnum():
        raise ValueError("a token needs a secret, and a purpose that is a plain word")
    sealed = hmac.new(secret, f"{purpose}|{identity.device_id}|{identity.client_id}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def verify_bearer(secret: bytes, identity: DeviceIdentity, token: str, *, purpose: str) -> bool:
    """Whether it is what :func:`mint_bearer` made. Takes the same time wherever the token differs."""
    return hmac.compare_digest(mint_bearer(secret, identity, purpose=purpose).encode(), token.encode(errors="replace"))
