"""The devices of a running server, through its admin API.

The server holds the registry and those that wait for a person; so the commands ask it, rather than change its file behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

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
    update: str
    """What is remarkable about its firmware updates; mostly empty."""


class NotFoundError(OperatorError):
    """The server knows no such thing."""


def reception_line(device_id: str, statistics: dict[str, Any]) -> str:
    """One line for people."""

    def number(name: str) -> float:
        return statistics.get(name) or 0

    expected = number("expected")
    seen = statistics.get("last_seen_s")
    parts = (
        f"{number('received'):.0f} of {expected:.0f} packets",
        f"lost {number('lost'):.0f} ({number('lost') / expected if expected else 0:.1%}, of late {number('loss_fraction'):.1%})",
        f"jitter {number('jitter_ms'):.1f} ms",
        f"reordered {number('reordered'):.0f}, late {number('late'):.0f}, duplicates {number('duplicates'):.0f}",
        f"concealed {number('concealed'):.0f}, recovered {number('recovered'):.0f}",
        f"address moves {number('address_moves'):.0f}",
        "no audio yet" if seen is None else f"last audio {seen:.0f} s ago",
    )
    return f"{device_id}  {'; '.join(parts)}"


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
        return [_known(one) for one in listed if isinstance(one, dict)]

    def statistics(self, device_id: str) -> dict[str, Any]:
        """How the audio of a device arrives: the members of :class:`bridge.reception.ReceptionReport`, numbers or null."""
        told = self._request("GET", f"/api/devices/{quote(device_id, safe=':')}/stats")
        return {_shown(name): value for name, value in told.items() if name != "device_id" and isinstance(value, int | float | None)}

    def all_statistics(self) -> dict[str, dict[str, Any]]:
        """The same of all devices that have connected since the server started."""
        found: dict[str, dict[str, Any]] = {}
        for device in self.devices():
            try:
                found[device.device_id] = self.statistics(device.device_id)
            except NotFoundError:
                continue
        return found

    def approve(self, code: str) -> str:
        """Let in the device that shows this code; its id."""
        return _shown(self._request("POST", "/api/devices/approve", {"code": code}).get("device_id"))

    def forget(self, device_id: str) -> None:
        """Take away a device's access."""
        self._request("DELETE", f"/api/devices/{device_id}")

    def force_firmware(self, device_id: str, version: str) -> None:
        """Have a device install this version at its next start, whatever it runs, once."""
        self._request("POST", f"/api/devices/{quote(device_id, safe=':')}/firmware", {"version": version})

    def release_firmware(self, device_id: str) -> None:
        """Forget what a device was offered or forced to: what is newer is offered anew."""
        self._request("DELETE", f"/api/devices/{quote(device_id, safe=':')}/firmware")

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
        if answer.status_code == 404 and isinstance(data, dict) and data.get("error") not in {None, "Not Found"}:
            raise NotFoundError(*_refusal(self._url, answer.status_code, data))
        raise OperatorError(*_refusal(self._url, answer.status_code, data))


def _known(told: dict[str, Any]) -> KnownDevice:
    update = told.get("update")
    update = update if isinstance(update, dict) else {}
    remark = ""
    if update.get("held"):
        remark = f"{_shown(update.get('offered'))} is not offered any more (`firmware release` lifts that)"
    if update.get("force"):
        remark = f"{_shown(update.get('force'))} will be forced"
    names = set(KnownDevice.__slots__) - {"update"}
    return KnownDevice(**{name: _shown(told.get(name)) for name in names}, update=remark)


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
