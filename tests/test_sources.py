"""Where deliveries come from: the listed addresses of this host, in turn, of the receiver's family, and no others (WOC-12)."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from relay.config import Config
from relay.core.issues import InvalidConfig
from relay.core.model import Failure
from relay.core.netguard import Guard, Reach
from relay.delivery.courier import Courier, CourierSettings
from relay.delivery.resolver import Resolver
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.couriers import LOOPBACK, FixedNames, post
from tests.support.daemon import TOKEN
from tests.support.stack import Stack

BOTH_LOOPS = True
FIRST, SECOND = ip_address("127.0.0.7"), ip_address("127.0.0.8")


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[tuple[str, list[str]]]:
    """A receiver that closes every connection after its answer, and the addresses that its connections came from."""
    peers: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, host, 0)
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.sockets[0].getsockname()[1]}/", peers
    finally:
        server.close()


@asynccontextmanager
async def coming_from(*sources: Any, names: FixedNames | None = None) -> AsyncIterator[Courier]:
    """A courier whose requests come from these addresses unless they say otherwise."""
    guard, clock = Guard(LOOPBACK), FakeClock()
    resolver = Resolver(guard, clock)
    courier = Courier(clock, guard, names or resolver, CourierSettings(source_addresses=sources))
    await courier.start()
    try:
        yield courier
    finally:
        await courier.close()
        await resolver.close()


async def test_deliveries_come_from_the_listed_addresses_in_turn() -> None:
    """WOC-12: each of the listed addresses is used; without any, which is the control, the routes decide."""
    async with listening() as (url, peers):
        async with coming_from(FIRST, SECOND) as courier:
            for _ in range(4):
                assert (await courier.attempt(post(url))).status == 204
        assert Counter(peers) == {str(FIRST): 2, str(SECOND): 2}
        async with coming_from() as courier:
            assert (await courier.attempt(post(url))).status == 204
        assert peers[-1] == "127.0.0.1"


async def test_an_applications_addresses_stand_in_the_place_of_the_others() -> None:
    """A request with addresses of its own comes from them, also from a kept connection's; with none listed, from any."""
    async with listening() as (url, peers), coming_from(FIRST) as courier:
        for sources in ((SECOND,), None, ()):
            assert (await courier.attempt(post(url)._replace(reach=Reach(sources=sources)))).status == 204
    assert peers == [str(SECOND), str(FIRST), "127.0.0.1"]


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_a_receiver_of_another_family_is_not_reached_from_elsewhere() -> None:
    """With IPv4 addresses alone no connection leaves over IPv6; a name with both families is reached over the fitting one."""
    async with listening("::1") as (url, peers), coming_from(FIRST) as courier:
        outcome = await courier.attempt(post(url))
        assert (outcome.failure, "family" in outcome.detail, peers) == (Failure.CONNECT, True, [])
    async with listening() as (url, peers), coming_from(FIRST, names=FixedNames("::1", "127.0.0.1")) as courier:
        port = url.rsplit(":", 1)[1]
        assert (await courier.attempt(post(f"http://both.example:{port}"))).status == 204
        assert peers == [str(FIRST)]


async def test_an_address_that_has_gone_is_said_so() -> None:
    """A listed address that this host lost while relay runs fails the attempt with what to do; nothing leaves elsewhere."""
    async with listening() as (url, peers), coming_from(ip_address("203.0.113.77")) as courier:
        outcome = await courier.attempt(post(url))
    assert (outcome.failure, peers) == (Failure.CONNECT, [])
    assert "source_addresses is no longer this host's" in outcome.detail


# -- in the file and through the API -----------------------------------------------------------------------------------


async def test_a_start_with_a_foreign_address_is_refused(tmp_path: Path) -> None:
    """Every address that this host does not have is named, with the exit code of a wrong configuration; unspecified ones too."""
    house = Stack(tmp_path, delivery='source_addresses = ["127.0.0.7", "203.0.113.77", "0.0.0.0", "::"]')
    relay = house.wire()
    with pytest.raises(InvalidConfig) as caught:
        await relay.start()
    assert [issue.message.split(" is no")[0] for issue in caught.value.issues] == [
        f"delivery.source_addresses: {address}" for address in ("203.0.113.77", "0.0.0.0", "::")
    ]
    assert caught.value.exit_code == 78


async def test_a_reload_puts_addresses_in_force_or_is_refused(tmp_path: Path) -> None:
    """A reload with a foreign address changes nothing; one with ours is followed by the next connections."""
    async with listening() as (url, peers), Stack(tmp_path, endpoints={"primary": url}) as house:
        await house.settled((await house.post())["id"], "delivered")
        house.write_config(endpoints={"primary": url}, delivery='source_addresses = ["203.0.113.77"]')
        status, answer = await house.call("POST", "/v1/reload", token=TOKEN)
        assert (status, "203.0.113.77 is no address of this host" in str(answer)) == (422, True)
        house.write_config(endpoints={"primary": url}, delivery='source_addresses = ["127.0.0.7"]')
        status, answer = await house.call("POST", "/v1/reload", token=TOKEN)
        assert (status, answer["changed"]) == (200, ["delivery.source_addresses"])
        await house.settled((await house.post())["id"], "delivered")
    assert peers == ["127.0.0.1", "127.0.0.7"]


async def test_an_application_of_the_api_delivers_from_its_own(tmp_path: Path) -> None:
    """An admin lists addresses for one application; foreign ones are refused, and null goes back to those of `[delivery]`."""
    async with Api(tmp_path) as api:
        body = {"id": "mine", "source_addresses": ["127.0.0.7", "203.0.113.77", "x"]}
        wrong = await api.call("POST", "/v1/applications", body)
        assert [one["pointer"] for one in wrong.json["errors"]] == ["/source_addresses/2"]
        wrong = await api.call("POST", "/v1/applications", body | {"source_addresses": ["127.0.0.7", "203.0.113.77"]})
        assert [one["pointer"] for one in wrong.json["errors"]] == ["/source_addresses/1"]
        made = await api.call("POST", "/v1/applications", body | {"source_addresses": ["127.0.0.7"]})
        assert (made.status, made.json["source_addresses"]) == (201, ["127.0.0.7"])
        endpoint = {"url": "https://mine.example/", "application": "mine"}
        assert (await api.call("POST", "/v1/webhook-endpoints", endpoint)).status == 201
        await api.delivery_of(await api.post_event(application="mine"), "delivered")
        assert [request.reach.sources for request in api.courier.requests] == [(FIRST,)]
        patched = await api.call("PATCH", "/v1/applications/mine", {"source_addresses": ["203.0.113.77"]})
        assert patched.status == 422
        patched = await api.call("PATCH", "/v1/applications/mine", {"source_addresses": None})
        assert (patched.status, patched.json["source_addresses"]) == (200, None)


def test_no_contract_lists_them() -> None:
    """Where deliveries come from is the host's matter: `[delivery]` and applications have the key, contracts do not."""
    config = Config.model_validate({"application": [{"id": "a", "source_addresses": ["127.0.0.7"]}]})
    assert (config.delivery.source_addresses, config.applications[0].source_addresses) == ((), (FIRST,))
