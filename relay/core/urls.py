"""The address of an endpoint: what its text must be like, and what of it goes on the wire.

What a name resolves to is the guard's business, at the moment of dialling. Here stands what can be refused when somebody
writes the URL down. The rules are stricter than browsers': what two parsers could read in two ways is not taken at all,
and what is taken goes out byte for byte.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import idna

from relay.core.netguard import (
    OPEN_IT,
    OTHER_SERVICE,
    THIS_RELAY,
    Address,
    Guard,
    Networks,
    as_dialled,
    is_port_of_receivers,
    why_refused,
)

URL_MAX = 2048
HOST_MAX = 253
HOSTS_KEPT = 64
"""Hosts whose address is remembered: each endpoint's is asked for several times in a row."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PUBLIC_ONLY = Guard()
_UNSAFE = re.compile(r"[^!-~]|[\"<>\\^`{|}]")
_PATH = re.compile(r"[/?].*", re.DOTALL)
_SOUND_BRACKETS = re.compile(r"\[[^\[\]]*:[^\[\]]*\](?::.*)?|[^\[\]]*")  # around an address, and nowhere else
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"\d+|0[xX][0-9a-fA-F]*")
_LOOPBACK: tuple[Address, ...] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
_PRIVATE_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".home.arpa")


class UnfitURL(ValueError):
    """A URL that a request line cannot carry; the text says why, and does not repeat it."""


class Target(NamedTuple):
    """What a request needs of a URL."""

    scheme: str
    host: str  # a name in lower case, or an address without brackets
    port: int
    authority: str  # the value of the `Host` header: without a port that the scheme implies
    path: str  # path and query, exactly as they were registered


def check_url(
    url: str,
    *,
    allow_http: bool,
    allow_private: bool,
    guard: Guard = _PUBLIC_ONLY,
    opened: Networks = (),
    for_tenant: bool = False,
) -> tuple[str, ...]:
    """List what is wrong with an endpoint's URL, each with what to do about it; empty if it may be configured.

    `allow_private` lets through what stays on this host or its networks: localhost (but for what `guard` knows to be a
    listener of ours), single-label names, addresses that are not public, and ports of other services. Without it `guard`
    says which addresses may be dialled by one to whom the networks `opened` are open. A tenant hears neither of settings that are not his nor what lies behind an address.
    No sentence repeats the URL: it may hold a credential.
    """
    faults = list(_text_faults(url))
    try:
        parts = urlsplit(url)
    except ValueError:
        return (*faults, 'it cannot be read as a URL; write it like "https://example.com/hooks"')
    port = _port(parts)
    if port == 0:
        faults.append("the port is no number from 1 to 65535; correct it, or leave it out")
    faults += _parts_faults(parts, allow_http=allow_http, for_tenant=for_tenant)
    host = parts.hostname or ""
    if host and not _UNSAFE.search(host):
        place = _Place(host, port or _DEFAULT_PORTS.get(parts.scheme), for_tenant)
        reasons = (guard.forbidden(address, place.port, opened) for address in addresses_of(host))
        if host_address(host) is None:
            wrong = list(_name_faults(place, allow_private=allow_private))
            faults += wrong or _address_faults(place, THIS_RELAY if THIS_RELAY in reasons else None)
        elif not allow_private:
            faults += _address_faults(place, next(reasons))
    return tuple(faults)


def parse_target(url: str) -> Target:
    """Take a URL apart for the wire; `UnfitURL` when no request can go there."""
    faults = check_url(url, allow_http=True, allow_private=True)
    if faults:
        raise UnfitURL(faults[0])
    parts = urlsplit(url)
    host, default = parts.hostname or "", _DEFAULT_PORTS[parts.scheme]
    port = parts.port or default
    shown = f"[{host}]" if ":" in host else host
    return Target(
        scheme=parts.scheme,
        host=host,
        port=port,
        authority=shown if port == default else f"{shown}:{port}",
        path=request_path(url),
    )


def request_path(url: str) -> str:
    """Return what of a URL stands on the request line: path and query, byte for byte as they were registered."""
    after_host = _PATH.search(url.partition("://")[2])
    path = after_host[0] if after_host else ""
    return path if path.startswith("/") else f"/{path}"


def masked(url: str) -> str:
    """Return the URL for logs, messages and those who only look on: of what follows the host, that there is something.

    Paths hold tokens as queries do (`/services/T0/B0/x`), and nobody knows which part of them is one.
    """
    parts = _split(url)
    if parts is None or not parts.scheme or not parts.netloc:
        return "(unreadable URL)"
    _, at, host = parts.netloc.rpartition("@")
    beyond = "/…" if parts.path.strip("/") or parts.query or parts.fragment else parts.path
    return f"{parts.scheme}://{'***@' if at else ''}{host}{beyond}"


def host_of(url: str) -> str:
    """Return the host of a registered URL, without its port; a few characters are looked at, whatever its length."""
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0].lower()
    host, _, port = authority.rpartition(":")
    return host if host and port.isdecimal() else authority


def literal_address(url: str) -> Address | None:
    """Return the IP address that a checked URL names itself, as it is dialled; None when it names a host."""
    return host_address(urlsplit(url).hostname or "")


def place_of(url: str) -> tuple[Address | None, int]:
    """Return address and port that a checked URL leads to; no address for a host's name."""
    parts = urlsplit(url)
    return host_address(parts.hostname or ""), parts.port or _DEFAULT_PORTS[parts.scheme]


@lru_cache(HOSTS_KEPT)
def host_address(host: str) -> Address | None:
    """Return the IP address that a URL's host is; None for a name."""
    if ":" not in host and not host[-1:].isdigit():
        return None  # without asking a parser, which takes longer to refuse a name than to read an address
    try:
        return None if "%" in host else as_dialled(ipaddress.ip_address(host))
    except ValueError:
        return None


def addresses_of(host: str) -> tuple[Address, ...]:
    """Return the addresses that are known of a host without asking anybody: its own, or those of `localhost` (RFC 6761)."""
    address = host_address(host)
    if address is not None:
        return (address,)
    return _LOOPBACK if f".{host.removesuffix('.').lower()}".endswith(".localhost") else ()


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return None if _port(parts) == 0 else parts


def _port(parts: SplitResult) -> int | None:
    """Return the port of a URL; None where it names none, 0 where it is no port."""
    try:
        return parts.port
    except ValueError:
        return 0


def _text_faults(url: str) -> Iterator[str]:
    if len(url) > URL_MAX:
        yield f"a URL has at most {URL_MAX} characters, this one has {len(url)}; shorten it"
    unsafe = dict.fromkeys(_UNSAFE.findall(url))
    if unsafe:
        characters = ", ".join(map(repr, unsafe))
        yield f"it holds the character{'s' if len(unsafe) > 1 else ''} {characters}; {_spelling(url)}"
    if _BROKEN_ESCAPE.search(url):
        yield "a % in it is not followed by two hexadecimal digits; write %25 for the character % itself"
    if "#" in url:
        yield "the part after # is never sent; remove it"


def _parts_faults(parts: SplitResult, *, allow_http: bool, for_tenant: bool) -> Iterator[str]:
    if parts.scheme not in _DEFAULT_PORTS:
        yield 'only https addresses are taken; write it like "https://example.com/hooks"'
    if parts.scheme == "http" and not allow_http:
        operators = "" if for_tenant else ", or set delivery.allow_http = true"
        yield f"http would send payloads unprotected; use https{operators}"
    if "@" in parts.netloc:
        yield "a URL must not hold a user name or password; put the credential into a header of the endpoint"
    if not _SOUND_BRACKETS.fullmatch(parts.netloc.rpartition("@")[2]):
        yield "[ and ] stand around an IPv6 address, with at most a port behind them; correct the host"
    if parts.scheme in _DEFAULT_PORTS and not parts.hostname:
        yield 'the host is missing; write it like "https://example.com/hooks"'


class _Place(NamedTuple):
    """Where a URL leads, and who hears what is wrong with it."""

    host: str
    port: int | None
    for_tenant: bool

    def faults_of_port(self) -> Iterator[str]:
        if self.port is not None and not is_port_of_receivers(self.port):
            yield why_refused(OTHER_SERVICE, f"port {self.port}")


def _name_faults(place: _Place, *, allow_private: bool) -> Iterator[str]:
    wrong = _name_fault(place.host)
    if wrong:
        yield wrong
    if allow_private:
        return
    if not wrong and _is_private_name(place.host):
        remedy = "give one that other hosts know" if place.for_tenant else OPEN_IT
        yield f"{place.host} names something on this network; {remedy}"
    yield from place.faults_of_port()


def _address_faults(place: _Place, reason: str | None) -> Iterator[str]:
    """Say what is wrong with a literal address, which the guard refused for `reason`."""
    if reason is None:
        return
    if reason != OTHER_SERVICE:
        for_tenant = f"{place.host} is not a public address; give one that other hosts reach"
        yield for_tenant if place.for_tenant else why_refused(reason, place.host)
    yield from place.faults_of_port()


def _name_fault(host: str) -> str | None:
    name = host.removesuffix(".")
    if ":" in host:
        return "the address between [ and ] is not an IPv6 address without zone; correct it"
    if len(name) > HOST_MAX:
        return f"a host name has at most {HOST_MAX} characters, this one has {len(name)}; shorten it"
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return "the host is neither a name nor an address; correct it"
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        return "the host is an address in an unusual form; write IPv4 addresses as four decimal numbers"
    return None


def _is_private_name(host: str) -> bool:
    name = host.removesuffix(".").lower()
    return "." not in name or f".{name}".endswith(_PRIVATE_SUFFIXES)


def _spelling(url: str) -> str:
    """How to write a URL that holds a character outside the safe ones: hosts as IDNA, all else percent-encoded."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return "percent-encode it"
    if host.isascii():
        return "percent-encode it, or take it out"
    ascii_host = _ascii_host(host)
    if ascii_host is None:
        return "no host may have such a character, nor is it percent-encoded there; correct the host"
    return f"write the host in its ASCII form, {ascii_host!r}"


def _ascii_host(host: str) -> str | None:
    """Return a host name as IDNA 2008 writes it; None where it holds what no name may hold.

    Python's own codec is IDNA 2003, under which `faß.de` would become `fass.de`, another owner's name.
    """
    if len(host) > HOST_MAX:
        return None
    try:
        return idna.encode(unicodedata.normalize("NFC", host.lower())).decode().removesuffix(".")
    except idna.IDNAError:
        return None
