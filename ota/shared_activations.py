"""Activation codes that several processes share, beside the devices in the registry's file.

The rules are those of :class:`ota.activation.Activations`; whichever process a device or a person asks gives the same
answer. ``now`` is the machine's monotonic clock, which its processes have in common. Guesses are counted for all processes
together; how many new devices one address may bring, for each.
"""

from __future__ import annotations

import secrets
import sqlite3

from ota.activation import (
    CODE_DIGITS,
    CODE_LIFETIME_S,
    MAX_OFFERS,
    Offer,
    OfferState,
    Pair,
    TooManyAttemptsError,
    TooManyOffersError,
    UnknownCodeError,
    same_challenge,
)
from ota.shared_devices import SharedDeviceStore
from ota.token_bucket import TokenBuckets

GUESS_PERIOD_S = 600.0
GUESSES_A_SOURCE = 10
GUESSES_IN_ALL = 100

_SELECT = "SELECT code, challenge, expires_at, confirmed FROM offers WHERE device_id = ? AND client_id = ? AND expires_at > ?"
_SELECT_PROOF = "SELECT serial_number, hmac FROM offers WHERE device_id = ? AND client_id = ?"
_KEEP_PROOF = "UPDATE offers SET serial_number = ?, hmac = ? WHERE device_id = ? AND client_id = ?"
_CONFIRM = "UPDATE offers SET confirmed = ? WHERE device_id = ? AND client_id = ?"


class SharedActivations:
    """Implements :class:`ota.activation.Codes`. Every method raises StoreError when the file cannot be used."""

    def __init__(self, store: SharedDeviceStore, *, lifetime_s: float = CODE_LIFETIME_S, max_offers: int = MAX_OFFERS) -> None:
        self._store = store
        self._lifetime_s = lifetime_s
        self._max_offers = max_offers
        self._offers_by_source = TokenBuckets(rate_per_s=0.5, burst=300, max_sources=1000)

    async def offer(self, pair: Pair, *, source: str, now: float) -> Offer:
        """The code of this pair: the same until it expires or is confirmed. Raises TooManyOffersError."""
        for code, challenge, expires_at, confirmed in self._store.read(_SELECT, (*pair, now)):
            if not confirmed:
                return Offer(code, challenge, pair, expires_at)
        if not self._offers_by_source.take(source, now=now):
            raise TooManyOffersError("too many new devices come from one address")
        return await self._store.change(lambda database: self._offer(database, pair, now))

    async def confirm(self, code: str, *, source: str, now: float) -> Pair:
        """A person entered this code: the pair that shows it. Raises UnknownCodeError, TooManyAttemptsError."""
        verdict = await self._store.change(lambda database: _confirm(database, code.strip(), source, now))
        if isinstance(verdict, Exception):  # returned, not raised, so that the guess stays counted
            raise verdict
        return verdict

    async def unconfirm(self, pair: Pair) -> None:
        """Take a confirmation back, because it could not be stored."""
        await self._store.change(lambda database: database.execute(_CONFIRM, (0, *pair)))

    async def state(self, pair: Pair, *, challenge: str | None, now: float) -> OfferState:
        """How far this pair is; ``none`` also for a wrong challenge, and for one that expired."""
        rows = self._store.read(_SELECT, (*pair, now))
        if not rows or (challenge is not None and not same_challenge(challenge, rows[0][1])):
            return "none"
        return "confirmed" if rows[0][3] else "pending"

    async def record_proof(self, pair: Pair, *, serial_number: str, hmac_hex: str) -> None:
        """Keep what the device says of its serial number."""
        told = (serial_number, hmac_hex)
        if self._store.read(_SELECT_PROOF, pair) == [told]:
            return  # it asks every three seconds
        await self._store.change(lambda database: database.execute(_KEEP_PROOF, told + pair))

    async def serial_numbers(self) -> dict[Pair, str]:
        """The serial numbers that devices told, by pair."""
        rows = self._store.read("SELECT device_id, client_id, serial_number FROM offers WHERE serial_number != ''")
        return {(device_id, client_id): serial_number for device_id, client_id, serial_number in rows}

    def _offer(self, database: sqlite3.Connection, pair: Pair, now: float) -> Offer:
        row = database.execute(_SELECT, (*pair, now)).fetchone()
        if row and not row[3]:  # another process was quicker
            return Offer(row[0], row[1], pair, row[2])
        database.execute("DELETE FROM offers WHERE expires_at <= ? OR (device_id, client_id) = (?, ?)", (now, *pair))
        (count,) = database.execute("SELECT count(*) FROM offers").fetchone()
        if count >= self._max_offers:
            raise TooManyOffersError(f"{self._max_offers} devices wait for confirmation already")
        made = Offer(_new_code(database), secrets.token_hex(32), pair, now + self._lifetime_s, fresh=True)
        values = (*pair, made.code, made.challenge, made.expires_at)
        database.execute("INSERT INTO offers (device_id, client_id, code, challenge, expires_at) VALUES (?, ?, ?, ?, ?)", values)
        return made


def _confirm(database: sqlite3.Connection, code: str, source: str, now: float) -> Pair | UnknownCodeError | TooManyAttemptsError:
    database.execute("DELETE FROM guesses WHERE made_at <= ?", (now - GUESS_PERIOD_S,))
    in_all, by_source = database.execute("SELECT count(*), coalesce(sum(source = ?), 0) FROM guesses", (source,)).fetchone()
    if in_all >= GUESSES_IN_ALL or by_source >= GUESSES_A_SOURCE:
        return TooManyAttemptsError("too many codes were tried; wait ten minutes")
    database.execute("INSERT INTO guesses VALUES (?, ?)", (source, now))
    # a text that no UTF-8 can hold is no code either
    wanted = code.encode(errors="replace").decode()
    query = "SELECT device_id, client_id FROM offers WHERE code = ? AND NOT confirmed AND expires_at > ?"
    row = database.execute(query, (wanted, now)).fetchone()
    if row is None:
        return UnknownCodeError("no device shows this code now")
    pair = (str(row[0]), str(row[1]))
    database.execute(_CONFIRM, (1, *pair))
    return pair


def _new_code(database: sqlite3.Connection) -> str:
    while True:  # at most a thousandth of all codes is taken
        code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
        if database.execute("SELECT 1 FROM offers WHERE code = ?", (code,)).fetchone() is None:
            return code
