"""How relay speaks TLS to a receiver: whom it trusts, what it shows of itself, and what it learned of the other end.

Certificates and host names are always verified; there is no switch.
"""

import os
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple

MIN_VERSION = "1.2"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

NAME_CHARACTERS_MAX = 200


class TlsIdentity(NamedTuple):
    """Whom relay trusts at the other end, and what it shows of itself. Only equal ones share connections."""

    ca: str = ""  # PEM
    system: bool = True  # the authorities of this host are trusted beside those of `ca`
    client_cert: str = ""  # PEM, its own chain behind it
    client_key: str = ""  # PEM
    min_version: str = MIN_VERSION

    def __repr__(self) -> str:
        return f"TlsIdentity(system={self.system}, min_version={self.min_version!r}, …)"


DEFAULT = TlsIdentity()
"""The authorities of this host, and nothing to show."""


class Certificate(NamedTuple):
    """What is known of a certificate, a receiver's or one of relay's own."""

    subject: str
    issuer: str
    not_before_ms: int
    not_after_ms: int


def context_of(identity: TlsIdentity) -> ssl.SSLContext:
    """Make the context of an identity; `ssl.SSLError` when OpenSSL refuses what it holds.

    With the authorities of this host it takes tens of milliseconds and a megabyte, which is for a thread, once.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = _VERSIONS[identity.min_version]
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whatever stands in `ca` is trusted, an intermediate too
    context.set_alpn_protocols(["http/1.1"])
    if identity.system:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if identity.ca:
        context.load_verify_locations(cadata=identity.ca.encode("ascii", "ignore").decode())  # comments may not be
    if identity.client_cert:
        _load_pair(context, identity)
    return context


def _load_pair(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """Load certificate and key out of memory: OpenSSL asks for a file, and a key has none of its own."""
    descriptor = os.memfd_create("relay-client-key", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "w", closefd=False) as file:
            file.write(f"{identity.client_cert}\n{identity.client_key}\n")
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    finally:
        os.close(descriptor)


def _no_password() -> str:
    """An encrypted key is an error; without this OpenSSL would ask at the terminal."""
    return ""


def peer_certificate(session: ssl.SSLObject) -> Certificate | None:
    """Return what a verified peer showed; None when it showed nothing."""
    shown = session.getpeercert()
    if not shown:
        return None
    return Certificate(
        subject=printed_name(_pairs(shown.get("subject"))),
        issuer=printed_name(_pairs(shown.get("issuer"))),
        not_before_ms=_moment_ms(shown.get("notBefore")),
        not_after_ms=_moment_ms(shown.get("notAfter")),
    )


def printed_name(pairs: Sequence[tuple[str, str]]) -> str:
    """Write a distinguished name by its common name, or by all that it has."""
    common = [value for key, value in pairs if key in ("commonName", "CN")]
    text = common[0] if common else ", ".join(f"{key}={value}" for key, value in pairs)
    return "".join(character if character.isprintable() else " " for character in text)[:NAME_CHARACTERS_MAX]


def _pairs(written: Any) -> list[tuple[str, str]]:
    return [pair for group in written or () for pair in group]


def _moment_ms(written: object) -> int:
    return round(ssl.cert_time_to_seconds(str(written)) * 1000)
