"""The TLS certificate of the MQTT front, also when its files are renewed while the server runs."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509

from bridge.errors import OperatorError

log = structlog.get_logger(__name__)

WATCH_PERIOD_S = 30.0

_Fingerprint = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Of the first certificate in a file. ``names`` are its DNS names and IP addresses."""

    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]


def read_certificate(path: Path) -> CertificateFacts:
    """Dates and names of the first certificate in a PEM file. Raises OSError or ValueError."""
    certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return CertificateFacts(certificate.not_valid_before_utc, certificate.not_valid_after_utc, ())
    listed = (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
    return CertificateFacts(certificate.not_valid_before_utc, certificate.not_valid_after_utc, listed)


class ServerCertificate:
    """A certificate chain and its key. :attr:`context` serves the newest pair that could be loaded.

    Each handshake is handed over to the context of the pair in force, in the callback that OpenSSL makes once the client
    has said hello (with or without a server name). So a pair that does not load can never harm the one in use.
    """

    def __init__(self, certificate: Path, private_key: Path) -> None:
        """Reads the files. Raises OperatorError when they cannot be used."""
        self._paths = (certificate, private_key)
        self._seen = self._fingerprint()
        try:
            self._current = self._load()
        except (OSError, ValueError) as error:
            raise OperatorError(f"The certificate {certificate} with the key {private_key} cannot be used: {error}.") from error
        self.reloads = 0
        self.context = _context()
        self.context.load_cert_chain(*self._paths)
        self.context.sni_callback = self._hand_over

    async def watch(self, *, period_s: float = WATCH_PERIOD_S) -> None:
        """Look every ``period_s`` whether the files have changed, until cancelled. What cannot be used is logged once."""
        while True:
            await asyncio.sleep(period_s)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> bool:
        """Load the files if they have changed; True when new handshakes use a new pair. Blocks for a moment."""
        found = self._fingerprint()
        if found == self._seen:
            return False
        self._seen = found
        try:
            self._current = self._load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            log.error(  # noqa: TRY400 - the sentence says all
                "the renewed certificate cannot be used, the old one stays in force", certificate=str(self._paths[0]), error=str(error)
            )
            return False
        self.reloads += 1
        return True

    def _load(self) -> ssl.SSLContext:
        context = _context()
        context.load_cert_chain(*self._paths)
        facts = read_certificate(self._paths[0])
        log.info("certificate loaded", certificate=str(self._paths[0]), valid_until=facts.not_after.isoformat(), names=facts.names[:5])
        return context

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _fingerprint(self) -> _Fingerprint | None:
        """What changes when a file is written or replaced; None while one is missing."""
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return None
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context
