"""Networks that one application may reach and another may not, at registration, at the dial, and in kept connections."""

import errno
import os
import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.config import Config
from relay.core.model import Failure
from relay.core.netguard import OTHER_SERVICE, Guard, Networks, Reach, is_port_of_receivers
from relay.delivery.courier import Request
from relay.delivery.dial import Place
from relay.delivery.resolver import Resolver
from tests.support.api import CONFIG, Api
from tests.support.clock import FakeClock
from tests.support.couriers import FixedNames, open_connections, post, running_courier
from tests.support.receiver import Receiver

ENDPOINTS = "/v1/webhook-endpoints"
LOOPBACK = (ip_network("127.0.0.0/8"),)
PUBLIC = "93.184.216.34"
EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def allowed(request: Request, networks: Networks) -> Request:
    return request._replace(reach=Reach(networks))


@pytest.mark.parametrize("port", [1, 22, 25, 110, 465, 587, 1023, 2049, 6000, 6667, 10080])
def test_no_network_opens_a_service_of_a_public_host(port: int) -> None:
    """I19: with every network open, for all or for one, a public host keeps its ports; a place inside has them all."""
    for guard, opened in ((Guard(EVERYTHING), ()), (Guard(), EVERYTHING)):
        assert guard.forbidden(PUBLIC, port, opened) == OTHER_SERVICE
        assert guard.forbidden(f"::ffff:{PUBLIC}", port, opened) == OTHER_SERVICE
        assert guard.forbidden("10.0.0.1", port, opened) is None
    assert Guard().forbidden(PUBLIC, port) == OTHER_SERVICE
    assert not is_port_of_receivers(port)


@pytest.mark.parametrize("port", [80, 443, 1024, 3000, 8000, 8080, 8443, 9443, 49152, 65535])
def test_usual_ports_are_open(port: int) -> None:
    """I19: webhooks are taken at the two ports of HTTP and at what people run servers on."""
    assert Guard().forbidden(PUBLIC, port) is None


@pytest.mark.parametrize("named", [False, True])
async def test_a_network_of_one_request_opens_nothing_for_another(*, named: bool) -> None:
    """I19: a loopback receiver is reached by the request that may, and by no other, by address or by name."""
    failure = Failure.BLOCKED_NAME if named else Failure.BLOCKED_ADDRESS
    async with Receiver() as receiver, running_courier(Guard(), _Checked(Guard(), "127.0.0.1")) as courier:
        request = post(f"http://name.example:{receiver.port}/" if named else receiver.url)
        assert (await courier.attempt(allowed(request, LOOPBACK))).status == 204
        assert (await courier.attempt(request)).failure is failure
        assert (await courier.attempt(allowed(request, (ip_network("10.0.0.0/8"),)))).failure is failure
        assert len(receiver.received) == 1


async def test_a_kept_connection_serves_only_those_who_could_have_made_it() -> None:
    """I19: a connection that waits in the pool is taken by a request with the same networks, which is the control."""
    async with Receiver() as receiver, running_courier(Guard()) as courier:
        request = allowed(post(receiver.url), LOOPBACK)
        for _ in range(2):
            assert (await courier.attempt(request)).status == 204
        assert {one.connection for one in receiver.received} == {1}
        assert open_connections(courier) == 1
        assert (await courier.attempt(post(receiver.url))).failure is Failure.BLOCKED_ADDRESS
        assert len(receiver.received) == 2


class _Checked(FixedNames):
    """A resolver with fixed answers and the real judgement."""

    def __init__(self, guard: Guard, *addresses: str) -> None:
        super().__init__(*addresses)
        self._resolver = Resolver(guard, FakeClock(), self._answer)

    def _answer(self, host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self._addresses]

    async def resolve(self, host: str, opened: Networks = ()) -> tuple[Place, ...]:
        return await self._resolver.resolve(host, opened)


# -- through a relay ---------------------------------------------------------------------------------------------------


async def made(api: Api, url: str, application: str) -> Any:
    return await api.call("POST", ENDPOINTS, {"url": url, "application": application, "event_types": ["*"]})


async def test_an_application_of_the_api_has_networks_of_its_own(tmp_path: Path) -> None:
    """I19: an admin opens a network to one application: its endpoints may be there, those of others may not, nor later."""
    async with Api(tmp_path, {**CONFIG, "delivery": {"allow_http": True}}) as api:
        body = {"id": "inside", "allow_networks": ["10.0.0.0/8"]}
        answer = await api.call("POST", "/v1/applications", body)
        assert (answer.status, answer.json["allow_networks"]) == (201, ["10.0.0.0/8"])
        assert (await made(api, "http://10.0.0.1:22/", "inside")).status == 201
        assert (await made(api, "http://10.0.0.1/", "globex")).status == 422
        assert "allow_networks of inside lets" in str((await api.get("/v1/status"))["warnings"])
        assert (await made(api, f"http://{PUBLIC}:22/", "inside")).status == 422
        await api.delivery_of(await api.post_event(application="inside"), "delivered")
        assert [request.reach.networks for request in api.courier.requests] == [(ip_network("10.0.0.0/8"),)]
        answer = await api.call("PATCH", "/v1/applications/inside", {"allow_networks": None})
        assert (answer.status, answer.json["allow_networks"]) == (200, [])
        assert (await made(api, "http://10.0.0.2/", "inside")).status == 422
        wrong = await api.call("PATCH", "/v1/applications/inside", {"allow_networks": ["10.0.0.1/8", "x"]})
        assert [one["pointer"] for one in wrong.json["errors"]] == ["/allow_networks/0", "/allow_networks/1"]
        for by in ("acme-app", "auditor"):
            assert (await api.call("PATCH", "/v1/applications/acme", {"allow_networks": []}, by=by)).status == 403


def test_an_application_of_the_file_has_networks_of_its_own() -> None:
    """I19: `[[application]] allow_networks` is a setting of the file, as text with units as everywhere."""
    config = Config.model_validate({"application": [{"id": "acme", "allow_networks": ["10.0.0.0/8"]}]})
    assert config.applications[0].allow_networks == (ip_network("10.0.0.0/8"),)
    assert config.applications[0].to_json()["allow_networks"] == ["10.0.0.0/8"]


# -- no descriptor is no dead name -------------------------------------------------------------------------------------


async def test_a_lookup_without_a_descriptor_blames_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup that fails while no file can be opened is ours, and the next one asks at once; otherwise it is the name's."""
    asked: list[str] = []

    def fail(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def none_left(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    resolver = Resolver(Guard(), FakeClock(), fail)
    async with running_courier(Guard(), resolver) as courier:
        with monkeypatch.context() as patched:
            patched.setattr("relay.delivery.resolver.os.open", none_left)
            for _ in range(2):
                assert (await courier.attempt(post("http://name.example/"))).failure is Failure.NO_DESCRIPTORS
        for _ in range(2):  # the control: with a descriptor it is the name's failure, which stands for a while
            assert (await courier.attempt(post("http://name.example/"))).failure is Failure.DNS
        assert len(asked) == 3
    await resolver.close()
