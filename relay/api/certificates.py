"""When certificates end: the receivers', as the latest handshake of each showed, and relay's own."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from relay.api import render
from relay.api.render import Json
from relay.api.services import Services
from relay.config.tls import certificate_of, expiry_warning
from relay.core.model import Endpoint
from relay.core.tls import Certificate

NAMED_MAX = 5
"""Certificates that end soon and are named in a status; the others are counted."""

RECEIVER, CLIENT = "receiver", "client"
"""Whose certificate it is: the other end's, or the one that relay shows there."""


class Known(NamedTuple):
    """One certificate."""

    endpoint: str  # id; empty for what `[delivery.tls]` shows to all
    side: str
    certificate: Certificate


def known(services: Services) -> Iterator[Known]:
    """Walk through every certificate that is known now. O(as many)"""
    default = certificate_of(services.daemon.config.delivery.tls.client_cert.get_secret_value())
    if default is not None:
        yield Known("", CLIENT, default)
    for ref in services.dispatch.standing.with_certificates():
        endpoint = services.registrar.current.endpoint_by_ref(ref)
        if endpoint is None:
            continue
        shown = services.dispatch.standing.certificate(endpoint.ref)
        if shown is not None:
            yield Known(endpoint.id, RECEIVER, shown)
        own = None if endpoint.tls is None else certificate_of(endpoint.tls.client_cert)
        if own not in (None, default):
            yield Known(endpoint.id, CLIENT, own)


def warnings_of(certificates: Iterable[Known], now_ms: int) -> list[str]:
    """Say which certificates have expired or will within a fortnight, those that end first before the others."""
    ending = sorted(
        (one.certificate.not_after_ms, _subject(one), warning)
        for one in certificates
        if (warning := expiry_warning(one.certificate, now_ms)) is not None
    )
    found = [f"{subject} {warning}." for _, subject, warning in ending[:NAMED_MAX]]
    more = len(ending) - NAMED_MAX
    return found + ([f"{more} more certificates have expired or will soon."] if more > 0 else [])


def write_certificate(services: Services, endpoint: Endpoint) -> Json:
    """Write what an endpoint's receiver showed at the latest handshake; null when there was none since the start."""
    return {"certificate": render.certificate(services.dispatch.standing.certificate(endpoint.ref))}


def _subject(one: Known) -> str:
    if not one.endpoint:
        return "The client certificate of delivery.tls"
    if one.side == CLIENT:
        return f"The client certificate of endpoint {one.endpoint}"
    return f"The certificate of {one.endpoint}'s receiver"
