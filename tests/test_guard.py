"""The guard against a corpus of inside addresses (reliability §3.1, T11) and by property."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.netguard import ForbiddenAddress, Guard
from tests.support.addresses import INSIDE_V4, PUBLIC, corpus

V4 = st.integers(0, 2**32 - 1) | st.sampled_from([int(IPv4Address(address)) for address in INSIDE_V4.split()])
NAT64 = ip_network("64:ff9b::/96")


def test_corpus_is_refused() -> None:
    """Every one of at least 300 inside addresses and spellings is refused, with a reason (reliability §7.15)."""
    refused = corpus()
    assert len(set(refused)) >= 300
    guard = Guard()
    assert [address for address in refused if not guard.forbidden(address)] == []


def test_public_addresses_pass() -> None:
    """No public address is refused by mistake: their neighbours included (T11: 0 false blocks in 100)."""
    public = PUBLIC.split()
    assert len(public) >= 100
    guard = Guard()
    assert [address for address in public if guard.forbidden(address)] == []


@settings(deadline=None)
@given(st.integers(0, 2**128 - 1).map(IPv6Address) | st.ip_addresses(v=6))
def test_ipv6_outside_global_unicast_never_passes(address: IPv6Address) -> None:
    """Whatever lies outside 2000::/3 passes only as NAT64 or mapped form of a public IPv4 address."""
    if Guard().forbidden(str(address)) is None and address not in ip_network("2000::/3"):
        carried = IPv4Address(int(address) & 0xFFFFFFFF)
        assert address in ip_network("64:ff9b::/96") or address.ipv4_mapped is not None
        assert Guard().forbidden(str(carried)) is None


CARRIERS = [
    "::",
    "::ffff:0:0",
    "::ffff:0:0:0",
    "64:ff9b::",
    "64:ff9b:1::",
    "2002::",
    "2001::",
    "fe80::5efe:0:0",
    "2000::",
]


@settings(deadline=None)
@given(
    st.ip_addresses(v=6)
    | st.builds(lambda carrier, low: IPv6Address(int(IPv6Address(carrier)) | low), st.sampled_from(CARRIERS), V4)
)
def test_no_socket_is_opened_for_an_ipv6_address_inside(address: IPv6Address) -> None:
    """T11: where a socket is opened for a generated address, the standard library knows it as a public one, too."""
    try:
        Guard().open_socket(socket.AF_INET6, str(address), 443).close()
    except ForbiddenAddress:
        return
    dialled = address.ipv4_mapped or (IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else address)
    assert dialled.is_global
    assert not dialled.is_multicast


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_carried_ipv4_has_the_verdict_of_its_ipv4(address: IPv4Address) -> None:
    """`::ffff:a.b.c.d` and `64:ff9b::a.b.c.d` are judged as the address they lead to."""
    guard = Guard()
    verdict = guard.forbidden(str(address))
    assert guard.forbidden(f"::ffff:{address}") == verdict
    assert guard.forbidden(f"64:ff9b::{address}") == verdict


@settings(deadline=None)
@given(st.ip_addresses())
def test_stricter_than_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    """What Python calls private, loopback, link-local, multicast or reserved never passes, but for NAT64 and mapped forms."""
    inside = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    if inside and not (address.version == 6 and int(address) >> 32 in (0xFFFF, 0x64FF9B << 64)):
        assert Guard().forbidden(str(address))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_allowed_networks_open(address: str) -> None:
    """`allow_networks` opens exactly the networks it names, for the mapped spelling too."""
    guard = Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")])
    assert guard.forbidden(address) is None
    assert guard.forbidden("10.0.0.1")
    assert guard.forbidden("::2")


def test_opening_ipv6_does_not_open_mapped_ipv4() -> None:
    """`::/0` in `allow_networks` does not let `::ffff:127.0.0.1` through: the kernel dials that over IPv4."""
    guard = Guard([ip_network("::/0")])
    assert guard.forbidden("fd00::1") is None
    assert guard.forbidden("::ffff:127.0.0.1")


def test_nat64_of_an_allowed_network_stays_closed() -> None:
    """An allowed private network is reached directly, not through a translator on somebody else's network."""
    assert Guard([ip_network("10.0.0.0/8")]).forbidden("64:ff9b::10.0.0.1")


def test_own_addresses_are_closed() -> None:
    """Public addresses of this host are refused when they are given (reliability §3.1 step 5)."""
    guard = Guard(own_addresses=[ip_address("93.184.216.34")])
    assert guard.forbidden("93.184.216.34") == "this host"
    assert guard.forbidden("::ffff:93.184.216.34") == "this host"
    assert guard.forbidden("93.184.216.35") is None


OWN, OTHER = "93.184.216.34", "93.184.216.35"


@pytest.mark.parametrize("address", [OWN, f"::ffff:{OWN}", f"64:ff9b::{OWN}"])
def test_what_the_kernel_calls_local_is_closed(address: str) -> None:
    """I5: a public address of this host is refused, asked anew each time; it is open again when it has gone."""
    own = {ip_address(OWN)}
    guard = Guard(own=own)
    assert (guard.forbidden(address), guard.forbidden(OTHER)) == ("this host", None)
    own.clear()
    assert guard.forbidden(address) is None


def test_an_operator_may_open_an_own_address() -> None:
    """I5: `allow_networks` that holds an own address opens it, however it is known to be own."""
    for guard in (
        Guard([ip_network(f"{OWN}/32")], own={ip_address(OWN)}),
        Guard([ip_network(f"{OWN}/32")], own_addresses=[ip_address(OWN)]),
    ):
        assert guard.forbidden(OWN, 22) is None


@pytest.mark.parametrize(
    ("bound", "refused", "open_places"),
    [
        (OWN, [OWN, f"::ffff:{OWN}", "0.0.0.0", "::"], [OTHER, "127.0.0.1"]),
        ("0.0.0.0", [OWN, "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0"], [OTHER]),
        ("::", [OWN, "::1", "127.0.0.1"], [OTHER, "2606:4700::1"]),
        ("127.0.0.1", ["127.0.0.1", "0.0.0.0"], [OWN, "127.0.0.2"]),
    ],
)
def test_the_relays_own_listeners_are_never_opened(bound: str, refused: list[str], open_places: list[str]) -> None:
    """I5: with everything allowed, the address and port of a listener stay closed; a wildcard's on every own address."""
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    guard = Guard(everything, own={ip_address(OWN)}, listeners=lambda: {(ip_address(bound), 8420)})
    assert {guard.forbidden(address, 8420) for address in refused} == {"this relay"}
    assert {guard.forbidden(address, 8421) for address in refused} == {None}
    assert {guard.forbidden(address, 8420) for address in open_places} == {None}


@pytest.mark.parametrize("port", [1, 22, 25, 444, 1023])
def test_allowed_networks_open_no_ports_of_public_hosts(port: int) -> None:
    """I19: ports of other services are open inside the allowed networks and nowhere else, with or without such networks."""
    guard = Guard([ip_network("10.0.0.0/8")])
    assert guard.forbidden("10.0.0.1", port) is None
    assert guard.forbidden(OTHER, port) == Guard().forbidden(OTHER, port) == "a port of another service"
    assert {guard.forbidden(OTHER, usual) for usual in (80, 443, 1024, 8443, 65535)} == {None}


def test_sockets_are_opened_for_what_is_allowed() -> None:
    """A permitted address gets a socket of the family asked for, which does not block."""
    with Guard([ip_network("127.0.0.0/8")]).open_socket(socket.AF_INET, "127.0.0.1", 22) as made:
        assert (made.family, made.type, made.gettimeout()) == (socket.AF_INET, socket.SOCK_STREAM, 0.0)


def test_no_socket_is_opened_for_the_rest() -> None:
    """A forbidden address raises an error that is no `OSError`, so that nobody takes it for a failed connect."""
    with pytest.raises(ForbiddenAddress) as caught:
        Guard().open_socket(socket.AF_INET6, "fe80::1%eth0", 443)
    assert not isinstance(caught.value, OSError)
    assert (caught.value.address, caught.value.reason) == ("fe80::1%eth0", "link-local")
