"""Which addresses are public, asked when an endpoint is registered and again whenever one is dialled.

Webhook URLs come from strangers: nothing inside our network answers to them. The networks are listed here one by one,
because `ipaddress.is_global` calls NAT64, 6to4 and multicast addresses global and its verdict depends on the Python
version.
"""

import socket
from collections.abc import Callable, Collection, Container, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]
Sources = tuple[Address, ...]


class Reach(NamedTuple):
    """Where the requests of one application may go beyond public addresses, and which of ours they come from."""

    networks: Networks = ()  # beside those that are open to everybody
    sources: Sources | None = None  # None: as for everybody


PUBLIC_ONLY = Reach()
"""The reach of who has none of his own."""

Listener = tuple[Address, int]
"""An address and a port that something of ours is bound to."""

THIS_HOST = "this host"
THIS_RELAY = "this relay"
OTHER_SERVICE = "a port of another service"
NOT_AN_ADDRESS = "not an IP address"

_ORDINARY_PORTS = (80, 443)
_OTHER_SERVICES = frozenset(
    (1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080)
)
"""Ports from 1024 on that browsers refuse as well (the "bad ports" of the Fetch standard): VoIP, NFS, X11, IRC and such."""

_NOT_PUBLIC_V4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "the platform of Azure"),
    ("169.254.0.0/16", "link-local"),  # the metadata services of clouds
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "6to4 relays"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
_NOT_PUBLIC_V6: tuple[tuple[str, str], ...] = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::/96", "IPv4-compatible"),
    ("::ffff:0:0:0/96", "translated IPv4"),  # RFC 2765; the mapped form `::ffff:0:0/96` is read as the IPv4 address
    ("64:ff9b:1::/48", "local NAT64"),
    ("100::/64", "discard"),
    ("2001::/32", "Teredo"),
    ("2001::/23", "protocol assignments"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),  # carries any IPv4 address, also 127.0.0.1
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
OPEN_IT = "if it is meant, list its network in allow_networks of the application or of [delivery]"
_SENTENCES = {
    THIS_RELAY: "{} is where this relay listens, which it never dials; give another",
    THIS_HOST: f"{{}} is an address of this host; {OPEN_IT}",
    OTHER_SERVICE: "{} belongs to another service; use port 443, 80, or a usual one from 1024 on",
}
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), name) for network, name in _NOT_PUBLIC_V4 + _NOT_PUBLIC_V6
)


def as_dialled(address: Address) -> Address:
    """Return the IPv4 address where the kernel would dial IPv4 for an IPv6 one (`::ffff:127.0.0.1`)."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without its zone id
    return address


def why_not_public(address: Address) -> str | None:
    """Say what kind of address this is when it is not a public one; None for a public address."""
    if address in _NAT64:  # on a network with DNS64 this is how public IPv4 hosts are reached
        return why_not_public(_translated(address))
    for network, name in _NOT_PUBLIC:
        if address in network:
            return name
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST_V6:
        return "reserved"
    return None


def _translated(address: Address) -> IPv4Address:
    """Return the IPv4 address that a NAT64 address leads to."""
    return IPv4Address(int(address) & 0xFFFFFFFF)


def is_port_of_receivers(port: int) -> bool:
    """Whether webhooks are taken at such a port of a public host; mail, SSH and the like are none of ours."""
    return port in _ORDINARY_PORTS or (port >= 1024 and port not in _OTHER_SERVICES)


def why_refused(reason: str, subject: str) -> str:
    """Say what a reason of `Guard.forbidden` means, and what to do about it, to somebody who runs the relay."""
    sentence = _SENTENCES.get(reason, f"{{}} is not a public address ({reason}); {OPEN_IT}")
    return sentence.format(subject)


class ForbiddenAddress(Exception):
    """A connection would have gone to an address that is not allowed. Not an `OSError`: nothing failed."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.address = address
        self.reason = reason


class Guard:
    """Decides by address, whatever name it came from (invariant 10)."""

    def __init__(
        self,
        allow_networks: Sequence[Network] = (),
        *,
        own: Container[Address] = (),
        own_addresses: Sequence[Address] = (),
        listeners: Callable[[], Collection[Listener]] = tuple,
    ) -> None:
        """Open `allow_networks` to everybody; close the addresses of this host and, whatever is opened, our `listeners`.

        `own` knows the addresses that this host has at the moment, `own_addresses` are others that lead to it.
        """
        self._allowed = tuple(allow_networks)
        self._own = own
        self._own_addresses = frozenset(own_addresses)
        self._listeners = listeners

    def forbidden(self, address: str | Address, port: int | None = None, opened: Networks = ()) -> str | None:
        """Say why `address` (or its text, with or without a zone id) must not be dialled; None when it may be.

        `opened` are networks that are open to whoever asks, beside those open to everybody. An open network has all its
        ports; a host that is public anyway keeps its own, so no `allow_networks` lets anybody send mail through it.
        O(open networks + listeners), and one question to the kernel for a public address.
        """
        try:
            parsed = as_dialled(ip_address(address.partition("%")[0]) if isinstance(address, str) else address)
        except ValueError:
            return NOT_AN_ADDRESS
        if port is not None and self.is_listener(parsed, port):
            return THIS_RELAY
        closed = why_not_public(parsed) or (THIS_HOST if self._is_own(parsed) else None)
        if closed is not None:
            return None if any(parsed in network for network in (*self._allowed, *opened)) else closed
        return None if port is None or is_port_of_receivers(port) else OTHER_SERVICE

    def _is_own(self, address: Address) -> bool:
        if address in _NAT64:
            address = _translated(address)
        return address in self._own_addresses or address in self._own

    def is_listener(self, address: Address, port: int) -> bool:
        """Whether one of our listeners takes connections to this place, by its address or by a wildcard."""
        bound = [host for host, bound_port in self._listeners() if bound_port == port]
        if not bound:
            return False
        if address.is_unspecified or address in bound:  # 0.0.0.0 leads to this host
            return True
        return any(host.is_unspecified for host in bound) and (address.is_loopback or self._is_own(address))

    def open_socket(self, family: int, address: str, port: int, opened: Networks = ()) -> socket.socket:
        """Open a TCP socket, not blocking, for a place that may be dialled; `ForbiddenAddress` otherwise.

        The one place that sees every address really connected to: names, literals, rebound names.
        """
        if reason := self.forbidden(address, port, opened):
            raise ForbiddenAddress(address, reason)
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setblocking(False)
        return made
