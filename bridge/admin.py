"""How commands on this machine find and may use the running server's admin API.

The server leaves its address and token in ``admin.json`` of its data directory, readable by its user only: whoever can
read that file can read the device registry beside it anyway.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from settings.model import SettingsTree

FILE_NAME = "admin.json"
TOKEN_BYTES = 24
_WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """The admin API's base address, without a slash at its end, and its bearer token."""

    url: str
    token: str

    def __repr__(self) -> str:
        return f"AdminAccess(url={self.url!r})"


def admin_token(tree: SettingsTree) -> str:
    """The token of the settings, else the one of the last run, else a new random one."""
    configured = tree.admin.token.get_secret_value()
    known = None if configured else read_access(tree.data_dir)
    return configured or (known.token if known else secrets.token_urlsafe(TOKEN_BYTES))


def local_url(host: str, port: int) -> str:
    """Where a server that listens on ``host`` is reached from this machine."""
    name = "127.0.0.1" if host in _WILDCARDS else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def write_access(data_dir: Path, access: AdminAccess) -> None:
    """Leave the file, mode 0600 from its first byte. Raises OSError."""
    path = data_dir / FILE_NAME
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(access), file)
    scratch.replace(path)


def read_access(data_dir: Path) -> AdminAccess | None:
    """What the last server of this data directory left; None when there is nothing that can be read."""
    try:
        found = json.loads((data_dir / FILE_NAME).read_text(encoding="utf-8"))
        return AdminAccess(url=str(found["url"]), token=str(found["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
