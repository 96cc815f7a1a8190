"""A real mosquitto with the shipped configuration, on a free port of loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiomqtt
import pytest

from mqtt_control.credentials import mint_for_broker
from mqtt_control.identity import DeviceIdentity
from ota.broker import hash_password
from settings.model import Broker as BrokerOptions
from settings.model import BrokerTls

ROOT = Path(__file__).parent.parent
PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
BRIDGE = ("bridge", "password-of-the-bridge")
HOME = ("home", "password-of-the-home")

needs_mosquitto = pytest.mark.skipif(PROGRAM is None, reason="no mosquitto on this machine: apt-get install mosquitto")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mosquitto:
    """The shipped ``mosquitto.conf`` and ``deploy/mosquitto/acl``; only the port and the passwords are the test's.

    ``edit`` changes a text of the configuration or the access rules, as an operator would. ``tls`` is (certificate, key).
    """

    def __init__(self, directory: Path, *, edit: dict[str, str] | None = None, tls: tuple[Path, Path] | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self.passwords = directory / "deploy" / "mosquitto" / "passwords"
        self.passwords.parent.mkdir(parents=True)
        texts = {name: (ROOT / name).read_text() for name in ("mosquitto.conf", "deploy/mosquitto/acl")}
        listener = f"listener {self.port} 127.0.0.1"
        if tls:
            listener += f"\ncertfile {tls[0]}\nkeyfile {tls[1]}"
        changes = {"\nlistener 1883\n": f"\n{listener}\n"} | (edit or {})
        for old, new in changes.items():
            assert sum(text.count(old) for text in texts.values()) == 1, old
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        if os.geteuid() == 0:
            texts["mosquitto.conf"] += "\nuser root\n"  # else it could not read files below pytest's directories
        for name, text in texts.items():
            (directory / name).write_text(text)
        self.passwords.write_text("")
        self.passwords.chmod(0o600)
        for user, password in (BRIDGE, HOME):
            self.add_user(user, password)
        self._process: asyncio.subprocess.Process | None = None

    def add_user(self, user: str, password: str) -> None:
        self.passwords.write_text(self.passwords.read_text() + f"{user}:{hash_password(password)}\n")

    def add_devices(self, secret: bytes, identities: Iterable[DeviceIdentity]) -> None:
        for identity in identities:
            credentials = mint_for_broker(secret, identity)
            self.add_user(credentials.username, credentials.password)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and wait until it accepts connections."""
        assert PROGRAM is not None
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM, "-c", "mosquitto.conf", cwd=self.directory, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        async with asyncio.timeout(10):
            while True:
                assert self._process.returncode is None, (self.directory / "log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                await writer.wait_closed()
                return

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            await process.wait()

    def reload(self) -> None:
        """SIGHUP: read passwords and access rules again."""
        assert self._process is not None
        self._process.send_signal(1)

    def options(self, **members: Any) -> BrokerOptions:
        """The bridge's settings for this broker."""
        plain: dict[str, Any] = {"port": self.port, "username": BRIDGE[0], "password": BRIDGE[1], "reconnect_max_s": 1, "resubscribe_s": 2}
        return BrokerOptions(**plain | members)

    def client(self, user: tuple[str, str], *, identifier: str | None = None, **members: Any) -> aiomqtt.Client:
        return aiomqtt.Client("127.0.0.1", self.port, username=user[0], password=user[1], identifier=identifier, timeout=5, **members)


__all__ = ["BRIDGE", "HOME", "PROGRAM", "BrokerTls", "Mosquitto", "free_port", "needs_mosquitto"]
