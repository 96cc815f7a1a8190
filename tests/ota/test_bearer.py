"""Bearer tokens of devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_control.credentials import mint
from mqtt_control.identity import DeviceIdentity
from ota.bearer import mint_bearer, verify_bearer

ALICE = DeviceIdentity("02:00:00:00:00:0a", "a1")
SECRET = bytes(range(32))
# printf 'websocket|02:00:00:00:00:0a|a1' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f -binary | base64 | tr '+/' '-_'
TOKEN = "wcvXwgHtA_snEyz-D9B_olTwq9gyAU40JGJiVmtNr90"


def test_a_token() -> None:
    assert mint_bearer(SECRET, ALICE, purpose="websocket") == TOKEN
    assert verify_bearer(SECRET, ALICE, TOKEN, purpose="websocket")


def test_whose_it_is_not() -> None:
    for identity in (DeviceIdentity("02:00:00:00:00:0b", "a1"), DeviceIdentity("02:00:00:00:00:0a", "a2")):
        assert not verify_bearer(SECRET, identity, TOKEN, purpose="websocket")
    assert not verify_bearer(bytes(32), ALICE, TOKEN, purpose="websocket")
    assert not verify_bearer(SECRET, ALICE, TOKEN, purpose="vision")
    assert not verify_bearer(SECRET, ALICE, mint(SECRET, ALICE, claims={"v": 1}).password, purpose="websocket")


@given(st.text())
def test_anything_else_is_wrong_and_raises_nothing(token: str) -> None:
    assert verify_bearer(SECRET, ALICE, token, purpose="websocket") == (token == TOKEN)


@pytest.mark.parametrize(("secret", "purpose"), [(b"", "websocket"), (SECRET, ""), (SECRET, "a|b"), (SECRET, "GID_@@@")])
def test_what_makes_no_token(secret: bytes, purpose: str) -> None:
    with pytest.raises(ValueError, match="needs a secret"):
        mint_bearer(secret, ALICE, purpose=purpose)
