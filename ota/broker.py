"""What devices are told when control messages go through the user's own broker, and what the broker must know of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from mqtt_control.credentials import Credentials, mint_for_broker
from mqtt_control.topics import BrokerTopics, Leaf
from ota.devices import Device
from ota.manifest import Endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerHandOff:
    """Where devices find the broker. ``only`` names those that are sent there (MAC addresses or boards, with ``*``); empty: all."""

    host: str
    port: int
    topic_root: str
    only: tuple[str, ...] = ()

    def serves(self, device: Device) -> bool:
        """Whether this device is sent to the broker."""
        names = (device.device_id, device.facts.board.lower())
        return not self.only or any(fnmatchcase(name, pattern.lower()) for pattern in self.only for name in names)

    def endpoints(self, base: Endpoints) -> Endpoints:
        """``base`` with the broker's address in place of the front's. Raises ManifestError for a host that firmware cannot use."""
        return replace(base, mqtt_host=self.host, mqtt_port=self.port)

    def credentials(self, device: Device) -> Credentials:
        """User name (the device's name in topics) and password of an approved device. They stay until the secret is rotated."""
        return mint_for_broker(device.secret, device.identity)

    def topics(self, device: Device) -> dict[str, str]:
        """``publish_topic`` and ``subscribe_topic``."""
        topics = BrokerTopics(self.topic_root)
        return {"publish_topic": topics.of(device.device_id, Leaf.UP), "subscribe_topic": topics.of(device.device_id, Leaf.DOWN)}


# -- mosquitto's password file -----------------------------------------------------------------------------------------
ITERATIONS: Final = 101
"""mosquitto's own default. Passwords are 256 random bits: stretching adds nothing but work at each CONNECT."""
SALT_BYTES: Final = 12
"""mosquitto 2.0 takes no other length."""

_DEVICE_USER = re.compile(r"[0-9a-f]{12}", re.ASCII)


def hash_password(password: str, *, salt: bytes | None = None) -> str:
    """``$7$iterations$salt$hash``: PBKDF2 with HMAC-SHA512, base64, as ``mosquitto_passwd`` writes it."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def is_hash_of(hashed: str, password: str) -> bool:
    """Whether ``hashed`` is what :func:`hash_password` makes of ``password``; False for other formats."""
    parts = hashed.split("$")
    if len(parts) != 5 or parts[:3] != ["", "7", str(ITERATIONS)]:
        return False
    try:
        salt = base64.b64decode(parts[3], validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(hash_password(password, salt=salt), hashed)


def password_file(existing: str, devices: Iterable[Device]) -> str:
    """A password file with the approved ``devices``: lines of other users stay, those of devices that are gone do not.

    A line that is still right stays as it is, so a file in which nothing has changed is the same text.
    """
    passwords = {
        (one := mint_for_broker(device.secret, device.identity)).username: one.password for device in devices if device.status == "approved"
    }
    lines, seen = [], set[str]()
    for line in existing.splitlines():
        user, _, hashed = line.partition(":")
        if not _DEVICE_USER.fullmatch(user):
            lines.append(line)
        elif user in passwords and user not in seen:
            seen.add(user)
            lines.append(line if is_hash_of(hashed, passwords[user]) else _line(user, passwords))
    lines += [_line(user, passwords) for user in passwords if user not in seen]
    return "".join(f"{line}\n" for line in lines)


def write_password_file(path: Path, devices: Iterable[Device]) -> bool:
    """Bring ``path`` up to date in one step; True when it has changed.

    A new file has mode 0600; an old one keeps its mode and, where this user may give it away, its owner. Raises OSError.
    """
    known = path.stat() if path.exists() else None
    before = path.read_text(encoding="utf-8") if known else ""
    after = password_file(before, devices)
    if known and after == before:
        return False
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(after)
        if known:
            Path(name).chmod(known.st_mode & 0o777)
            with suppress(PermissionError):
                os.chown(name, known.st_uid, known.st_gid)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True


def _line(user: str, passwords: Mapping[str, str]) -> str:
    return f"{user}:{hash_password(passwords[user])}"
