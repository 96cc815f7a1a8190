"""The client-id grammar of protocol section 4 and the names derived from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.identity import DeviceIdentity, IdentityError, parse_client_id, parse_mac
from mqtt_control.topics import downlink_topic

CLIENT_ID = "GID_default@@@02_00_00_00_00_01@@@6f1d3a52-6a3e-4a55-9d2f-0c5c3a1b7e10"


def test_check_006_client_id_has_three_parts_with_mac_and_uuid() -> None:
    identity = DeviceIdentity("02:00:00:00:00:01", "6f1d3a52-6a3e-4a55-9d2f-0c5c3a1b7e10")
    assert identity.mqtt_client_id == CLIENT_ID
    assert parse_client_id(CLIENT_ID) == identity
    assert identity.mac_underscored == "02_00_00_00_00_01"
    assert identity.node == "020000000001"


def test_check_029_topic_is_the_one_devices_are_used_to() -> None:
    assert downlink_topic(DeviceIdentity("02:00:00:00:00:01", "u")) == "devices/p2p/02_00_00_00_00_01"


@pytest.mark.parametrize("text", ["AA:bb:0C:00:00:01", "aa-bb-0c-00-00-01", "AA_BB_0C_00_00_01"])
def test_mac_in_every_accepted_form(text: str) -> None:
    assert parse_mac(text) == "aa:bb:0c:00:00:01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aa:bb:0c:00:00",
        "aa:bb:0c:00:00:01:02",
        "aabb0c000001",
        "aa:bb-0c:00:00:01",
        "ag:bb:0c:00:00:01",
        " aa:bb:0c:00:00:01",
        "aa:bb:0c:00:00:01\n",
        "aa:bb:0c:00:00:0１",
        "aa::bb:0c:00:00:01",
        "a:bb:0c:00:00:01",
        "aa.bb.0c.00.00.01",
    ],
)
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_mac(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GID_default",
        "GID_default@@@02_00_00_00_00_01",
        "GID_default@@@02_00_00_00_00_01@@@",
        "@@@02_00_00_00_00_01@@@u",
        "GID_default@@@02_00_00_00_00@@@u",
        "GID_default@@@02_00_00_00_00_01@@@u@@@more",
        "GID_default@@@02_00_00_00_00_01@@@" + "u" * 65,
        "GID_default@@@02_00_00_00_00_01@@@u/../v",
        "GID default@@@02_00_00_00_00_01@@@u",
        "GID_default@@@02_00_00_00_00_01@@@u\n",
    ],
)
def test_check_018_client_ids_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_client_id(text)


def test_upper_case_mac_names_the_same_device() -> None:
    assert parse_client_id("g@@@AA_BB_CC_DD_EE_FF@@@u").device_id == "aa:bb:cc:dd:ee:ff"


def test_an_identity_cannot_be_built_from_an_unnormalised_mac() -> None:
    with pytest.raises(IdentityError):
        DeviceIdentity("AA:BB:CC:DD:EE:FF", "u")


@given(st.text())
def test_any_text_parses_or_raises_identity_error(text: str) -> None:
    try:
        identity = parse_client_id(text)
    except IdentityError:
        return
    assert parse_client_id(identity.mqtt_client_id) == identity


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), st.binary(min_size=6, max_size=6))
def test_every_identity_survives_its_client_id(client_id: str, mac: bytes) -> None:
    identity = DeviceIdentity(mac.hex(":"), client_id)
    assert parse_client_id(identity.mqtt_client_id) == identity
