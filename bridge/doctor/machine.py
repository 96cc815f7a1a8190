"""What this machine is like: addresses, files, limits, certificates. Everything here may block for a moment."""

from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from bridge.address import lan_address
from bridge.certificate import read_certificate
from bridge.doctor.findings import Finding, failure, ok, warning
from bridge.doctor.judgement import (
    AddressFacts,
    judge_address,
    judge_certificate,
    judge_disk,
    judge_models,
    judge_open_files,
    judge_receive_buffer,
)
from bridge.open_files import attainable
from providers.base import ModelMissing
from providers.inventory import models_needed
from providers.models import ModelStore
from settings.model import SettingsTree

_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
_SIOCGIFADDR = 0x8915
"""Linux, include/uapi/linux/sockios.h: the IPv4 address of an interface."""


def advertised_host(tree: SettingsTree) -> str:
    """What a server with these settings tells devices."""
    return tree.advertise.host or lan_address() or "127.0.0.1"


def check_machine(tree: SettingsTree) -> list[Finding]:
    """Everything that needs no running server."""
    host = advertised_host(tree)
    found = [
        judge_address(
            AddressFacts(host, _resolve(host), own_addresses(), was_set=tree.advertise.host is not None, in_container=_in_container())
        ),
        check_models(tree),
        _check_disk(tree.data_dir),
        judge_receive_buffer(granted_max_bytes=_rmem_max(), wanted_bytes=tree.udp.receive_buffer_bytes),
        judge_open_files(limit=attainable(), max_connections=tree.mqtt.max_connections),
    ]
    if tree.mqtt.tls.certificate is not None:
        found.append(check_certificate(tree.mqtt.tls.certificate, tree.mqtt.tls.private_key, host=host))
    return found


def own_addresses() -> tuple[str, ...]:
    """The IPv4 addresses of this machine without loopback, the one of the default route first."""
    found = [address] if (address := lan_address()) else []
    if sys.platform == "linux":
        found += _interface_addresses()
    with suppress(OSError):
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return tuple(dict.fromkeys(address for address in found if not ipaddress.ip_address(address).is_loopback))


def _interface_addresses() -> Iterator[str]:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without IPv4
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                yield socket.inet_ntoa(answer[20:24])


def check_models(tree: SettingsTree) -> Finding:
    """The models of the settings against the store; nothing is fetched or assembled."""
    store = ModelStore(tree.data_dir / "models", offline=True)
    states = {status.name: status.state for status in store.status()}
    missing: list[str] = []
    optional: list[str] = []
    present: list[str] = []
    for name, required in models_needed(tree):
        there = states.get(name, "missing") != "missing" if name in states else _is_there(store, name)
        (present if there else missing if required else optional).append(name)
    return judge_models(missing=missing, optional_missing=optional, present=present)


def _is_there(store: ModelStore, path: str) -> bool:
    try:
        store.resolve(path)
    except ModelMissing:
        return False
    return True


def check_certificate(certificate: Path, private_key: Path | None, *, host: str) -> Finding:
    """The files are readable, belong together, and are valid now."""
    check = "certificate"
    if private_key is None:
        return failure(check, "mqtt.tls.certificate is set without private_key", "Set mqtt.tls.private_key.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key)
        facts = read_certificate(certificate)
    except (OSError, ssl.SSLError, ValueError) as error:
        return failure(check, f"{certificate} with {private_key}: {error}", "Name a PEM chain and the key that belongs to it.")
    return judge_certificate(facts, host=host, now=datetime.now(UTC))


def check_ports(tree: SettingsTree) -> list[Finding]:
    """Whether a server could listen where the settings say; for when none runs."""
    wanted = [
        ("http port", tree.http.host, tree.http.port, socket.SOCK_STREAM),
        ("mqtt port", tree.mqtt.host, tree.mqtt.port, socket.SOCK_STREAM),
        ("udp port", tree.udp.host, tree.udp.port, socket.SOCK_DGRAM),
    ]
    return [_check_port(*one) for one in wanted]


def _check_port(check: str, host: str, port: int, kind: socket.SocketKind) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return warning(check, f"{port} is taken by another program", "Stop that program, or choose another port.")
            return failure(
                check, f"{port} cannot be used: {error.strerror or error}", "Choose another port, or correct the host to listen on."
            )
    return ok(check, f"{port} is free" if port else "any free one")


def _check_disk(data_dir: Path) -> Finding:
    place = data_dir.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return judge_disk(free_bytes=shutil.disk_usage(place).free, writable=os.access(place, os.W_OK | os.X_OK), where=str(data_dir))


def _rmem_max() -> int | None:
    try:
        return int(_RMEM_MAX.read_text())
    except (OSError, ValueError):
        return None


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _resolve(host: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)))
    except (OSError, UnicodeError):
        return ()
