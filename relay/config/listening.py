"""Where the relay listens: `host:port`, `[ipv6]:port`, `unix:/path`, or the sockets that systemd passes.

An address at which systemd passes a socket is taken over from it; `systemd` stands for all that no other entry names, and
`systemd:NAME` for those with this `FileDescriptorName=`.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from relay.config.secrets import Wrong
from relay.core.netguard import Listener
from relay.core.urls import addresses_of

SYSTEMD = "systemd"

UNIX_PATH_BYTES_MAX = 107
"""What `sockaddr_un` holds on Linux, without its closing zero."""

_TCP = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")


class Passed(NamedTuple):
    """A socket that systemd holds for the relay: its `FileDescriptorName=`, and its address as `listen` writes it."""

    name: str
    address: str


def check_listen(address: str) -> str:
    """Return an address to listen on that can be tried; Wrong for any other text."""
    if is_systemd(address):
        return address
    if address.startswith("unix:"):
        _check_unix(address.removeprefix("unix:"))
    else:
        _check_tcp(address)
    return address


def is_systemd(entry: str) -> bool:
    """Whether an entry stands for sockets that systemd passes."""
    return entry == SYSTEMD or (entry.startswith(f"{SYSTEMD}:") and entry != f"{SYSTEMD}:")


def taken_over(listen: Sequence[str], passed: Sequence[Passed]) -> tuple[str, ...]:
    """Return where it listens, with the addresses of passed sockets in the place of the entries that stand for them.

    The first address of such an entry takes its place, others come at the end; an entry for which nothing was passed
    stays as it is.
    """
    named = {entry.partition(":")[2] for entry in listen if is_systemd(entry)}
    addresses, others = [], []
    for entry in listen:
        name = entry.partition(":")[2]
        wanted = [one for one in passed if (one.name == name if name else one.name not in named)]
        found = [one.address for one in wanted if one.address not in listen] if is_systemd(entry) else []
        addresses.append(found[0] if found else entry)
        others += found[1:]
    return (*addresses, *others)


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


def listeners_of(addresses: Iterable[str]) -> frozenset[Listener]:
    """Return where checked addresses listen on TCP, as far as they say it themselves; other names than localhost do not."""
    found = []
    for match in filter(None, map(_TCP.fullmatch, addresses)):
        host = match["ipv6"] or match["host"]
        found += [(address, int(match["port"])) for address in addresses_of(host)]
    return frozenset(found)


def _check_unix(path: str) -> None:
    if not path.startswith("/"):
        raise Wrong("the path of a Unix socket must be absolute", 'Write it like "unix:/run/relay/relay.sock".')
    length = len(path.encode())
    if length > UNIX_PATH_BYTES_MAX:
        raise Wrong(
            f"the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes, this one has {length}",
            "Choose a shorter one, such as unix:/run/relay/relay.sock.",
        )


def _check_tcp(address: str) -> None:
    match = _TCP.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise Wrong(
            "not an address to listen on",
            'Write "127.0.0.1:8420", "[::1]:8420" or "unix:/run/relay/relay.sock".',
        )
    if match["ipv6"] and not _is_ipv6(match["ipv6"]):
        raise Wrong("what stands in brackets is not an IPv6 address", 'Write it like "[::1]:8420".')


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
