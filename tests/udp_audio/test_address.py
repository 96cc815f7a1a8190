from __future__ import annotations

import pytest

from udp_audio.address import PeerAddress, plain_ip

HOME, HOME_REBOUND, AWAY = ("192.0.2.7", 4000), ("192.0.2.7", 4001), ("198.51.100.9", 4000)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_check_097_mapped_addresses_are_ipv4(given: str, plain: str) -> None:
    assert plain_ip(given) == plain


def test_check_097_mapped_source_is_the_mqtt_peer() -> None:
    assert PeerAddress(mqtt_ip="192.0.2.7").trusts(("::ffff:192.0.2.7", 4000, 0, 0))
    assert PeerAddress(mqtt_ip="::ffff:192.0.2.7").trusts(HOME)
    address = PeerAddress(mqtt_ip=None)
    address.move(("::ffff:192.0.2.7", 4000, 0, 0), 0.0)
    assert address.peer == HOME
    assert address.current == ("::ffff:192.0.2.7", 4000, 0, 0)


def test_only_familiar_addresses_are_trusted_at_once() -> None:
    address = PeerAddress(mqtt_ip=None)
    assert not address.trusts(HOME)
    assert address.peer is None
    address.move(HOME, 0.0)
    assert address.trusts(HOME_REBOUND)
    assert not address.trusts(AWAY)
    assert address.moves == 0


def test_a_wrong_guess_ends_the_trust() -> None:
    address = PeerAddress(mqtt_ip="192.0.2.7")
    address.move(HOME, 0.0)
    address.implausible(HOME, 1.0)  # damaged on the way: not a guess from elsewhere
    assert address.trusts(HOME_REBOUND)
    address.implausible(HOME_REBOUND, 2.0)
    assert not address.trusts(HOME_REBOUND)
    assert address.accepts_run(HOME_REBOUND, 2.0)
    assert not address.accepts_run(AWAY, 2.9)
    assert address.accepts_run(AWAY, 3.0)


def test_foreign_moves_are_rate_limited() -> None:
    address = PeerAddress(mqtt_ip="192.0.2.7")
    address.move(HOME, 0.0)
    address.move(AWAY, 10.0)
    assert address.accepts_run(HOME, 10.1)
    assert not address.accepts_run(("203.0.113.1", 1), 14.9)
    assert address.accepts_run(("203.0.113.1", 1), 15.0)
    assert address.moves == 1
