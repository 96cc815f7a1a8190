"""The limits: generous to a house, deaf to a flood."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.limits import MAX_TURNED_AWAY, Gate
from mqtt_control.messages import HelloReply
from settings.load import SettingsError, load
from settings.model import Limits
from tests.bridge.house import Inhabitant, house
from tests.virtual_time import run

HOME = "192.0.2.7"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def gate(**options: Any) -> tuple[Gate, Clock]:
    clock = Clock()
    return Gate(Limits(**options), now=clock), clock


def test_two_hundred_devices_behind_one_address_start_together() -> None:
    made, _ = gate()
    for number in range(200):
        for _attempt in range(5):
            assert made.admits(HOME)
        assert made.admits_device(f"02:00:00:00:00:{number:02x}", HOME)
        assert made.admits_hello(f"02:00:00:00:00:{number:02x}", HOME)


def test_a_device_that_reconnects_for_ever_is_never_refused() -> None:
    """Every 10 s, as esp-mqtt does, and every minute once more; a day long."""
    made, clock = gate()
    for _ in range(24 * 360):
        clock.now += 10
        assert made.admits(HOME)
        assert made.admits_device("02:00:00:00:00:01", HOME)
        assert made.admits_hello("02:00:00:00:00:01", HOME)


def test_a_device_with_old_credentials_shuts_nobody_out() -> None:
    made, clock = gate()
    for _ in range(1000):
        clock.now += 10
        for _device in range(50):
            made.login_failed(HOME)
        assert made.admits(HOME)


def test_check_097_an_exempt_address_is_exempt_in_its_mapped_form_too() -> None:
    made, _ = gate(exempt=["192.0.2.0/24"])
    assert made.is_exempt("::ffff:192.0.2.7")
    assert not made.is_exempt("::ffff:192.0.3.7")
    assert not made.is_exempt("2001:db8::7")


def test_a_flood_is_refused_and_others_are_not() -> None:
    made, clock = gate(connections_per_minute=60)
    admitted = sum(made.admits(HOME) for _ in range(1000))
    assert admitted == 60
    assert made.admits("192.0.2.8")
    clock.now += 10
    assert sum(made.admits(HOME) for _ in range(100)) == 10
    assert made.stats.connections_refused == 1030


def test_wrong_passwords_shut_an_address_out_for_a_while() -> None:
    made, clock = gate(failed_logins_per_minute=10, turned_away_s=30)
    for _ in range(10):
        made.login_failed(HOME)
        assert made.admits(HOME)
    made.login_failed(HOME)
    assert not made.admits(HOME)
    assert made.admits("192.0.2.8")
    clock.now += 29.9
    assert not made.admits(HOME)
    clock.now += 0.2
    assert made.admits(HOME)
    assert made.stats.turned_away == 1


def test_one_device_cannot_keep_the_server_busy() -> None:
    made, _ = gate(device_connections_per_minute=5, device_hellos_per_minute=3)
    assert [made.admits_device("a", HOME) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [made.admits_hello("a", HOME) for _ in range(4)] == [True] * 3 + [False]
    assert made.admits_device("b", HOME)
    assert (made.stats.device_connections_refused, made.stats.hellos_refused) == (2, 1)


def test_a_device_that_sends_too_much_has_to_wait() -> None:
    made, clock = gate(device_messages_per_minute=60)
    assert made.pace("a", HOME, 60) == 0
    assert made.pace("a", HOME, 30) == 30
    assert made.pace("b", HOME, 1) == 0
    clock.now += 30
    assert made.pace("a", HOME, 0) == 0
    assert made.pace("a", HOME, 1) == 1


def test_a_conversation_never_meets_the_limit_of_messages() -> None:
    """A device with packets of 20 ms over a WebSocket, for an hour."""
    made, clock = gate()
    for _ in range(3600 * 50):
        clock.now += 0.02
        assert made.pace("a", HOME, 1) == 0


def test_how_long_an_address_is_turned_away() -> None:
    made, clock = gate(failed_logins_per_minute=1, turned_away_s=30, exempt=("198.51.100.0/24",))
    for address in (HOME, "198.51.100.1"):
        made.login_failed(address)
        made.login_failed(address)
    assert made.turned_away_s(HOME) == 30
    assert made.turned_away_s("198.51.100.1") == 0
    assert made.turned_away_s("192.0.2.8") == 0
    clock.now += 31
    assert made.turned_away_s(HOME) == 0


def test_sources_of_the_lobby() -> None:
    made, _ = gate(exempt=("192.0.2.0/24",))
    assert [made.source(address) for address in (HOME, "198.51.100.1", "2001:db8::7")] == ["", "198.51.100.1", "2001:db8::/64"]


def test_an_ipv6_household_is_one_source() -> None:
    made, _ = gate(connections_per_minute=2)
    assert [made.admits(f"2001:db8::{number}") for number in range(3)] == [True, True, False]


def test_exempt_networks_have_no_limit() -> None:
    made, _ = gate(connections_per_minute=1, failed_logins_per_minute=1, device_hellos_per_minute=1, exempt=("192.0.2.0/24", "fd00::/8"))
    for address in (HOME, "fd00::1"):
        for _ in range(10):
            made.login_failed(address)
            assert made.admits(address)
            assert made.admits_hello("a", address)
    assert not made.is_exempt("198.51.100.1")
    assert not made.is_exempt("")
    assert not made.is_exempt("nonsense")


def test_the_tables_are_bounded() -> None:
    made, _ = gate(failed_logins_per_minute=1)
    for number in range(MAX_TURNED_AWAY + 50):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        made.login_failed(address)
        made.login_failed(address)
    assert len(made._turned_away) == MAX_TURNED_AWAY
    assert len(made._failures._buckets) <= 10_000


def test_a_wrong_network_is_a_readable_error() -> None:
    with pytest.raises(SettingsError, match="is no network"):
        load(None, overrides={"limits.exempt": "192.168.1.0/24,home"})
    assert load(None, overrides={"limits.exempt": "192.168.1.7/24"}).tree.limits.exempt == ("192.168.1.7/24",)


def test_a_refused_hello_is_not_answered() -> None:
    async def scenario() -> None:
        async with house() as home:
            home.registry._admits_hello = Gate(Limits(device_hellos_per_minute=2), now=Clock()).admits_hello
            device = Inhabitant(home)
            device.connect()
            device.hello()
            device.hello()
            with pytest.raises(IndexError):
                device.hello()
            assert len(home.registry.sessions) == 1
            assert len(home.of(device.identity.device_id, HelloReply)) == 2
            assert (home.registry.hellos, home.registry.hellos_refused) == (2, 1)

    run(scenario())
