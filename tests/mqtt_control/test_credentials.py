"""Credentials against a vector from another HMAC implementation, and against every kind of forgery."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.credentials import CredentialsError, mint, read_claims, verify
from mqtt_control.identity import DeviceIdentity

IDENTITY = DeviceIdentity("02:00:00:00:00:01", "6f1d3a52-6a3e-4a55-9d2f-0c5c3a1b7e10")
SECRET = b"test-secret"
# printf '%s' "$client_id|$username" | openssl dgst -sha256 -hmac test-secret -binary | base64
USERNAME = "eyJpcCI6IjEuMi4zLjQifQ=="
PASSWORD = "7Lscxhhdv8Sgv/1zeY9+ETTQ1WIdjNgrnXY2zs2Y0xg="


def test_mint_agrees_with_openssl() -> None:
    credentials = mint(SECRET, IDENTITY, claims={"ip": "1.2.3.4"})
    assert credentials.client_id == "GID_default@@@02_00_00_00_00_01@@@6f1d3a52-6a3e-4a55-9d2f-0c5c3a1b7e10"
    assert credentials.username == USERNAME
    assert credentials.password == PASSWORD


def test_user_name_is_base64_of_a_json_object() -> None:
    credentials = mint(SECRET, IDENTITY, claims={"iat": 1760000000, "n": "ab"})
    assert json.loads(base64.b64decode(credentials.username)) == {"iat": 1760000000, "n": "ab"}
    assert read_claims(credentials.username) == {"iat": 1760000000, "n": "ab"}


def test_verify_takes_the_password_as_text_and_as_bytes() -> None:
    assert verify(SECRET, client_id=IDENTITY.mqtt_client_id, username=USERNAME, password=PASSWORD)
    assert verify(SECRET, client_id=IDENTITY.mqtt_client_id, username=USERNAME, password=PASSWORD.encode())


@pytest.mark.parametrize(
    ("secret", "client_id", "username", "password"),
    [
        (b"other-secret", IDENTITY.mqtt_client_id, USERNAME, PASSWORD),
        (b"", IDENTITY.mqtt_client_id, USERNAME, PASSWORD),
        (SECRET, IDENTITY.mqtt_client_id.replace("01@@@", "02@@@"), USERNAME, PASSWORD),
        (SECRET, IDENTITY.mqtt_client_id, "e30=", PASSWORD),
        (SECRET, IDENTITY.mqtt_client_id, USERNAME, ""),
        (SECRET, IDENTITY.mqtt_client_id, USERNAME, PASSWORD[:-1]),
        (SECRET, IDENTITY.mqtt_client_id, USERNAME, PASSWORD + "\n"),
        (SECRET, IDENTITY.mqtt_client_id, USERNAME, "\u00e9\ud800"),
        (SECRET, "\ud800", "\ud800", b"\xff\x00"),
    ],
)
def test_check_018_anything_but_the_minted_password_is_refused(secret: bytes, client_id: str, username: str, password: str | bytes) -> None:
    assert not verify(secret, client_id=client_id, username=username, password=password)


def test_the_separator_cannot_be_moved() -> None:
    # the same sealed bytes "id|name" cut at another place
    sealed = f"{IDENTITY.mqtt_client_id}|{USERNAME}"
    assert not verify(SECRET, client_id="", username=sealed[1:], password=PASSWORD)
    credentials = mint(SECRET, IDENTITY, claims={})
    assert not verify(SECRET, client_id=credentials.client_id + "|x", username=credentials.username, password=credentials.password)


def test_password_does_not_show() -> None:
    assert PASSWORD not in repr(mint(SECRET, IDENTITY, claims={"ip": "1.2.3.4"}))


def test_check_004_no_long_claim_names_and_no_long_values() -> None:
    with pytest.raises(CredentialsError):
        mint(SECRET, IDENTITY, claims={"sixteen_letters_": 1})
    with pytest.raises(CredentialsError):
        mint(SECRET, IDENTITY, claims={"n": "x" * 400})
    with pytest.raises(CredentialsError):
        mint(b"", IDENTITY, claims={})


@pytest.mark.parametrize("username", ["", "no base64!", "AAAA", "W10=", "eyJhIjpbXX0=", "\u00e9", "e" * 4000])
def test_claims_of_garbage_are_empty(username: str) -> None:
    assert read_claims(username) == {}


@given(st.text(), st.text(), st.one_of(st.text(), st.binary()))
def test_verify_never_raises(client_id: str, username: str, password: str | bytes) -> None:
    assert verify(SECRET, client_id=client_id, username=username, password=password) is False
    read_claims(username)
