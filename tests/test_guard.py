"""The guard against a corpus of inside addresses (reliability §3.1, T11) and by property."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.netguard import ForbiddenAddress, Guard

INSIDE_V4 = """
    0.0.0.0 0.0.0.1 0.1.2.3 0.255.255.255 10.0.0.0 10.0.0.1 10.1.2.3 10.255.255.255 100.64.0.0 100.64.0.1 100.100.100.200
    100.127.255.255 127.0.0.0 127.0.0.1 127.0.0.53 127.1.1.1 127.127.127.127 127.255.255.255 168.63.129.16 169.254.0.0 169.254.0.1
    169.254.169.123 169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0 172.16.0.1 172.17.0.1 172.20.10.1 172.24.0.1
    172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.192 192.0.0.255 192.0.2.0 192.0.2.1
    192.0.2.255 192.88.99.0 192.88.99.1 192.88.99.255 192.168.0.0 192.168.0.1 192.168.1.1 192.168.99.100 192.168.122.1
    192.168.255.255 198.18.0.0 198.18.0.1 198.19.255.255 198.51.100.0 198.51.100.1 198.51.100.255 203.0.113.0 203.0.113.1
    203.0.113.255 224.0.0.0 224.0.0.1 224.0.0.251 230.1.2.3 239.255.255.250 239.255.255.255 240.0.0.0 240.0.0.1
    250.1.2.3 255.255.255.254 255.255.255.255
"""
INSIDE_V6 = """
    :: ::1 ::2 ::ffff ::7f00:1 ::a00:1 ::127.0.0.1 ::169.254.169.254 ::8.8.8.8 ::1:0 ::1:0:0 0:0:0:0:0:0:0:1
    0000:0000:0000:0000:0000:0000:0000:0001 ::ffff:0:7f00:1 ::ffff:0:127.0.0.1 ::ffff:0:a9fe:a9fe ::ffff:0:8.8.8.8
    64:ff9b:1::1 64:ff9b:1::7f00:1 64:ff9b:1:ffff:ffff:ffff:7f00:1 64:ff9b:0:1::1 64:ff9a::1 100::1 100::ffff:1 100:0:0:1::1
    200::1 400::1 800::1 1000::1 1fff:ffff::1
    2001:: 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:0:7f00:1::1 2001:0:a9fe:a9fe::1 2001:0:53aa:64c:0:0:80ff:fffe
    2001:1::1 2001:1::2 2001:2::1 2001:2:0:ffff::1 2001:3::1 2001:4:112::1 2001:5::1 2001:10::1 2001:1f:ffff::1 2001:20::1
    2001:2f:ffff::1 2001:30::1 2001:100::1 2001:1ff:ffff::1 2001:db8:: 2001:db8::1 2001:db8:ffff::1
    2002:: 2002:7f00:1:: 2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1 2002:c0a8:101::1 2002:ac10:1::1 2002:e000:1::1
    2002:808:808::1 3fff::1 3fff:fff:ffff::1 4000::1 5000::1 5f00::1 5f00:ffff::1 6000::1 8000::1 a000::1 c000::1 e000::1
    f000::1 f800::1 fb00::1 fc00:: fc00::1 fd00::1 fd00:ec2::254 fd12:3456:789a:1::1 fdff:ffff::1 fe00::1 fe7f::1 fe80::
    fe80::1 fe80::1%eth0 fe80::1%1 fe80::a9fe:a9fe fe80::5efe:7f00:1 febf:ffff::1 fec0:: fec0::1 feff:ffff::1 ff00:: ff01::1
    ff02::1 ff02::fb ff05::1:3 ff0e::1 ff3e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ::5efe:7f00:1 ::5efe:127.0.0.1
    0:0:0:0:0:1:0:1 ::1%lo ::%lo
"""
PUBLIC = """
    1.0.0.1 1.1.1.1 8.8.4.4 8.8.8.8 9.9.9.9 11.0.0.1 12.1.1.1 13.32.0.1 23.1.2.3 34.117.59.81 44.1.2.3 52.1.1.1 54.239.28.85
    63.1.1.1 64.233.160.1 66.249.64.1 72.1.1.1 77.88.8.8 80.1.1.1 91.198.174.192 93.184.216.34 99.255.255.255 100.0.0.1
    100.63.255.255 100.128.0.0 104.16.0.1 108.1.1.1 126.255.255.255 128.0.0.1 130.1.1.1 134.1.1.1 138.1.1.1 140.82.112.3
    142.250.74.46 151.101.1.69 157.240.1.35 160.1.1.1 168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0
    172.217.0.1 176.1.1.1 180.1.1.1 185.199.108.153 188.1.1.1 190.1.1.1 191.255.255.255 192.0.1.0 192.0.3.0 192.31.196.1
    192.52.193.1 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 192.175.48.1 193.0.0.1 195.1.1.1 197.1.1.1
    198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 199.232.0.1 203.0.112.255 203.0.114.0 204.1.1.1 208.67.222.222
    212.1.1.1 216.58.208.1 220.1.1.1 223.255.255.255 2000::1 2001:200::1 2001:4860:4860::8888 2001:4860:4860::8844
    2001:500:1::53 2001:67c::1 2001:7fd::1 2001:db7:ffff::1 2001:db9::1 2003::1 2400:cb00::1 2600:1f18::1 2606:4700:4700::1111
    2607:f8b0:4004:800::200e 2620:fe::fe 2620:119:35::35 2800:3f0::1 2a00:1450:4001::1 2a01:4f8::1 2a02:26f0::1 2a03:2880::1
    2a04:4e42::1 2c0f:fb50::1 3000::1 3ffe::1 64:ff9b::8.8.8.8 64:ff9b::101:101 ::ffff:8.8.8.8 ::ffff:101:101
"""
OBFUSCATED = [
    "2130706433",
    "127.1",
    "0177.0.0.1",
    "0x7f000001",
    "0x7f.1",
    "0",
    "localhost",
    "",
    "127.0.0.1.",
    "[::1]",
    "1.2.3",
]


def _corpus() -> list[str]:
    carriers = ("::ffff:{}", "::ffff:0:{}", "64:ff9b::{}", "::{}", "64:ff9b:1::{}")
    carried = [carrier.format(address) for carrier in carriers for address in INSIDE_V4.split()]
    return INSIDE_V4.split() + INSIDE_V6.split() + carried + OBFUSCATED


def test_corpus_is_refused() -> None:
    """Every one of at least 300 inside addresses and spellings is refused, with a reason (reliability §7.15)."""
    corpus = _corpus()
    assert len(set(corpus)) >= 300
    guard = Guard()
    assert [address for address in corpus if not guard.forbidden(address)] == []


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
