"""Activation codes: a device shows one, a person who holds the device confirms it.

Pure but for randomness: ``now`` is in seconds of a clock that does not run backwards. See the devices' ``activation``
section and ``POST …/activate``. Codes belong to a *pair* of Device-Id and Client-Id, so that nobody rides on a code that
another one shows.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ota.token_bucket import TokenBuckets

CODE_DIGITS = 6
CODE_LIFETIME_S = 600.0
MAX_OFFERS = 1000

Pair: TypeAlias = tuple[str, str]
"""Device-Id and Client-Id."""
OfferState: TypeAlias = Literal["none", "pending", "confirmed"]


class ActivationError(Exception):
    """A code cannot be offered or confirmed::

    ActivationError
    +-- UnknownCodeError         no device shows this code now
    +-- TooManyAttemptsError     codes are being guessed; later again
    +-- TooManyOffersError       as many devices wait for confirmation as we keep
    """


class UnknownCodeError(ActivationError):
    """No device shows this code now."""


class TooManyAttemptsError(ActivationError):
    """Codes are being guessed."""


class TooManyOffersError(ActivationError):
    """As many devices wait for confirmation as we keep."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A code on a device's screen. ``fresh`` is True when it was made by this very call."""

    code: str
    challenge: str
    pair: Pair
    expires_at: float
    fresh: bool = False


@dataclass(slots=True)
class _Entry:
    offer: Offer
    confirmed: bool = False
    serial_number: str = ""
    hmac: str = ""


class Activations:
    """The codes on show, in memory: after a restart devices ask again and get new ones.

    Guessing is limited to ``10`` attempts a source and ``100`` in all per ten minutes: one in ten thousand with one code on show.
    """

    def __init__(self, *, lifetime_s: float = CODE_LIFETIME_S, max_offers: int = MAX_OFFERS) -> None:
        self._lifetime_s = lifetime_s
        self._max_offers = max_offers
        self._by_pair: dict[Pair, _Entry] = {}
        self._by_code: dict[str, _Entry] = {}
        self._offers_by_source = TokenBuckets(rate_per_s=0.5, burst=300, max_sources=1000)
        self._by_source = TokenBuckets(rate_per_s=10 / 600, burst=10, max_sources=1000)
        self._by_all = TokenBuckets(rate_per_s=100 / 600, burst=100, max_sources=1)

    def offer(self, pair: Pair, *, source: str, now: float) -> Offer:
        """The code of this pair: the same until it expires or is confirmed.

        Raises TooManyOffersError, also when one source makes up too many devices: it must not keep others out.
        """
        entry = self._live(pair, now)
        if entry and not entry.confirmed:
            return entry.offer
        if entry:
            self._drop(entry)
        self._expire(now)
        if len(self._by_pair) >= self._max_offers:
            raise TooManyOffersError(f"{self._max_offers} devices wait for confirmation already")
        if not self._offers_by_source.take(source, now=now):
            raise TooManyOffersError("too many new devices come from one address")
        made = Offer(self._new_code(), secrets.token_hex(32), pair, now + self._lifetime_s, fresh=True)
        kept = _Entry(Offer(made.code, made.challenge, pair, made.expires_at))
        self._by_pair[pair] = self._by_code[made.code] = kept
        return made

    def confirm(self, code: str, *, source: str, now: float) -> Pair:
        """A person entered this code: the pair that shows it. Raises UnknownCodeError, TooManyAttemptsError."""
        if not self._by_source.take(source, now=now) or not self._by_all.take("", now=now):
            raise TooManyAttemptsError("too many codes were tried; wait ten minutes")
        self._expire(now)
        entry = self._by_code.get(code.strip())
        if entry is None or entry.confirmed:
            raise UnknownCodeError("no device shows this code now")
        entry.confirmed = True
        return entry.offer.pair

    def unconfirm(self, pair: Pair) -> None:
        """Take a confirmation back, because it could not be stored."""
        if entry := self._by_pair.get(pair):
            entry.confirmed = False

    def state(self, pair: Pair, *, challenge: str | None, now: float) -> OfferState:
        """How far this pair is. ``challenge`` None: the device does not return one (activation version 1).

        ``none`` also for a wrong challenge, and for one that expired.
        """
        entry = self._live(pair, now)
        if entry is None or (challenge is not None and not same_challenge(challenge, entry.offer.challenge)):
            return "none"
        return "confirmed" if entry.confirmed else "pending"

    def record_proof(self, pair: Pair, *, serial_number: str, hmac_hex: str) -> None:
        """Keep what the device says of its serial number. Not verified: the keys are burnt in by the vendors of the chips."""
        if entry := self._by_pair.get(pair):
            entry.serial_number, entry.hmac = serial_number, hmac_hex

    def proof(self, pair: Pair) -> tuple[str, str]:
        """Serial number and HMAC as the device told them, empty when it did not."""
        entry = self._by_pair.get(pair)
        return (entry.serial_number, entry.hmac) if entry else ("", "")

    def serial_numbers(self) -> dict[Pair, str]:
        """The serial numbers that devices told, by pair."""
        return {pair: entry.serial_number for pair, entry in self._by_pair.items() if entry.serial_number}

    def _live(self, pair: Pair, now: float) -> _Entry | None:
        entry = self._by_pair.get(pair)
        if entry and now >= entry.offer.expires_at:
            self._drop(entry)
            return None
        return entry

    def _expire(self, now: float) -> None:
        for entry in [entry for entry in self._by_pair.values() if now >= entry.offer.expires_at]:
            self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        del self._by_pair[entry.offer.pair]
        del self._by_code[entry.offer.code]

    def _new_code(self) -> str:
        while True:  # at most a thousandth of all codes is taken
            code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
            if code not in self._by_code:
                return code


class Codes(Protocol):
    """What the HTTP side asks: :class:`Activations`, but each answer may have to be fetched.

    Those that several processes share raise StoreError as well.
    """

    async def offer(self, pair: Pair, *, source: str, now: float) -> Offer: ...
    async def confirm(self, code: str, *, source: str, now: float) -> Pair: ...
    async def unconfirm(self, pair: Pair) -> None: ...
    async def state(self, pair: Pair, *, challenge: str | None, now: float) -> OfferState: ...
    async def record_proof(self, pair: Pair, *, serial_number: str, hmac_hex: str) -> None: ...
    async def serial_numbers(self) -> dict[Pair, str]: ...


class LocalCodes:
    """The :class:`Codes` of a process that shares them with no other."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations

    async def offer(self, pair: Pair, *, source: str, now: float) -> Offer:
        return self._activations.offer(pair, source=source, now=now)

    async def confirm(self, code: str, *, source: str, now: float) -> Pair:
        return self._activations.confirm(code, source=source, now=now)

    async def unconfirm(self, pair: Pair) -> None:
        self._activations.unconfirm(pair)

    async def state(self, pair: Pair, *, challenge: str | None, now: float) -> OfferState:
        return self._activations.state(pair, challenge=challenge, now=now)

    async def record_proof(self, pair: Pair, *, serial_number: str, hmac_hex: str) -> None:
        self._activations.record_proof(pair, serial_number=serial_number, hmac_hex=hmac_hex)

    async def serial_numbers(self) -> dict[Pair, str]:
        return self._activations.serial_numbers()


def same_challenge(given: str, genuine: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode(errors="replace"), genuine.encode())
