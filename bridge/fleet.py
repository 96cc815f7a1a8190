"""The devices of a running server, through its admin API.

The server holds the registry and those that wait for a person; so the commands ask it, rather than change its file behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from bridge.admin import local_url, read_access
from bridge.errors import OperatorError
from settings.model import SettingsTree

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """One line of ``devices list``."""

    device_id: str
    status: str
    board: str
    firmware: str
    last_seen: str
    alias: str


class Fleet:
    """The admin API of the server at ``url``. Every method raises OperatorError when it cannot be done."""

    def __init__(self, tree: SettingsTree, *, url: str | None = None) -> None:
        self._data_dir = tree.data_dir
        left = read_access(tree.data_dir)
        self._url = (url or (left.url if left else local_url(tree.http.host, tree.http.port))).rstrip("/")
        self._token = tree.admin.token.get_secret_value() or (left.token if left else "")

    def devices(self) -> list[KnownDevice]:
        """All devices, those that wait for a person last."""
        listed = self._request("GET", "/api/devices").get("devices", [])
        return [KnownDevice(**{name: _shown(one.get(name)) for name in KnownDevice.__slots__}) for one in listed if isinstance(one, dict)]

    def approve(self, code: str) -> str:
        """Let in the device that shows this code; its id."""
        return _shown(self._request("POST", "/api/devices/approve", {"code": code}).get("device_id"))

    def forget(self, device_id: str) -> None:
        """Take away a device's access."""
        self._request("DELETE", f"/api/devices/{device_id}")

    def rotate(self, device_id: str) -> None:
        """Give the device new credentials; it is cut off until it asks for them."""
        self._request("POST", f"/api/devices/{device_id}/rotate")

    def _request(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        if not self._token:
            raise OperatorError(
                f"No server has run with the data directory {self._data_dir}",
                advice="Start it, or name its data directory (--set data_dir=...); for a server elsewhere set admin.token to its token",
            )
        try:
            answer = httpx.request(
                method,
                f"{self._url}{path}",
                json=body,
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=_TIMEOUT_S,
                trust_env=False,
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise OperatorError(
                f"No server answers at {self._url} ({type(error).__name__})",
                advice="Start it, or name its address: --url http://HOST:PORT (the server's log says where it listens)",
            ) from error
        try:
            data = answer.json()
        except ValueError:
            data = None
        if answer.is_success and isinstance(data, dict):
            return data
        raise OperatorError(*_refusal(self._url, answer.status_code, data))


def _refusal(url: str, status: int, data: Any) -> tuple[str]:
    reason = _shown(data.get("error")) if isinstance(data, dict) else ""
    match status:
        case 401:
            return (f"The server at {url} has another admin.token than these settings",)
        case 404 if not reason or reason == "Not Found":
            return (f"The server at {url} has no admin API: start it with admin.token set",)
        case _:
            return (f"The server at {url} answers: {reason or f'HTTP {status}'}",)


def _shown(value: Any) -> str:
    """What devices told of themselves, fit for a terminal."""
    text = value if isinstance(value, str) else ""
    return "".join(character if character.isprintable() else "?" for character in text)[:200]
