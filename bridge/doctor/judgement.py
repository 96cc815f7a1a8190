"""What is good, doubtful or bad (pure): facts in, one finding out."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bridge.certificate import CertificateFacts
from bridge.doctor.findings import Finding, failure, ok, warning

CLOCK_TOLERANCE_S = 2.0
"""Conformance of server_time; a device shows and uses this clock."""
CERTIFICATE_WARNING = timedelta(days=14)
DISK_FAILURE_BYTES = 50_000_000
DISK_WARNING_BYTES = 500_000_000
FILES_FOR_THE_SERVER = 100
"""Open files of the process itself: models, database, log, listeners."""
FEW_DEVICES = 200
_CONTAINER_NETWORK = ipaddress.ip_network("172.16.0.0/12")


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """``advertised``: what devices are told; ``resolved``: the IPv4 addresses of that name; ``own``: those of this machine."""

    advertised: str
    resolved: tuple[str, ...]
    own: tuple[str, ...]
    was_set: bool
    in_container: bool = False


def judge_address(facts: AddressFacts) -> Finding:
    """Whether devices can be expected to reach the advertised address."""
    check, host = "address", facts.advertised
    if ":" in host or "/" in host:
        return failure(
            check, f"advertise.host is {host!r}", "Set it to a plain name or an IPv4 address: devices know neither IPv6 nor schemes."
        )
    if not facts.resolved:
        return failure(check, f"the name {host!r} has no IPv4 address", "Set advertise.host to the IPv4 address of this machine.")
    return _unreachable(facts) or ok(check, f"{host}, {'as set' if facts.was_set else 'found by itself'}")


def _unreachable(facts: AddressFacts) -> Finding | None:
    """Why devices may not get to an address that exists."""
    check, host = "address", facts.advertised
    if all(ipaddress.ip_address(address).is_loopback for address in facts.resolved):
        return warning(
            check,
            f"{host} reaches only this machine itself",
            "Connect this machine to the network, or set advertise.host to the address that devices see.",
        )
    if facts.in_container and not facts.was_set and ipaddress.ip_address(facts.resolved[0]) in _CONTAINER_NETWORK:
        return failure(
            check,
            f"{host} is the address of this container, which devices cannot reach",
            "Set advertise.host to the address of the machine that the container runs on, or use its network (host mode).",
        )
    if not set(facts.resolved) & set(facts.own):
        return warning(
            check,
            f"{host} is not an address of this machine ({', '.join(facts.own) or 'none found'})",
            "Right only if a router or container host forwards HTTP, MQTT and UDP from there; else correct advertise.host.",
        )
    if host.endswith(".local"):
        return warning(check, f"{host} is an mDNS name, which devices do not resolve", "Set advertise.host to an IPv4 address.")
    return None


def judge_given_host(check: str, given: str, asked: str) -> Finding:
    """Whether an address that a server gave to a device can be right: ``asked`` is the host whose OTA address was used."""
    if given == asked:
        return ok(check, given)
    if _is_loopback(given) and not _is_loopback(asked):
        return failure(
            check,
            f"devices are told to go to {given}, which for each of them is the device itself",
            "Set advertise.host on the server to the address that devices see.",
        )
    return warning(
        check, f"devices are told to go to {given}, but asked {asked}", "Right if both are the server; else correct advertise.host."
    )


def judge_clock(*, server_ms: object, before_ms: int, after_ms: int) -> Finding:
    """``server_ms`` as the OTA answer has it, against this machine's clock before and after the question."""
    check = "clock"
    if isinstance(server_ms, bool) or not isinstance(server_ms, int | float):
        return failure(check, "the OTA answer has no server_time", "Update the server.")
    tolerance_ms = CLOCK_TOLERANCE_S * 1000
    if before_ms - tolerance_ms <= server_ms <= after_ms + tolerance_ms:
        return ok(check, "server_time agrees with this machine's clock")
    off_s = (server_ms - (before_ms + after_ms) / 2) / 1000
    return warning(check, f"server_time is {off_s:+.0f} s off this machine's clock", "Set both clocks by NTP; devices take the server's.")


def judge_certificate(facts: CertificateFacts, *, host: str, now: datetime) -> Finding:
    """Dates and names of the TLS certificate."""
    check = "certificate"
    if now < facts.not_before:
        return failure(check, f"valid only from {facts.not_before:%Y-%m-%d}", "Check this machine's clock, or get another certificate.")
    if now >= facts.not_after:
        return failure(check, f"expired on {facts.not_after:%Y-%m-%d}", "Renew it; a running server loads the new files by itself.")
    if not any(_covers(name, host) for name in facts.names):
        names = ", ".join(facts.names[:5]) or "no name"
        return warning(
            check, f"made out to {names}, not to {host}", "Devices verify the name: set advertise.host to a name in the certificate."
        )
    if facts.not_after - now < CERTIFICATE_WARNING:
        return warning(check, f"expires on {facts.not_after:%Y-%m-%d}", "Renew it; a running server loads the new files by itself.")
    return ok(check, f"valid until {facts.not_after:%Y-%m-%d}")


def judge_disk(*, free_bytes: int, writable: bool, where: str) -> Finding:
    check, free = "disk", f"{free_bytes / 1e6:.0f} MB free in {where}"
    if not writable:
        return failure(check, f"{where} cannot be written", "Give this user the right to write there, or set data_dir to another place.")
    if free_bytes < DISK_FAILURE_BYTES:
        return failure(check, free, "Make room: devices could not be registered nor models assembled.")
    if free_bytes < DISK_WARNING_BYTES:
        return warning(check, free, "Make room: some models are larger than that.")
    return ok(check, free)


def judge_receive_buffer(*, granted_max_bytes: int | None, wanted_bytes: int) -> Finding:
    """``granted_max_bytes``: net.core.rmem_max, None where the system has no such thing."""
    check = "receive buffer"
    if granted_max_bytes is None:
        return ok(check, "this system has no net.core.rmem_max")
    if granted_max_bytes >= wanted_bytes:
        return ok(check, f"net.core.rmem_max is {granted_max_bytes} bytes")
    return warning(
        check,
        f"net.core.rmem_max is {granted_max_bytes} bytes, udp.receive_buffer_bytes asks for {wanted_bytes}",
        f"With many devices a short stall loses audio: sysctl -w net.core.rmem_max={wanted_bytes}",
    )


def judge_open_files(*, limit: int | None, max_connections: int) -> Finding:
    """``limit``: open files that the server may have; None is no limit."""
    check = "open files"
    if limit is None or limit >= max_connections + FILES_FOR_THE_SERVER:
        return ok(check, "no limit" if limit is None else f"at most {limit}")
    room = max(0, limit - FILES_FOR_THE_SERVER)
    if room < FEW_DEVICES:
        return warning(
            check,
            f"at most {limit}, room for about {room} devices",
            "Raise the limit: ulimit -Hn 8192 as root, or LimitNOFILE=8192 in the unit.",
        )
    return ok(check, f"at most {limit}, room for about {room} devices (raise ulimit -Hn for more)")


def judge_version(*, own: str, server: str) -> Finding:
    check = "version"
    if not server:
        return warning(
            check, f"this is {own}; the server does not say what it is", "Update the server, or check that the address is its own."
        )
    if own == server:
        return ok(check, own)
    return warning(check, f"this is {own}, the server is {server}", "Use the same release on both, or restart the server after an update.")


def judge_models(*, missing: Sequence[str], optional_missing: Sequence[str], present: Collection[str]) -> Finding:
    check = "models"
    if missing:
        return failure(check, f"missing: {', '.join(missing)}", "Run `xiaozhi-bridge models fetch`, or name other models in the settings.")
    if optional_missing:
        return warning(
            check, f"missing: {', '.join(optional_missing)}", "Without them a language stays silent: `xiaozhi-bridge models fetch`."
        )
    return ok(check, f"{len(present)} in place" if present else "none needed")


def _covers(name: str, host: str) -> bool:
    name, host = name.lower(), host.lower()
    if name.startswith("*."):
        return host.partition(".")[2] == name[2:]
    return name == host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
