"""Access tokens over real sockets: fetched once for all who wait, kept, renewed, and explained when there are none (issue 9)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qs

import pytest

from relay.core.auth import Auth, Grant, basic
from relay.core.model import Failure, Outcome
from relay.core.netguard import Guard, Reach
from relay.delivery import auth as auth_module
from relay.delivery.answer import EXCERPT_BYTES
from relay.delivery.auth import (
    AHEAD_MS,
    DISTRUST_MS,
    FAILURE_STANDS_MAX_MS,
    FAILURE_STANDS_MS,
    LIFETIME_MAX_MS,
    LIFETIME_UNSAID_MS,
    REPEATED,
    TOKEN_CHARACTERS_MAX,
    Tokens,
)
from relay.delivery.courier import Courier
from tests.support.clock import FakeClock
from tests.support.couriers import FixedNames, post, running_courier
from tests.support.hostile import Hostile, Wire
from tests.support.receiver import Answer, Received, Receiver
from tests.support.waiting import quiet, until

BOTH_LOOPS = True
"""Every async test here runs under asyncio's loop and under uvloop's."""

CLIENT = ("relay:1", "s3cret & more")


def giving(**members: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(members).encode())


class TokenServer(Receiver):
    """Gives the tokens `token-1`, `token-2` …, good for an hour; while `script` lasts it answers that instead."""

    def __init__(self, *script: Any, expires_in: Any = 3600) -> None:
        super().__init__(*script, default=self._next)
        self._expires_in = expires_in
        self._given = 0

    def _next(self, received: Received) -> Answer:
        self._given += 1
        said = {} if self._expires_in is None else {"expires_in": self._expires_in}
        return giving(access_token=f"token-{self._given}", token_type="bearer", **said)


def oauth(url: str, **changes: Any) -> Auth:
    return Auth({}, "Authorization", grant=Grant(url, *CLIENT, **changes))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@asynccontextmanager
async def tokens_over(courier: Courier, clock: FakeClock) -> AsyncIterator[Tokens]:
    tokens = Tokens(clock, courier.attempt)
    yield tokens
    await tokens.close()


@pytest.fixture
async def tokens(courier: Courier, clock: FakeClock) -> AsyncIterator[Tokens]:
    async with tokens_over(courier, clock) as tokens:
        yield tokens


def sent(receiver: Receiver) -> list[str]:
    return [received.headers["Authorization"] for received in receiver.received]


# What is asked, and what is sent


async def test_a_token_is_asked_for_once_and_sent_with_every_request(tokens: Tokens) -> None:
    """Issue 9: the first attempt fetches a token as RFC 6749 says, the next one has it already."""
    async with TokenServer() as server, Receiver(default=200) as receiver:
        outcomes = [
            await tokens.attempt(post(receiver.url), oauth(server.url, scope="a b", audience="hooks")) for _ in range(2)
        ]
    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert sent(receiver) == ["Bearer token-1"] * 2
    (asked,) = server.received
    assert asked.method == "POST"
    assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert asked.headers["Authorization"] == basic("relay%3A1", "s3cret+%26+more")
    form = {"grant_type": ["client_credentials"], "scope": ["a b"], "audience": ["hooks"]}
    assert parse_qs(asked.body.decode()) == form


async def test_the_client_may_stand_in_the_form(tokens: Tokens) -> None:
    """`client_auth = "body"`: id and secret are members of the form, and no header has them."""
    async with TokenServer() as server, Receiver(default=200) as receiver:
        await tokens.attempt(post(receiver.url), oauth(server.url, in_body=True))
    (asked,) = server.received
    assert "Authorization" not in asked.headers
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"], "client_id": [CLIENT[0]], "client_secret": [CLIENT[1]],
    }  # fmt: skip


async def test_fixed_credentials_ask_nobody(tokens: Tokens) -> None:
    """Control: what authenticates without tokens stands among the headers of the request already."""
    async with Receiver(default=200) as receiver:
        await tokens.attempt(post(receiver.url, authorization="Basic x"), Auth({}, "Authorization", "Basic x"))
    assert sent(receiver) == ["Basic x"]


async def test_however_many_wait_one_task_fetches(tokens: Tokens) -> None:
    """Issue 9: 50 attempts that need a token at once lead to one request, and all get the token."""
    answer = asyncio.get_running_loop().create_future()
    async with TokenServer(lambda _: answer) as server, Receiver(default=200) as receiver:
        attempts = [asyncio.create_task(tokens.attempt(post(receiver.url), oauth(server.url))) for _ in range(50)]
        await server.wait_for(1)
        await quiet()
        answer.set_result(giving(access_token="once"))
        outcomes = await asyncio.gather(*attempts)
    assert {outcome.status for outcome in outcomes} == {200}
    assert (len(server.received), sent(receiver)) == (1, ["Bearer once"] * 50)


async def test_whoever_gives_up_takes_the_token_from_nobody(tokens: Tokens) -> None:
    """An attempt that is cancelled while it waits leaves the fetch to the others."""
    answer = asyncio.get_running_loop().create_future()
    async with TokenServer(lambda _: answer) as server, Receiver(default=200) as receiver:
        first, second = (
            asyncio.create_task(tokens.attempt(post(receiver.url), oauth(server.url))) for _ in range(2)
        )  # fmt: skip
        await server.wait_for(1)
        first.cancel()
        await quiet()
        answer.set_result(giving(access_token="once"))
        assert (await second).status == 200
    assert first.cancelled()


@pytest.mark.parametrize("change", ["secret", "scope", "reach", "url"])
async def test_tokens_are_kept_apart(tokens: Tokens, change: str) -> None:
    """Another secret, scope, token URL or reach never gets the token of the one before."""
    async with TokenServer() as server, Receiver(default=200) as receiver:
        auth, request = oauth(server.url), post(receiver.url)
        await tokens.attempt(request, auth)
        assert auth.grant is not None
        if change == "reach":
            request = request._replace(reach=Reach((ip_network("10.0.0.0/8"),)))
        elif change == "url":
            auth = auth._replace(grant=auth.grant._replace(token_url=f"{server.url}?other"))
        else:
            auth = auth._replace(grant=auth.grant._replace(**{{"secret": "client_secret"}.get(change, change): "x"}))
        await tokens.attempt(request, auth)
    assert sent(receiver) == ["Bearer token-1", "Bearer token-2"]


# How long a token is kept


async def test_a_token_is_renewed_before_its_end_while_the_old_one_goes_on(tokens: Tokens, clock: FakeClock) -> None:
    """Issue 9: a minute before its end an attempt goes out with the old token at once, and another is fetched beside it."""
    held = asyncio.get_running_loop().create_future()
    script = (giving(access_token="old", expires_in=3600), lambda _: held)
    async with TokenServer(*script) as server, Receiver(default=200) as receiver:
        auth = oauth(server.url)
        await tokens.attempt(post(receiver.url), auth)
        clock.advance(3600_000 - AHEAD_MS - 1)
        await tokens.attempt(post(receiver.url), auth)
        await quiet()
        assert len(server.received) == 1
        clock.advance(1)
        for _ in range(3):
            assert (await tokens.attempt(post(receiver.url), auth)).status == 200
        await server.wait_for(2)
        held.set_result(giving(access_token="new", expires_in=3600))
        await until(lambda: not tokens._fetches)
        await tokens.attempt(post(receiver.url), auth)
    assert len(server.received) == 2
    assert sent(receiver) == ["Bearer old"] * 5 + ["Bearer new"]


async def test_a_renewal_that_fails_leaves_the_token_until_its_end(tokens: Tokens, clock: FakeClock) -> None:
    """While the old token is good a failing token server stops nothing, and is not asked by every attempt."""
    async with (
        TokenServer(giving(access_token="old", expires_in=3600), 500, 500) as server,
        Receiver(default=200) as receiver,
    ):
        auth = oauth(server.url)
        await tokens.attempt(post(receiver.url), auth)
        clock.advance(3600_000 - AHEAD_MS)
        for _ in range(3):
            assert (await tokens.attempt(post(receiver.url), auth)).status == 200
            await until(lambda: not tokens._fetches)
        assert len(server.received) == 2
        clock.advance(AHEAD_MS)
        outcome = await tokens.attempt(post(receiver.url), auth)
    assert outcome.failure is Failure.NO_TOKEN
    assert len(server.received) == 3


LIFETIMES: dict[str, tuple[dict[str, Any], float]] = {
    "said": ({"expires_in": 600}, 600_000),
    "as text": ({"expires_in": "600"}, 600_000),
    "a fraction": ({"expires_in": 1.5}, 1_500),
    "missing": ({}, LIFETIME_UNSAID_MS),
    "null": ({"expires_in": None}, LIFETIME_UNSAID_MS),
    "nonsense": ({"expires_in": "soon"}, LIFETIME_UNSAID_MS),
    "true": ({"expires_in": True}, LIFETIME_UNSAID_MS),
    "a list": ({"expires_in": [600]}, LIFETIME_UNSAID_MS),
    "huge": ({"expires_in": 10**30}, LIFETIME_MAX_MS),
    "huge text": ({"expires_in": "9" * 19}, LIFETIME_MAX_MS),
    "endless text": ({"expires_in": "9" * 5000}, LIFETIME_UNSAID_MS),
}


@pytest.mark.parametrize("case", LIFETIMES)
async def test_how_long_a_token_is_kept(tokens: Tokens, clock: FakeClock, case: str) -> None:
    """Whatever `expires_in` says: to the last millisecond of its time the token is used, then another is waited for."""
    members, lifetime_ms = LIFETIMES[case]
    async with TokenServer(giving(access_token="first", **members), 500) as server, Receiver(default=200) as receiver:
        auth = oauth(server.url)
        await tokens.attempt(post(receiver.url), auth)
        clock.advance(lifetime_ms - 1)
        await tokens.attempt(post(receiver.url), auth)
        await until(lambda: len(server.received) == 2 and not tokens._fetches)
        clock.advance(FAILURE_STANDS_MS)
        await tokens.attempt(post(receiver.url), auth)
    assert sent(receiver) == ["Bearer first", "Bearer first", "Bearer token-1"]


@pytest.mark.parametrize("expires_in", [0, -1, -(10**30), "0"])
async def test_a_token_without_time_serves_those_who_wait(tokens: Tokens, expires_in: Any) -> None:
    """A token that has ended when it comes is sent by who waited for it, and by nobody later."""
    async with TokenServer(expires_in=expires_in) as server, Receiver(default=200) as receiver:
        for _ in range(3):
            assert (await tokens.attempt(post(receiver.url), oauth(server.url))).status == 200
    assert sent(receiver) == [f"Bearer token-{number}" for number in (1, 2, 3)]


async def test_tokens_are_kept_for_so_many_clients(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the one that was not used for longest is fetched again when it is needed."""
    monkeypatch.setattr(auth_module, "GRANTS_MAX", 2)
    async with TokenServer() as server, Receiver(default=200) as receiver:
        for scope in ("a", "b", "a", "c", "a", "b"):
            await tokens.attempt(post(receiver.url), oauth(server.url, scope=scope))
    assert [parse_qs(asked.body.decode())["scope"][0] for asked in server.received] == ["a", "b", "c", "b"]


# A receiver that refuses a token


async def test_a_refused_token_is_fetched_anew_and_the_request_repeated(tokens: Tokens) -> None:
    """Issue 9: a token that was revoked before its end costs one fetch and one repeat, and no failed attempt."""
    async with TokenServer() as server, Receiver(200, 401, default=200) as receiver:
        outcomes = [await tokens.attempt(post(receiver.url), oauth(server.url)) for _ in range(3)]
    assert [(outcome.status, outcome.detail) for outcome in outcomes] == [(200, ""), (200, REPEATED), (200, "")]
    assert sent(receiver) == ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2"]
    assert [received.body for received in receiver.received[1:3]] == [receiver.received[0].body] * 2


async def test_a_fresh_token_that_is_refused_is_an_answer(tokens: Tokens) -> None:
    """Control: a token that was fetched for this attempt is not the reason of a 401, which stands."""
    async with TokenServer() as server, Receiver(default=401) as receiver:
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
    assert (outcome.status, len(server.received), len(receiver.received)) == (401, 1, 1)
    assert "credentials" in outcome.detail


async def test_a_receiver_that_always_refuses_cannot_make_us_ask(tokens: Tokens, clock: FakeClock) -> None:
    """A 401 to everything ends a token once in ten seconds; the repeat of an attempt is never repeated."""
    async with TokenServer() as server, Receiver(default=401) as receiver:
        for _ in range(5):
            assert (await tokens.attempt(post(receiver.url), oauth(server.url))).status == 401
        assert (len(server.received), len(receiver.received)) == (2, 6)
        clock.advance(DISTRUST_MS)
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
        assert (len(server.received), len(receiver.received)) == (3, 8)
    assert outcome.detail.endswith(f"({REPEATED})")


async def test_many_that_are_refused_at_once_lead_to_one_fetch(tokens: Tokens) -> None:
    """Ten attempts with a token that was revoked: one fetch, each repeated once, all delivered."""

    def judge(received: Received) -> int:
        return 401 if revoked and received.headers["Authorization"] == "Bearer token-1" else 200

    revoked = False
    async with TokenServer() as server, Receiver(default=judge) as receiver:
        auth = oauth(server.url)
        await tokens.attempt(post(receiver.url), auth)
        revoked = True
        outcomes = await asyncio.gather(*(tokens.attempt(post(receiver.url), auth) for _ in range(10)))
    assert {outcome.status for outcome in outcomes} == {200}
    assert len(server.received) == 2


async def test_a_token_server_that_fails_meanwhile_is_what_failed(tokens: Tokens) -> None:
    """After a 401 no token comes: the attempt failed for want of one, and the 401 of an old token is no refusal."""
    async with TokenServer(giving(access_token="a"), 503) as server, Receiver(200, default=401) as receiver:
        await tokens.attempt(post(receiver.url), oauth(server.url))
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
    assert (outcome.status, outcome.failure) == (None, Failure.NO_TOKEN)
    assert "answered 503" in outcome.detail


async def test_an_answer_that_repeats_the_token_is_kept_without_it(tokens: Tokens) -> None:
    """Receivers echo what they were sent: the token is in nothing that is stored of their answers."""

    def echo(received: Received) -> Answer:
        said = received.headers["Authorization"]
        return Answer(400, {"X-Echo": said}, f"you sent {said}".encode())

    async with TokenServer() as server, Receiver(default=echo) as receiver:
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
    assert sent(receiver) == ["Bearer token-1"]
    assert outcome.response_body == b"you sent Bearer ***"
    assert "token-1" not in str(outcome.response_headers) + repr(tokens.__dict__)


# Token servers that give none


def refusal(status: int, **members: Any) -> Answer:
    return Answer(status, {}, json.dumps(members).encode())


REFUSALS: dict[str, tuple[Answer | int, str]] = {
    "401": (401, "the token server answered 401; check client_id and client_secret"),
    "the client is unknown": (refusal(400, error="invalid_client"), "400 (invalid_client); check client_id"),
    "the scope is unknown": (refusal(400, error="invalid_scope"), "(invalid_scope); check scope"),
    "the audience is unknown": (refusal(400, error="invalid_target"), "(invalid_target); check audience"),
    "an error with 200": (refusal(200, error="invalid_client"), "200 (invalid_client); check client_id"),
    "an unknown error": (refusal(400, error="s3cret"), "answered 400; check everything in auth"),
    "not there": (404, "answered 404; check token_url"),
    "a redirect": (Answer(302, {"Location": "http://127.0.0.1:1/"}), "302; redirects are not followed; check token_url"),
    "down": (503, "answered 503; it is asked again"),
    "not JSON": (Answer(200, {}, b"<html>"), "no JSON object, or did not come whole"),
    "nothing": (Answer(200), "no JSON object"),
    "a list": (Answer(200, {}, b"[1]"), "no JSON object"),
    "deep": (Answer(200, {}, b"[" * 9_000), "no JSON object"),
    "no token": (giving(token_type="bearer"), "has no access_token"),
    "an empty token": (giving(access_token=""), "has no access_token"),
    "a number": (giving(access_token=7), "has no access_token"),
    "another type": (giving(access_token="a", token_type="DPoP"), "a type other than Bearer"),
    "a type that is none": (giving(access_token="a", token_type=1), "a type other than Bearer"),
    "a line end": (giving(access_token="a\r\nX-Evil: 1"), "visible ASCII"),
    "a blank": (giving(access_token="a b"), "visible ASCII"),
    "other characters": (giving(access_token="ä"), "visible ASCII"),
    "a long token": (giving(access_token="a" * (TOKEN_CHARACTERS_MAX + 1)), f"more than {TOKEN_CHARACTERS_MAX}"),
    "a large answer": (giving(access_token="a", padding="x" * EXCERPT_BYTES), f"has {EXCERPT_BYTES} bytes or more"),
    "a huge answer": (giving(access_token="a", padding="x" * 10_000_000), f"has {EXCERPT_BYTES} bytes or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_a_token_server_does_is_explained_as_its_doing(tokens: Tokens, case: str) -> None:
    """Issue 9: no token, no request to the receiver; a failure class of its own says what came and what to check."""
    answer, said = REFUSALS[case]
    async with TokenServer(answer) as server, Receiver(default=200) as receiver:
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
    assert (outcome.status, outcome.failure, receiver.received) == (None, Failure.NO_TOKEN, [])
    assert outcome.detail.startswith("the token server answered ")
    assert said in outcome.detail
    assert "s3cret" not in repr(outcome)
    assert (outcome.address, outcome.response_body, outcome.response_headers) == (None, b"", ())


async def test_a_token_of_the_largest_size_goes(tokens: Tokens) -> None:
    """Control: at the limit a token is sent."""
    token = "a" * TOKEN_CHARACTERS_MAX
    async with TokenServer(giving(access_token=token, token_type=None)) as server:
        receiver = Hostile(reading_all, tls=None)
        async with receiver:
            assert (await tokens.attempt(post(receiver.url), oauth(server.url))).status == 200


async def reading_all(wire: Wire) -> None:
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def test_a_slow_token_server_is_given_up(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token server that never answers costs its time and no more; the timeline names it."""
    monkeypatch.setattr(auth_module, "FETCH_MS", 50)

    async def silent(wire: Wire) -> None:
        await wire.request()
        await wire.until_closed()

    async with Hostile(silent) as server, Receiver(default=200) as receiver:
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
    assert (outcome.failure, receiver.received) == (Failure.NO_TOKEN, [])
    assert "no answer came in time" in outcome.detail
    assert "auth.token_url" in outcome.detail


async def test_an_answer_that_drips_is_given_up(tokens: Tokens) -> None:
    """A body that does not end within a second is no token."""

    async def drip(wire: Wire) -> None:
        await wire.request()
        await wire.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"access_token"')
        await wire.until_closed()

    async with Hostile(drip) as server, Receiver(default=200) as receiver:
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
    assert "did not come whole within a second" in outcome.detail


async def test_a_connection_that_breaks_is_the_token_servers(tokens: Tokens) -> None:
    """What ends without an answer is explained, and counted as no fault of this host."""

    async def leave(wire: Wire) -> None:
        await wire.request()

    async with Hostile(leave) as server, Receiver(default=200) as receiver:
        outcome = await tokens.attempt(post(receiver.url), oauth(server.url))
    assert (outcome.failure, outcome.ours) == (Failure.NO_TOKEN, False)
    assert "the connection ended before an answer" in outcome.detail


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1"])
async def test_a_token_url_passes_the_guard(clock: FakeClock, address: str) -> None:
    """DESIGN: the address of a token server is judged when it is dialled, like any other; what is private is not reached."""
    async with (
        TokenServer() as server,
        running_courier(Guard(), FixedNames(address)) as courier,
        tokens_over(courier, clock) as tokens,
    ):
        named = server.url.replace("127.0.0.1", "tokens.example")
        by_name = await tokens.attempt(post("https://receiver.example/"), oauth(named))
        by_address = await tokens.attempt(post("https://receiver.example/"), oauth(server.url))
    assert [by_name.failure, by_address.failure] == [Failure.TOKEN_UNREACHABLE] * 2
    assert server.received == []


async def test_a_network_of_the_application_is_open_to_its_token_servers(clock: FakeClock) -> None:
    """Control: where the application may go, its tokens may be fetched."""
    reach = Reach((ip_network("127.0.0.0/8"),))
    async with (
        TokenServer() as server,
        Receiver(default=200) as receiver,
        running_courier(Guard()) as courier,
        tokens_over(courier, clock) as tokens,
    ):
        outcome = await tokens.attempt(post(receiver.url)._replace(reach=reach), oauth(server.url))
    assert outcome.status == 200


async def test_a_failure_stands_for_a_while(tokens: Tokens, clock: FakeClock) -> None:
    """A token server that gave none is left alone for five seconds, however many attempts come; then one asks again."""
    async with TokenServer(500) as server, Receiver(default=200) as receiver:
        auth = oauth(server.url)
        for _ in range(5):
            assert (await tokens.attempt(post(receiver.url), auth)).failure is Failure.NO_TOKEN
        assert len(server.received) == 1
        clock.advance(FAILURE_STANDS_MS)
        assert (await tokens.attempt(post(receiver.url), auth)).status == 200


@pytest.mark.parametrize(("asked_s", "stands_ms"), [(30, 30_000), (10**9, FAILURE_STANDS_MAX_MS)])
async def test_a_token_server_may_ask_for_patience(
    tokens: Tokens, clock: FakeClock, asked_s: int, stands_ms: int
) -> None:
    """`Retry-After` of a token server is heeded, for a minute at most."""
    async with TokenServer(Answer(429, {"Retry-After": str(asked_s)})) as server, Receiver(default=200) as receiver:
        auth = oauth(server.url)
        await tokens.attempt(post(receiver.url), auth)
        clock.advance(stands_ms - 1)
        assert (await tokens.attempt(post(receiver.url), auth)).failure is Failure.NO_TOKEN
        clock.advance(1)
        assert (await tokens.attempt(post(receiver.url), auth)).status == 200
    assert len(server.received) == 2


async def test_a_mistake_of_ours_reaches_everybody_who_waits_and_nobody_later(clock: FakeClock) -> None:
    """What we do wrong in a fetch is raised, not taken for the token server's doing; the next attempt tries again."""
    wrong = True

    async def exchange(request: Any) -> Outcome:
        if wrong:
            raise ZeroDivisionError
        return Outcome(0, 1, status=200, response_body=b'{"access_token": "a"}')

    tokens = Tokens(clock, exchange)
    auth, request = oauth("https://tokens.example/"), post("https://receiver.example/")
    raised = await asyncio.gather(*(tokens.attempt(request, auth) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in raised] == [ZeroDivisionError] * 2
    wrong = False
    assert (await tokens.attempt(request, auth)).status == 200


async def test_missing_descriptors_are_no_fault_of_a_token_server(clock: FakeClock) -> None:
    """Without a file descriptor nothing was attempted: the delivery waits, as it does when its receiver cannot be dialled."""

    async def exchange(request: Any) -> Outcome:
        return Outcome(0, 1, failure=Failure.NO_DESCRIPTORS)

    tokens = Tokens(clock, exchange)
    outcome = await tokens.attempt(post("https://receiver.example/"), oauth("https://tokens.example/"))
    assert outcome.failure is Failure.NO_DESCRIPTORS


async def test_closing_ends_a_fetch_and_answers_who_waits(tokens: Tokens) -> None:
    """A relay that stops does not wait for a token server; nothing is fetched afterwards."""
    never = asyncio.get_running_loop().create_future()
    async with TokenServer(lambda _: never) as server, Receiver(default=200) as receiver:
        attempt = asyncio.create_task(tokens.attempt(post(receiver.url), oauth(server.url)))
        await server.wait_for(1)
        await tokens.close()
        await tokens.close()
        assert "relay is stopping" in (await attempt).detail
        later = await tokens.attempt(post(receiver.url), oauth(server.url, scope="other"))
        assert "relay is stopping" in later.detail
        assert (len(server.received), receiver.received) == (1, [])
        never.set_result(200)
