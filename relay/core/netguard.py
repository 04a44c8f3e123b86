"""Which addresses are public, asked when an endpoint is registered and again whenever one is dialled.

Webhook URLs come from strangers: nothing inside our network answers to them. The networks are listed here one by one,
because `ipaddress.is_global` calls NAT64, 6to4 and multicast addresses global and its verdict depends on the Python
version.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

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
        return why_not_public(IPv4Address(int(address) & 0xFFFFFFFF))
    for network, name in _NOT_PUBLIC:
        if address in network:
            return name
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST_V6:
        return "reserved"
    return None


class ForbiddenAddress(Exception):
    """A connection would have gone to an address that is not allowed. Not an `OSError`: nothing failed."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.address = address
        self.reason = reason


class Guard:
    """Decides by address, whatever name it came from (invariant 10)."""

    def __init__(self, allow_networks: Sequence[Network] = (), *, own_addresses: Sequence[Address] = ()) -> None:
        """`allow_networks` opens networks that are not public; `own_addresses` closes those of this host."""
        self._allowed = tuple(allow_networks)
        self._own = frozenset(own_addresses)

    def forbidden(self, address: str) -> str | None:
        """Say why `address` (text, with or without a zone id) must not be dialled; None when it may be."""
        try:
            parsed = as_dialled(ip_address(address.partition("%")[0]))
        except ValueError:
            return "not an IP address"
        if any(parsed in network for network in self._allowed):
            return None
        if parsed in self._own:
            return "this host"
        return why_not_public(parsed)

    def open_socket(self, family: int, address: str) -> socket.socket:
        """Open a TCP socket, not blocking, for an address that may be dialled; `ForbiddenAddress` otherwise.

        The one place that sees every address really connected to: names, literals, rebound names.
        """
        if reason := self.forbidden(address):
            raise ForbiddenAddress(address, reason)
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        opened.setblocking(False)
        return opened
