"""Ports that are shared by us and by nobody else, on the real network stack."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import OperatorError
from bridge.workers.ports import reserve
from settings.load import Loaded, load

LOOPBACK = dict.fromkeys(("http.host", "mqtt.host", "udp.host"), "127.0.0.1")


def settings(tmp_path: Path, **overrides: Any) -> Loaded:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(environ={}, overrides=LOOPBACK | {"http.port": 0, "mqtt.port": 0, "udp.port": 0} | named, directory=tmp_path)


def bound(kind: socket.SocketKind, port: int = 0, *, shared: bool = False) -> socket.socket:
    one = socket.socket(socket.AF_INET, kind)
    try:
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            one.listen()
    except OSError:
        one.close()
        raise
    return one


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def test_workers_share_a_port_and_no_other_program_does(tmp_path: Path, sockets: ExitStack) -> None:
    ports = reserve(settings(tmp_path), workers=2)
    sockets.callback(ports.release)
    assert len({ports.http, ports.mqtt}) == 2
    assert (ports.mqtt_tls, ports.udp, ports.udp_of(1)) == (None, 0, 0)
    for port in (ports.http, ports.mqtt):
        for _ in range(2):
            sockets.enter_context(bound(socket.SOCK_STREAM, port, shared=True))
        with pytest.raises(OSError, match="in use"):
            bound(socket.SOCK_STREAM, port)


@pytest.mark.parametrize("shared", [False, True])
def test_a_taken_port_is_found_even_when_its_owner_would_share_it(tmp_path: Path, sockets: ExitStack, shared: bool) -> None:
    taken = port_of(sockets.enter_context(bound(socket.SOCK_STREAM, shared=shared)))
    with pytest.raises(OperatorError, match=f"Port {taken} \\(mqtt.port\\) is in use by another program"):
        reserve(settings(tmp_path, mqtt__port=taken), workers=2)


def test_a_port_is_free_again_at_once(tmp_path: Path) -> None:
    """Connections in TIME_WAIT keep nobody from starting again."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # with SO_REUSEADDR, as servers have
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        accepted.close()  # the server closes first: its side waits
        client.close()
        port = port_of(server)
    reserve(settings(tmp_path, mqtt__port=port), workers=2).release()


def test_a_second_server_of_this_kind_is_a_foreign_program(tmp_path: Path, sockets: ExitStack) -> None:
    first = reserve(settings(tmp_path), workers=2)
    sockets.callback(first.release)
    with pytest.raises(OperatorError, match=r"http\.port"):
        reserve(settings(tmp_path, http__port=first.http), workers=2)


def test_a_default_port_moves_on(tmp_path: Path, sockets: ExitStack) -> None:
    loaded = settings(tmp_path)
    taken = port_of(sockets.enter_context(bound(socket.SOCK_STREAM)))
    tree = loaded.tree.model_copy(update={"mqtt": loaded.tree.mqtt.model_copy(update={"port": taken})})
    ports = reserve(Loaded(tree, {}), workers=2)
    sockets.callback(ports.release)
    assert taken < ports.mqtt <= taken + 50


def test_udp_ports_are_a_row(tmp_path: Path, sockets: ExitStack) -> None:
    second = sockets.enter_context(bound(socket.SOCK_DGRAM))
    first = port_of(second) - 1
    with pytest.raises(OperatorError, match=rf"Port ({first}|{first + 1}) \(udp.port\) is in use"):
        reserve(settings(tmp_path, udp__port=first), workers=2)
    loaded = settings(tmp_path)
    tree = loaded.tree.model_copy(update={"udp": loaded.tree.udp.model_copy(update={"port": first})})
    ports = reserve(Loaded(tree, {}), workers=2)
    sockets.callback(ports.release)
    assert ports.udp > first + 1
    assert [ports.udp_of(index) for index in range(2)] == [ports.udp, ports.udp + 1]
    with pytest.raises(OperatorError, match="no room for 2 workers"):
        reserve(settings(tmp_path, udp__port=65535), workers=2)


def test_an_address_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"Cannot listen on mqtt\.port"):
        reserve(settings(tmp_path, mqtt__host="192.0.2.99"), workers=2)
