"""How TLS is spoken to an endpoint, on the command line: options of `relay endpoint`, and what is shown of it."""

from collections.abc import Iterator
from typing import Any

import click

from relay.cli.output import Json, moment, options

_pem_file = click.File("r", encoding="utf-8")
"""Read here: the daemon opens no file that somebody names over its API."""

tls_options = options(
    click.option("--ca", type=_pem_file, metavar="FILE", help="PEM file of the only authorities to trust there."),
    click.option("--client-cert", type=_pem_file, metavar="FILE", help="PEM file of the certificate to show there."),
    click.option("--client-key", type=_pem_file, metavar="FILE", help="PEM file of its private key."),
    click.option("--min-tls", "min_version", type=click.Choice(["1.2", "1.3"]), help="Oldest version of TLS."),
)


def tls_members(given: Json) -> Json:
    """Return the members of an endpoint's `tls` that the options which were given stand for."""
    files = {name: given[name] for name in ("ca", "client_cert", "client_key") if given.get(name) is not None}
    members = {name: file.read() for name, file in files.items()}
    return members | ({"min_version": given["min_version"]} if given.get("min_version") else {})


def tls_rows(one: Json) -> Iterator[tuple[str, Any]]:
    """List what is shown of an endpoint's TLS: what was set, and the certificate of its receiver."""
    tls, certificate = one.get("tls"), one.get("certificate")
    if tls is not None:
        shown = tls["client_cert"]
        yield "TLS", f"{tls['min_version']} or newer"
        yield "trusts only", tls["ca"]
        yield "shows", None if shown is None else _certificate(shown)
    if certificate is not None:
        yield "its certificate", _certificate(certificate)


def _certificate(certificate: Json) -> str:
    return f"{certificate['subject']}, from {certificate['issuer']}, until {moment(certificate['not_after'])}"
