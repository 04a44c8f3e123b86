"""The matrix of calls and callers, made from the table of calls: each call, by each role, for what is its own, what is
somebody else's, and what never existed."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
import pytest

from relay.api.routes import Route
from relay.core.access import Principal, Right, Role, Token
from tests.support.api import CONFIG, Answer, Api

OWN, FOREIGN = "acme", "globex"
STRANGER_UID = 12345


class Caller(NamedTuple):
    """Who calls, and what the call is then made as; without a role it is nobody."""

    name: str
    role: Role | None
    application: str | None = None  # that it is bound to
    peer_uid: int | None = None  # of a peer on the Unix socket, which sends no token

    @property
    def token(self) -> str:
        return f"{self.name}-token-0123456789"

    def may(self, right: Right | None) -> bool:
        return right is None or (self.role is not None and Principal("", self.role).may(right))


CALLERS = (
    Caller("nobody", None),
    Caller("producer", Role.PRODUCER),
    Caller("producer-of-acme", Role.PRODUCER, OWN),
    Caller("application", Role.APPLICATION, OWN),
    Caller("reader", Role.READER),
    Caller("operator", Role.OPERATOR),
    Caller("admin", Role.ADMIN),
    Caller("own-peer", Role.ADMIN, peer_uid=0),
    Caller("other-peer", Role.PRODUCER, peer_uid=STRANGER_UID),
)
BOUND = [caller for caller in CALLERS if caller.application]

Things = dict[str, str]
"""The ids of what an application has, by what a path says before `{…}`; `key` stands for `{key}`."""

NO_THINGS = {"{name:.+}": "render.completed", "{file}": "start.js"}
"""Parts of paths that name nothing of an application."""

BODIES: Mapping[tuple[str, str], Any] = {
    ("POST", "/v1/events"): {"type": "render.completed", "data": {}},
    ("POST", "/v1/events/batch"): {"type": "render.completed", "data": {}},  # in an array
    ("POST", "/v1/webhook-endpoints"): {"url": "https://new.example/"},
    ("POST", "/v1/replays"): {"mode": "failed"},
    ("POST", "/v1/dead-letters/note"): {"endpoint": "nowhere", "reason": "gone", "note": "x"},
}
"""What a call needs for more than a 422."""


class MatrixApi(Api):
    """A relay with two applications that have one of everything, and a token for each caller."""

    tokens = tuple(
        Token(each.name, each.role, each.application, each.token)
        for each in CALLERS
        if each.role is not None and each.peer_uid is None
    )

    async def make(self, application: str) -> Things:
        """Make an application with an endpoint, a key, and an event whose delivery has failed once."""
        wanted = {"id": application, "endpoint": {"url": f"https://{application}.example/hook"}, "key": {"name": "k"}}
        made = (await self.call("POST", "/v1/applications", wanted, by=CALLERS[6].token)).json
        self.courier.script = [500]
        event = await self.post_event(application=application)
        (delivery,) = await self.store.deliveries_of(event)
        await self.until(lambda: self._failed(event))
        wanted = {"mode": "failed", "application": application}
        replay = (await self.call("POST", "/v1/replays", wanted, by=CALLERS[6].token)).json
        return {
            "/v1/applications": application,
            "/v1/webhook-endpoints": made["endpoint"]["id"],
            "/v1/events": event,
            "/v1/deliveries": delivery.id,
            "/v1/replays": replay["id"],
            "key": made["key"]["id"],
        }

    async def _failed(self, event: str) -> bool:
        (delivery,) = await self.store.deliveries_of(event)
        return delivery.attempts == 1

    async def ask(self, caller: Caller, method: str, path: str, body: Any = None) -> Answer:
        """Make a call as somebody."""
        if caller.peer_uid is None:
            return await self.call(method, path, body, by=caller.token if caller.role else None)
        sent = {"Content-Type": "application/json"} if body is not None else {}
        data = None if body is None else orjson.dumps(body)
        connector = aiohttp.UnixConnector(path=str(self.folder / "relay.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, "http://relay" + path, data=data, headers=sent) as answer,
        ):
            return Answer(answer.status, dict(answer.headers), await answer.read())


@asynccontextmanager
async def matrix(
    folder: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[MatrixApi, Things, Things]]:
    """Run a relay with two applications; the peer of its Unix socket is whom the caller says."""
    monkeypatch.setattr("relay.api.connections.peer_uid", lambda sock: caller.peer_uid)
    config = {
        "server": {"listen": ["127.0.0.1:0", f"unix:{folder}/relay.sock"]},
        "storage": {"path": str(folder / "relay.db"), "min_free_disk": "1MiB"},
        "delivery": CONFIG["delivery"],
    }
    async with MatrixApi(folder, config) as api:
        yield api, await api.make(OWN), await api.make(FOREIGN)


def fill(path: str, things: Things) -> str:
    """Write the ids of some things into the path of a call; KeyError for a thing that `Things` does not know."""
    before, braced, _ = path.partition("/{")
    if not braced:
        return path
    for part in re.findall(r"\{[^}]*\}", path):
        named = NO_THINGS.get(part) or things["key" if part == "{key}" else before]
        path = path.replace(part, named, 1)
    return path


def missing(things: Things) -> Things:
    """Ids of the same form, of things that never were."""
    other = {kind: name.translate(str.maketrans("0189", "1098")) for kind, name in things.items()}
    return other | {"/v1/applications": "nowhere"}


def body_of(route: Route, **more: Any) -> Any:
    """Return what a call is sent: members that it needs, and `more`."""
    if route.method in ("GET", "HEAD", "DELETE"):
        return None
    written = {**BODIES.get((route.method, route.path), {}), **more}
    return [written] if route.path.endswith("/batch") else written


def gentlest_first(routes: list[Route]) -> list[Route]:
    """Put the calls that take things away last, and those that take more away after the others."""
    return sorted(routes, key=lambda route: (route.method == "DELETE", -len(route.path)))


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
async def test_every_call_asks_for_its_right(tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may make a call is let through to its own things; others hear 403, or 401, whatever they ask for."""
    async with matrix(tmp_path, caller, monkeypatch) as (api, own, foreign):
        for route in gentlest_first(api.relay.routes):
            if not caller.may(route.right):
                answers = [
                    await api.ask(caller, route.method, fill(route.path, things), body_of(route))
                    for things in (own, foreign, missing(foreign))
                ]
                assert {answer.status for answer in answers} == {401 if caller.role is None else 403}, route
                assert len({answer.text for answer in answers}) == 1, route
                continue
            answer = await api.ask(caller, route.method, fill(route.path, own), body_of(route))
            assert answer.status not in (401, 403), (route, answer.text)
            assert answer.status != 404 or "{id}" not in route.path, (route, answer.text)


@pytest.mark.parametrize("caller", BOUND, ids=lambda caller: caller.name)
async def test_what_belongs_to_another_application_does_not_exist(
    tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thing of another application is answered for word by word like one that never was, and stays as it is."""
    async with matrix(tmp_path, caller, monkeypatch) as (api, _, foreign):
        nothing = missing(foreign)
        for route in api.relay.routes:
            if "{id}" not in route.path or not caller.may(route.right):
                continue
            heard = [
                await api.ask(caller, route.method, fill(route.path, things), body_of(route))
                for things in (foreign, nothing)
            ]
            assert [answer.status for answer in heard] == [404, 404], (route, heard[0].text)
            assert without(heard[0], foreign) == without(heard[1], nothing), route


@pytest.mark.parametrize("caller", BOUND, ids=lambda caller: caller.name)
async def test_naming_another_application_tells_nothing(
    tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a query or a body, ids of another application are answered for word by word like ids that never were."""
    async with matrix(tmp_path, caller, monkeypatch) as (api, own, foreign):
        for route, kind in product(api.relay.routes, ("/v1/applications", "/v1/webhook-endpoints")):
            if route.method == "DELETE" or not caller.may(route.right):  # a second one would find nothing
                continue
            heard = [await name(api, caller, route, own, kind, named[kind]) for named in (foreign, missing(foreign))]
            assert heard[0].status == heard[1].status, (route, kind)
            assert without(heard[0], foreign) == without(heard[1], missing(foreign)), (route, kind)


async def name(api: MatrixApi, caller: Caller, route: Route, own: Things, kind: str, named: str) -> Answer:
    """Make a call that names an application or an endpoint beside its path."""
    path = fill(route.path, own)
    member, value = ("application", named) if kind == "/v1/applications" else ("endpoints", [named])
    if route.method in ("GET", "HEAD"):
        return await api.ask(caller, route.method, f"{path}?{member.removesuffix('s')}={named}")
    return await api.ask(caller, route.method, path, body_of(route, **{member: value}))


@pytest.mark.parametrize("caller", BOUND, ids=lambda caller: caller.name)
async def test_no_answer_speaks_of_another_application(
    tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No id, host or name of another application stands in any answer; an unbound reader finds them (negative control)."""
    async with matrix(tmp_path, caller, monkeypatch) as (api, own, foreign):
        said = [
            (await api.ask(caller, route.method, fill(route.path, own), body_of(route))).text
            for route in gentlest_first(api.relay.routes)
        ]
        seen = [(await api.call("GET", path, by="reader-token-0123456789")).text for path in LISTS]
    for canary in (*foreign.values(), f"{FOREIGN}.example"):
        assert not [text for text in said if canary.encode() in text], canary
    assert all(foreign[path].encode() in text for path, text in zip(LISTS, seen, strict=True))


LISTS = ("/v1/events", "/v1/deliveries", "/v1/webhook-endpoints")


def without(answer: Answer, things: Things) -> bytes:
    """The text of an answer, ids taken out that the question had in it, and the name of what was made by it."""
    text = answer.text
    for one in things.values():
        text = text.replace(one.encode(), b"ID")
    return re.sub(rb"(evt|ep|rpl|whsec)_[A-Za-z0-9+/=]+", rb"\1", text)


def test_a_new_kind_of_thing_is_noticed() -> None:
    """Negative control: a path whose `{…}` stands for something that the matrix does not know ends in an error."""
    with pytest.raises(KeyError):
        fill("/v1/portals/{id}", {"/v1/events": "evt_1"})


@pytest.mark.parametrize("caller", BOUND, ids=lambda caller: caller.name)
async def test_the_matrix_finds_a_leak(tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: where bound callers see everything, another application's event is shown."""
    monkeypatch.setattr(Principal, "sees", lambda principal, application: True)
    async with matrix(tmp_path, caller, monkeypatch) as (api, _, foreign):
        assert (await api.ask(caller, "GET", f"/v1/events/{foreign['/v1/events']}")).status == 200


async def test_a_call_stands_in_the_table_once(tmp_path: Path) -> None:
    """No method and path twice, and no handler under two rights."""
    async with Api(tmp_path) as api:
        calls = [(route.method, route.path) for route in api.relay.routes]
        assert len(calls) == len(set(calls))
        rights = {(route.handler, route.right) for route in api.relay.routes}
        assert len(rights) == len({handler for handler, _ in rights})
