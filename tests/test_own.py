"""I5: this host's own addresses, as the kernel knows them, on this machine and in a network namespace; and through a relay."""

import asyncio
import errno
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.config.admission import refuse_misplaced
from relay.core import own as own_module
from relay.core.issues import InvalidConfig
from relay.core.model import Failure
from relay.core.netguard import Guard
from relay.core.own import OwnAddresses
from relay.delivery.courier import Courier
from relay.delivery.resolver import Resolver
from tests.support.config import endpoint, errors, read, sound
from tests.support.couriers import FixedNames, post, running_courier
from tests.support.hostile import Hostile, Wire
from tests.support.stack import Stack

PUBLIC, LISTED, NEIGHBOUR = "93.184.216.34", "93.184.216.99", "93.184.216.35"


class Kernel:
    """A netlink socket that gives one answer, or fails."""

    def __init__(self, answer: bytes | OSError) -> None:
        self._answer = answer
        self.asked: list[bytes] = []

    def send(self, question: bytes) -> None:
        self.asked.append(question)

    def recv(self, most: int) -> bytes:
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def close(self) -> None:
        pass


def route(kind: int) -> bytes:
    return struct.pack("=IHHIIBBBBBBBBI", 28, 24, 0, 0, 0, 2, 32, 0, 0, 255, 2, 254, kind, 0)


NO_ROUTE = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -errno.ENETUNREACH) + bytes(16)


@pytest.mark.parametrize(
    ("answer", "is_own"), [(route(1), False), (route(2), True), (route(3), False), (route(4), True), (NO_ROUTE, False)]
)
def test_own_is_what_the_kernel_routes_locally(answer: bytes, is_own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: a route of type local or anycast ends here; unicast, broadcast and no route do not. Each time it is asked anew."""
    kernel = Kernel(answer)
    monkeypatch.setattr(own_module, "_netlink", lambda: kernel)
    own = OwnAddresses()
    assert [ip_address(PUBLIC) in own for _ in range(2)] == [is_own, is_own]
    assert [question[-4:] for question in kernel.asked] == [ip_address(PUBLIC).packed] * 2


@pytest.mark.parametrize("trouble", ["at the start", "later", "a short answer"])
def test_without_netlink_an_address_is_own_that_can_be_bound(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: where the kernel's routes cannot be asked for, addresses of interfaces are still closed, and it is said once."""
    said: list[OSError] = []

    def refuse() -> Any:
        if trouble == "at the start":
            raise OSError(errno.EAFNOSUPPORT, "no netlink")
        return Kernel(b"" if trouble == "a short answer" else OSError(errno.ENOBUFS, "no buffers"))

    monkeypatch.setattr(own_module, "_netlink", refuse)
    own = OwnAddresses(said.append)
    assert [ip_address(address) in own for address in ("127.0.0.1", "127.9.9.9", PUBLIC)] == [True, True, False]
    assert len(said) == 1


def test_this_machine() -> None:
    """I5: the kernel of this machine knows its loopback network and its own addresses, and a closed asker still answers."""
    own = OwnAddresses()
    expected = ["127.0.0.1", "127.1.2.3", *([outer] if (outer := outer_address()) else [])]
    for _ in range(2):
        assert all(ip_address(address) in own for address in expected)
        assert ip_address("8.8.8.8") not in own
        own.close()
    assert "no address" not in own


def outer_address() -> str | None:
    """The address by which this machine reaches others; None when it reaches none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


async def test_this_machines_outer_address_is_never_connected_to() -> None:
    """I5: 0 connects on the outer address of this host; with its network allowed, which is the control, there is one."""
    outer = outer_address()
    if outer is None:
        pytest.skip("this machine has no address but loopback")
    own = OwnAddresses()
    connects = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connects.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(count, "0.0.0.0", 0)
    url = f"http://{outer}:{server.sockets[0].getsockname()[1]}/"
    try:
        async with running_courier(Guard(own=own)) as courier:
            assert (await courier.attempt(post(url))).failure is Failure.BLOCKED_ADDRESS
        assert connects == []
        async with running_courier(Guard([ip_network(f"{outer}/32")], own=own)) as courier:
            assert (await courier.attempt(post(url))).failure is Failure.BROKEN_RESPONSE
        assert len(connects) == 1
    finally:
        server.close()
        own.close()


def test_an_address_added_while_running() -> None:
    """I5: in a network namespace, a public address that this host is given is closed from the next connection on."""
    script = [sys.executable, "-m", "tests.test_own"]
    unshared = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        subprocess.run([*unshared, "ip", "link", "set", "lo", "up"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here ({error})")
    done = subprocess.run([*unshared, *script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


async def in_a_namespace() -> None:
    """Run inside the namespace: a public address comes, and a server that counts listens on every address."""
    wires: list[Wire] = []

    async def count(wire: Wire) -> None:
        wires.append(wire)
        await wire.request()
        await wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    ip("link", "set", "lo", "up")
    own = OwnAddresses()
    assert ip_address(PUBLIC) not in own
    ip("address", "add", f"{PUBLIC}/32", "dev", "lo")
    assert ip_address(PUBLIC) in own
    ip("route", "add", "local", "93.184.216.0/28", "dev", "lo")
    assert ip_address("93.184.216.3") in own
    async with Hostile(count, host=PUBLIC) as server:
        url, named = f"http://{PUBLIC}:{server.port}/", f"http://name.example:{server.port}/"
        async with running_courier(Guard(own=own), FixedNames(PUBLIC)) as courier:
            assert [await failure(courier, at) for at in (url, named)] == [
                Failure.BLOCKED_ADDRESS,
                Failure.BLOCKED_NAME,
            ]
        assert wires == []
        async with running_courier(
            Guard(), FixedNames(PUBLIC)
        ) as courier:  # the control: without the check it connects
            assert [await failure(courier, at) for at in (url, named)] == [None, None]
        assert len(wires) == 2
        ip("address", "del", f"{PUBLIC}/32", "dev", "lo")
        ip("route", "del", "local", "93.184.216.0/28", "dev", "lo")
        assert ip_address(PUBLIC) not in own
    await every_address(ip, own)
    own.close()


async def every_address(ip: Callable[..., None], own: OwnAddresses) -> None:
    """Try each kind of address that a host has, by a literal and by a name: 0 connects; in the control each is reached."""
    connects: list[str] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connects.append(writer.get_extra_info("sockname")[0])
        writer.close()

    for address in ("93.184.216.40/24", "93.184.216.41/24", "93.184.217.1/32", "10.9.8.7/24"):
        ip("address", "add", address, "dev", "lo")
    for address in ("2606:2800:220:1::1/64", "2606:2800:220:1::2/64", "fd00::9/64", "fe80::77/64"):
        ip("address", "add", address, "dev", "lo", "nodad")
    scope = socket.if_nametoindex("lo")
    hosts = ["93.184.216.40", "93.184.216.41", "93.184.217.1", "10.9.8.7", "127.0.0.1", "0.0.0.0"]
    hosts += ["[2606:2800:220:1::1]", "[2606:2800:220:1::2]", "[fd00::9]", "[::1]", "[::]", "[::ffff:93.184.216.40]"]
    names = ["93.184.216.41", "2606:2800:220:1::2", f"fe80::77%{scope}", "fe80::77%lo", "::ffff:93.184.216.41"]
    server = await asyncio.start_server(count, None, 0, family=socket.AF_INET6)
    port = server.sockets[0].getsockname()[1]
    other = await asyncio.start_server(count, "0.0.0.0", port)
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    listeners = {(ip_address("0.0.0.0"), port), (ip_address("::"), port)}
    guards = (Guard(own=own), Guard(everything, own=own, listeners=lambda: listeners))
    for guard in guards:
        for host in hosts:
            async with running_courier(guard) as courier:
                assert await failure(courier, f"http://{host}:{port}/") is Failure.BLOCKED_ADDRESS, host
        for name in names:
            async with running_courier(guard, FixedNames(name)) as courier:
                assert await failure(courier, f"http://name.example:{port}/") is Failure.BLOCKED_NAME, name
    assert connects == []
    for host in hosts:  # the control: opened and not the relay's own, each is reached
        async with running_courier(Guard(everything)) as courier:
            assert await failure(courier, f"http://{host}:{port}/") is Failure.BROKEN_RESPONSE, host
    for name in names:
        async with running_courier(Guard(everything), FixedNames(name)) as courier:
            assert await failure(courier, f"http://name.example:{port}/") is Failure.BROKEN_RESPONSE, name
    assert len(connects) == len(hosts) + len(names)
    server.close()
    other.close()


async def failure(courier: Courier, url: str) -> Failure | None:
    return (await courier.attempt(post(url))).failure


# -- through a relay ---------------------------------------------------------------------------------------------------


async def register(house: Stack, url: str) -> tuple[int, Any]:
    body = {"url": url, "application": "acme", "event_types": ["*"]}
    return await house.call("POST", "/v1/webhook-endpoints", body)


async def test_a_relay_never_posts_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: `allow_networks` holds the relay's own listener, and an attempt to it by another name is blocked all the same."""

    def loopback(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr("relay.daemon.outbound.Resolver", partial(Resolver, getaddrinfo=loopback))
    async with Stack(tmp_path) as house:
        status, _ = await register(house, f"http://hooks.example:{port_of(house)}/v1/events")
        assert status == 201
        delivery = await house.attempted((await house.post())["id"], 1)
        assert delivery["timeline"][0]["failure"] == "blocked_name"


def port_of(house: Stack) -> str:
    return house.url.rpartition(":")[2]


@pytest.mark.parametrize(
    ("listen", "hosts", "others"),
    [
        (
            "127.0.0.1",
            ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "localhost", "a.LOCALHOST."],
            ["127.0.0.2", PUBLIC],
        ),
        ("0.0.0.0", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost", PUBLIC, LISTED], [NEIGHBOUR]),
    ],
)
async def test_a_listener_of_the_relay_is_not_registered(
    tmp_path: Path, listen: str, hosts: list[str], others: list[str]
) -> None:
    """I5: with every network open, a place where the relay itself listens is refused at registration and in a patch.

    What is no listener, by its port or by its address, is taken, which is the control.
    """
    house = Stack(tmp_path, delivery=f'own_addresses = ["{LISTED}"]')
    everywhere = house.config_path.read_text().replace('"127.0.0.1:0"', f'"{listen}:0"')
    house.write(everywhere.replace('["127.0.0.0/8", "::1/128"]', '["0.0.0.0/0", "::/0"]'))
    house.own = {ip_address(PUBLIC)}
    async with house:
        port = int(port_of(house))
        for host in hosts:
            status, answer = await register(house, f"http://{host}:{port}/v1/events")
            assert (status, "where this relay listens, which it never dials" in str(answer)) == (422, True), host
            assert (await register(house, f"http://{host}:{port - 1}/"))[0] == 201, host
        for host in others:
            status, made = await register(house, f"http://{host}:{port}/")
            assert status == 201, host
        patch = await house.call("PATCH", f"/v1/webhook-endpoints/{made['id']}", {"url": f"http://{hosts[0]}:{port}/"})
        assert patch[0] == 422


SERVING = """
[server]
listen = ["{listen}"]
[delivery]
allow_http = true
allow_networks = ["0.0.0.0/0", "::/0"]
own_addresses = ["93.184.216.99"]
"""


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("127.0.0.1:8420", "127.0.0.1:8420"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("localhost:8420", "[::1]:8420"),
        ("[::1]:443", "localhost:443"),
        ("0.0.0.0:8420", f"{LISTED}:8420"),
        (f"{PUBLIC}:8420", f"[::ffff:{PUBLIC}]:8420"),
    ],
)
def test_a_listener_of_the_relay_is_a_mistake_in_the_file(tmp_path: Path, listen: str, place: str) -> None:
    """I5: reading a file finds an endpoint at one of its `server.listen`, also where the port is the scheme's."""
    hook = endpoint(url=f'"http://{place}/"')
    key = "application[acme].endpoint[e].url"
    assert "where this relay listens" in errors(read(tmp_path, SERVING.format(listen=listen) + hook))[key]
    assert errors(read(tmp_path, SERVING.format(listen="127.0.0.9:8421") + hook)) == {}  # the control


async def test_a_listener_at_an_address_of_this_host_refuses_a_file(tmp_path: Path) -> None:
    """I5: which address is a wildcard listener's only this host knows: it speaks against the file at start and reload."""
    there, elsewhere = (endpoint(url=f'"http://{host}:8420/"') for host in (PUBLIC, NEIGHBOUR))
    config = sound(read(tmp_path, SERVING.format(listen="0.0.0.0:8420") + there))
    with pytest.raises(InvalidConfig, match=rf"endpoint\[e\]\.url: {PUBLIC} is where this relay listens"):
        refuse_misplaced(config, {ip_address(PUBLIC)})
    refuse_misplaced(config, set())
    refuse_misplaced(sound(read(tmp_path, SERVING.format(listen="0.0.0.0:8420") + elsewhere)), {ip_address(PUBLIC)})


async def test_an_own_address_is_not_registered(tmp_path: Path) -> None:
    """I5: the API refuses an address that this host has, and one that the file lists, which follows a reload."""
    house = Stack(tmp_path)
    house.own = {ip_address(PUBLIC)}
    async with house:
        assert f"{PUBLIC} is an address of this host" in str((await register(house, f"https://{PUBLIC}/"))[1])
        assert (await register(house, f"https://{LISTED}/"))[0] == 201
        house.write_config(delivery=f'own_addresses = ["{LISTED}", "::ffff:93.184.216.98"]')
        status, answer = await house.call("POST", "/v1/reload")
        assert (status, answer["changed"]) == (200, ["delivery.own_addresses"])
        for address in (LISTED, "93.184.216.98"):
            assert f"{address} is an address of this host" in str((await register(house, f"https://{address}/"))[1])
            assert house.relay.guard.forbidden(address) == "this host"


if __name__ == "__main__":
    asyncio.run(in_a_namespace())
