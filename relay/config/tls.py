"""What certificates and keys must be: PEM that can be read, of a size that makes sense, a key that fits.

A message is a sentence with what to do after its last semicolon.
"""

import re
import ssl
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from relay.core.tls import Certificate, TlsIdentity, context_of, printed_name

# `cryptography` is imported where a certificate or key is read: most relays are given none, and it takes 16 MiB.
if TYPE_CHECKING:
    from cryptography import x509

CHAIN_MAX = 10
"""Certificates of one client certificate with its chain."""

AUTHORITIES_MAX = 10
"""Authorities of an endpoint that are shown by name."""

EXPIRES_SOON_MS = 14 * 24 * 3_600_000
"""A certificate that ends within this time is warned of."""

_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)

Fault = tuple[str, str]  # key of the setting, sentence


def faults_of(ca: str, client_cert: str, client_key: str) -> Iterator[Fault]:
    """Yield everything that is wrong with what was given for TLS; an empty text was not given. O(its length)"""
    faults = [*_faults_of_authorities(ca), *_faults_of_pair(client_cert, client_key)]
    yield from faults
    if not faults:
        yield from _refused(ca, client_cert, client_key)


@lru_cache(256)
def certificate_of(client_cert: str) -> Certificate | None:
    """Read the first certificate of a PEM text; None when there is none."""
    first = next(iter(_certificates(client_cert) or ()), None)
    if first is None:
        return None
    return Certificate(
        subject=_name(first.subject),
        issuer=_name(first.issuer),
        not_before_ms=round(first.not_valid_before_utc.timestamp() * 1000),
        not_after_ms=round(first.not_valid_after_utc.timestamp() * 1000),
    )


@lru_cache(256)
def authorities_of(ca: str) -> tuple[str, ...]:
    """Name the authorities of a PEM text, the first ten of them."""
    return tuple(_name(one.subject) for one in (_certificates(ca) or ())[:AUTHORITIES_MAX])


def expiry_warning(certificate: Certificate | None, now_ms: int) -> str | None:
    """Say that a certificate has expired, or will within a fortnight; None when it is good for longer."""
    if certificate is None or certificate.not_after_ms - now_ms > EXPIRES_SOON_MS:
        return None
    days = (certificate.not_after_ms - now_ms) // (24 * 3_600_000)
    if days < 0:
        return "has expired; put a new one in its place"
    return f"expires {_in_days(days)}; put a new one in its place"


def _in_days(days: int) -> str:
    return "within a day" if days == 0 else f"in {days} day{'s' if days > 1 else ''}"


def _faults_of_authorities(ca: str) -> Iterator[Fault]:
    if ca and not _certificates(ca):
        yield "ca", "holds no certificate that can be read; it is PEM text, with -----BEGIN CERTIFICATE-----"


def _faults_of_pair(client_cert: str, client_key: str) -> Iterator[Fault]:
    chain = _certificates(client_cert)
    if client_key and not client_cert:
        yield "client_cert", "is missing; a key is of use with its certificate only"
    if client_cert and not client_key:
        yield "client_key", "is missing; a certificate is shown with its private key"
    if client_cert and not chain:
        yield "client_cert", "holds no certificate that can be read; it is PEM text, with -----BEGIN CERTIFICATE-----"
    elif chain is not None and len(chain) > CHAIN_MAX:
        yield "client_cert", f"holds {len(chain)} certificates; give the certificate and its chain, {CHAIN_MAX} at most"
    if client_key:
        yield from (("client_key", sentence) for sentence in _faults_of_key(client_key, chain))


def _faults_of_key(client_key: str, chain: "list[x509.Certificate] | None") -> Iterator[str]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    block = _KEY.search(client_key)
    try:
        key = load_pem_private_key(block[0].encode() if block else b"", None)
    except TypeError:
        yield "is encrypted; store it without a passphrase: openssl pkey -in KEY -out PLAIN"
    except (ValueError, UnsupportedAlgorithm):
        yield "holds no private key that can be read; it is PEM text, with -----BEGIN PRIVATE KEY-----"
    else:
        if chain and chain[0].public_key() != key.public_key():
            yield "does not belong to the first certificate of client_cert; give the key that it was made for"


def _refused(ca: str, client_cert: str, client_key: str) -> Iterator[Fault]:
    """Ask OpenSSL itself: it has opinions on the strength of keys and digests."""
    try:
        context_of(TlsIdentity(ca, system=False, client_cert=client_cert, client_key=client_key))
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "it is malformed"
        yield "client_cert" if client_cert else "ca", f"OpenSSL refuses it ({reason}); give another one"


def _certificates(pem: str) -> "list[x509.Certificate] | None":
    if not pem:
        return None
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return None


def _name(name: "x509.Name") -> str:
    return printed_name([(part.rfc4514_attribute_name, str(part.value)) for part in name])
