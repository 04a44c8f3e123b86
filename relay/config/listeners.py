"""Addresses to listen on: `host:port`, `[ipv6]:port`, or `unix:/path`."""

import ipaddress
import re
from typing import NamedTuple

UNIX_PATH_BYTES_MAX = 107
"""What `sockaddr_un` holds on Linux, without its closing zero."""

_TCP = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")


class Refusal(NamedTuple):
    """Why an address is not taken, and what to write instead."""

    message: str
    remedy: str


def check_listen(address: str) -> Refusal | None:
    """Say what is wrong with an address to listen on; None if it can be tried."""
    if address == "systemd":
        return Refusal(
            "sockets passed by systemd are not supported yet",
            'List the addresses themselves, such as "127.0.0.1:8420" and "unix:/run/relay/relay.sock".',
        )
    if address.startswith("unix:"):
        return _check_unix(address.removeprefix("unix:"))
    return _check_tcp(address)


def is_local(address: str) -> bool:
    """Whether only this host can reach a checked address."""
    match = _TCP.fullmatch(address)
    if match is None:
        return True
    host = match["ipv6"] or match["host"]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_unix(path: str) -> Refusal | None:
    if not path.startswith("/"):
        return Refusal("the path of a Unix socket must be absolute", 'Write it like "unix:/run/relay/relay.sock".')
    length = len(path.encode())
    if length > UNIX_PATH_BYTES_MAX:
        return Refusal(
            f"the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes, this one has {length}",
            "Choose a shorter one, such as unix:/run/relay/relay.sock.",
        )
    return None


def _check_tcp(address: str) -> Refusal | None:
    match = _TCP.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        return Refusal(
            "not an address to listen on",
            'Write "127.0.0.1:8420", "[::1]:8420" or "unix:/run/relay/relay.sock".',
        )
    if match["ipv6"] and not _is_ipv6(match["ipv6"]):
        return Refusal("what stands in brackets is not an IPv6 address", 'Write it like "[::1]:8420".')
    return None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
