"""The address of an endpoint, as far as its text tells (reliability §3.1, step 1).

What a name resolves to is the guard's business, at the moment of dialling. Here stands what can be refused when somebody
writes the URL down. The rules are stricter than browsers': what two parsers could read in two ways is not taken at all.
"""

import ipaddress
import re
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

URL_MAX = 2048
HOST_MAX = 253

_ORDINARY_PORTS = (80, 443)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNSAFE = re.compile(r"[^!-~]|[\"<>\\^`{|}]")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"\d+|0[xX][0-9a-fA-F]*")
_PRIVATE_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".home.arpa")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(url: str, *, allow_http: bool, allow_private: bool) -> str | None:
    """Say what is wrong with an endpoint's URL and what to do about it; None if it may be configured.

    `allow_private` lets through what stays on this host or its networks: localhost, single-label names, addresses that
    are not public, and ports below 1024. The sentence never repeats the URL: it may hold a credential.
    """
    if len(url) > URL_MAX:
        return f"a URL has at most {URL_MAX} characters, this one has {len(url)}; shorten it"
    unsafe = _UNSAFE.search(url)
    if unsafe:
        return f"it holds the character {unsafe[0]!r}; {_spelling(url)}"
    if "#" in url:
        return "the part after # is never sent; remove it"
    parts = _split(url)
    if parts is None:
        return 'it cannot be read as a URL; write it like "https://example.com/hooks"'
    return _check_parts(parts, allow_http) or _check_place(parts, allow_private)


def masked(url: str) -> str:
    """Return the URL for logs and messages: without userinfo, fragment, and the values of its query."""
    parts = _split(url)
    if parts is None or ("@" in url and not parts.netloc):
        return "(unreadable URL)"
    _, at, host = parts.netloc.rpartition("@")
    netloc = f"***@{host}" if at else host
    return SplitResult(parts.scheme, netloc, parts.path, _masked_query(parts.query), "").geturl()


def literal_address(url: str) -> Address | None:
    """Return the IP address that a checked URL names itself; None when it names a host."""
    return _address(urlsplit(url).hostname or "")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        return None if parts.port == 0 else parts
    except ValueError:  # the port is looked at here because reading it may fail
        return None


def _check_parts(parts: SplitResult, allow_http: bool) -> str | None:
    if parts.scheme not in _DEFAULT_PORTS:
        return 'only https addresses are taken; write it like "https://example.com/hooks"'
    if parts.scheme == "http" and not allow_http:
        return "http would send payloads unprotected; use https, or set delivery.allow_http = true"
    if "@" in parts.netloc:
        return "a URL must not hold a user name or password; put the credential into a header of the endpoint"
    if not parts.hostname:
        return 'the host is missing; write it like "https://example.com/hooks"'
    return None


def _check_place(parts: SplitResult, allow_private: bool) -> str | None:
    host = parts.hostname or ""
    address = _address(host)
    wrong = None if address else _check_name(host)
    if wrong or allow_private:
        return wrong
    if address and not _is_public(address):
        return f"{address} is not a public address; list its network in delivery.allow_networks if it is meant"
    if not address and _is_private_name(host):
        return f"{host} names something on this network; list that network in delivery.allow_networks if it is meant"
    if parts.port is not None and parts.port < 1024 and parts.port not in _ORDINARY_PORTS:
        return f"port {parts.port} belongs to another service; use 443, 80, or a port from 1024 on"
    return None


def _check_name(host: str) -> str | None:
    name = host.removesuffix(".")
    if ":" in host or "%" in host:
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


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return _is_public(address.ipv4_mapped)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _address(host: str) -> Address | None:
    if "%" in host:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _spelling(url: str) -> str:
    """How to write a URL that holds a character outside the safe ones: hosts as IDNA, all else percent-encoded."""
    try:
        host = urlsplit(url).hostname or ""
        ascii_host = host.encode("idna").decode()
    except (ValueError, UnicodeError):
        return "percent-encode it"
    if host.isascii() or _address(ascii_host):
        return "percent-encode it, or take it out"
    return f"write the host in its ASCII form, {ascii_host!r}"


def _masked_query(query: str) -> str:
    if not query:
        return ""
    pairs = parse_qsl(query, keep_blank_values=True)
    if "=" not in query or not pairs:
        return "***"
    return urlencode([(name, "***") for name, _ in pairs], safe="*")
