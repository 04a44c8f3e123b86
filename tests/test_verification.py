"""Receivers are asked whether they want events before the first one goes there: through a whole relay, with real receivers."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from structlog.testing import capture_logs

from relay.cli.listener import Checking, Faults, Listener, Tally
from relay.contracts import Contract
from relay.contracts.verification import Verification
from relay.core.model import Secret
from relay.registry import Registrar
from relay.telemetry import log
from tests.support import hostile
from tests.support.clock import FakeClock
from tests.support.config import CONTRACTS
from tests.support.hostile import Hostile
from tests.support.receiver import Answer, Received, Receiver
from tests.support.stack import Stack
from tests.support.waiting import until

PATH = "/v1/webhook-endpoints"
SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
ORIGIN = 'origin = "events.example.com"'


def challenge_of(received: Received) -> str:
    found = json.loads(received.body)["challenge"]
    assert isinstance(found, str)
    return found


def is_challenge(received: Received) -> bool:
    return b'"url_verification"' in received.body


def echoing(form: Callable[[str], Answer]) -> Callable[[Received], Answer]:
    """A receiver that answers a challenge in a form, and an event with 204."""
    return lambda received: form(challenge_of(received)) if is_challenge(received) else Answer(204)


def as_text(challenge: str) -> Answer:
    return Answer(200, {"Content-Type": "text/plain"}, challenge.encode())


def as_json(challenge: str) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps({"challenge": challenge}).encode())


def as_form(challenge: str) -> Answer:
    kind = "application/x-www-form-urlencoded"
    return Answer(200, {"Content-Type": kind}, urlencode({"challenge": challenge}).encode())


def stack(folder: Path, url: str, settings: str = 'verification = "challenge"', **config: Any) -> Stack:
    return Stack(folder, clock=FakeClock(), endpoints={"one": url}, endpoint_settings=settings, **config)


async def shown(house: Stack, name: str = "one") -> dict[str, Any]:
    status, endpoint = await house.call("GET", f"{PATH}/{name}")
    assert status == 200
    assert isinstance(endpoint, dict)
    return endpoint


def is_verified(house: Stack, name: str = "one") -> bool:
    return not house.relay.registrar.current.endpoint(name).unverified


async def asked(house: Stack, tries: int = 1, name: str = "one") -> None:
    """Wait until a receiver was asked so often, and did not agree."""
    ref = house.relay.registrar.current.endpoint(name).ref
    await until(lambda: (house.relay.verifier.trial(ref) or (0,))[0] >= tries)


# -- challenges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [as_text, as_json, as_form])
async def test_an_echoed_challenge_opens_the_endpoint(tmp_path: Path, form: Callable[[str], Answer]) -> None:
    """The receiver gets the challenge, signed, before anything else; once it repeats it in one of the forms, events go out."""
    async with Receiver(default=echoing(form)) as receiver, stack(tmp_path, receiver.url) as house:
        await until(lambda: is_verified(house))
        event = await house.post()
        await house.settled(event["id"], "delivered")
        endpoint = await shown(house)
    first, *others = receiver.received
    assert is_challenge(first)
    assert "webhook-signature" in first.headers
    assert first.headers["Content-Type"] == "application/json"
    assert len(others) == 1
    assert (endpoint["verification"], endpoint["state"], endpoint["unverified"]) == ("challenge", "enabled", None)
    assert endpoint["verified"]["method"] == "challenge"


async def test_without_verification_nobody_is_asked(tmp_path: Path) -> None:
    """Negative control: an endpoint that asks for nothing gets its first event at once, and no challenge before."""
    async with Receiver() as receiver, stack(tmp_path, receiver.url, "") as house:
        event = await house.post()
        await house.settled(event["id"], "delivered")
        endpoint = await shown(house)
    assert [is_challenge(each) for each in receiver.received] == [False]
    assert (endpoint["verification"], endpoint["verified"], endpoint["unverified"]) == ("none", None, None)


WRONG: list[tuple[str, Answer | Callable[[Received], Answer]]] = [
    ("another word", Answer(200, {}, b"something else")),
    ("nothing", Answer(204)),
    ("what was sent", lambda received: Answer(200, {}, received.body)),
    ("in a longer text", lambda received: Answer(200, {}, b"ok " + challenge_of(received).encode())),
    ("under another name", lambda received: Answer(200, {}, json.dumps({"token": challenge_of(received)}).encode())),
    ("in a list", lambda received: Answer(200, {}, json.dumps([challenge_of(received)]).encode())),
    ("with a refusal", lambda received: Answer(403, {}, challenge_of(received).encode())),
    ("by a redirect", lambda received: Answer(302, {"Location": "/other"}, challenge_of(received).encode())),
    ("in something huge", lambda received: Answer(200, {}, challenge_of(received).encode() + b"\n" * (1 << 20) + b"x")),
    ("no JSON", Answer(200, {}, b'{"challenge": ' + b"[" * 5000)),
    ("no UTF-8", Answer(200, {}, b"\xff\xfe\xff")),
]


@pytest.mark.parametrize("answer", [answer for _, answer in WRONG], ids=[name for name, _ in WRONG])
async def test_what_is_no_echo_opens_nothing(tmp_path: Path, answer: Answer | Callable[[Received], Answer]) -> None:
    """A receiver that does not repeat the challenge alone gets no event; the event is held, and everybody can see why."""
    async with Receiver(default=answer) as receiver, stack(tmp_path, receiver.url) as house:
        event = await house.post()
        await asked(house)
        await house.quiet()
        (view,) = await house.deliveries(event["id"])
        delivery = await house.delivery(view["id"])
        endpoint = await shown(house)
        _, status = await house.call("GET", "/v1/status")
        _, metrics = await house.call("GET", "/metrics")
        _, listed = await house.call("GET", f"{PATH}?state=unverified")
    assert [is_challenge(each) for each in receiver.received] == [True]
    assert (delivery["state"], delivery["attempts"], delivery["next_attempt"]["why"]) == ("due", 0, "unverified")
    assert endpoint["held"] is True
    assert endpoint["unverified"]["tries"] == 1
    assert endpoint["unverified"]["detail"].startswith("it answered")
    assert ":" in endpoint["unverified"]["detail"], "it says what to do"
    assert (status["unverified"], [one["code"] for one in status["troubles"]]) == (["one"], ["unverified"])
    assert "`relay endpoint verify one`" in status["headline"]
    assert status["endpoint_states"]["unverified"] == 1
    assert [one["id"] for one in listed["data"]] == ["one"]
    assert 'relay_endpoint_state{endpoint="one",state="unverified"} 1.0' in metrics
    assert "relay_verification_attempts_total" in metrics


@pytest.mark.parametrize("behaviour", [hostile.silent, hostile.endless_chunks, hostile.drip_body, hostile.garbage])
async def test_a_hostile_receiver_costs_nobody_else_anything(tmp_path: Path, behaviour: hostile.Behaviour) -> None:
    """Beside one that never answers, never ends or speaks no HTTP another is verified, and the relay stops as ever."""
    async with Hostile(behaviour) as bad, Receiver(default=echoing(as_text)) as good:
        urls = {"bad": bad.url, "one": good.url}
        settings = 'verification = "challenge"\ntimeout = "1s"'
        async with Stack(tmp_path, endpoints=urls, endpoint_settings=settings) as house:
            await bad.connected.wait()
            await until(lambda: is_verified(house))
            await asked(house, 1, "bad")
            assert not is_verified(house, "bad")


async def test_nobody_inside_is_asked(tmp_path: Path) -> None:
    """What asks passes the guard like a delivery: once its network is closed, a receiver there hears nothing more."""
    async with Receiver(default=500) as receiver, Stack(tmp_path, clock=FakeClock()) as house:
        _, made = await house.call("POST", PATH, {"url": receiver.url, "verification": "ping"})
        await asked(house, 1, made["id"])
        text = house.config_path.read_text()
        house.write(text.replace('allow_networks = ["127.0.0.0/8", "::1/128"]', ""))
        assert (await house.call("POST", "/v1/reload"))[0] == 200
        house.fake.advance(10_000)
        await asked(house, 2, made["id"])
        endpoint = await shown(house, made["id"])
    assert endpoint["unverified"]["failure"] == "blocked_address"
    assert len(receiver.received) == 1


async def test_slack_is_asked_as_its_page_says(tmp_path: Path) -> None:
    """Under `slack` the challenge comes unasked, with Slack's members, signature and agent, and the echo opens the endpoint."""
    async with (
        Receiver(default=echoing(as_text)) as receiver,
        stack(tmp_path, receiver.url, "", contract="slack", secret=SLACK_SECRET) as house,
    ):
        await until(lambda: is_verified(house))
    (received,) = receiver.received
    stamp = received.headers["X-Slack-Request-Timestamp"]
    content = b"v0:" + stamp.encode() + b":" + received.body
    expected = "v0=" + hmac.new(SLACK_SECRET.encode(), content, hashlib.sha256).hexdigest()
    assert received.headers["X-Slack-Signature"] == expected
    assert received.headers["User-Agent"].startswith("Slackbot")
    assert json.loads(received.body) == {"challenge": challenge_of(received), "type": "url_verification"}


# -- OPTIONS -----------------------------------------------------------------------------------------------------------


def allowing(**headers: str) -> Callable[[Received], Answer]:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda received: Answer(200, sent) if received.method == "OPTIONS" else Answer(204)


@pytest.mark.parametrize("origin", ["events.example.com", "EVENTS.example.com", "*"])
async def test_an_allowed_origin_opens_the_endpoint(tmp_path: Path, origin: str) -> None:
    """CloudEvents: OPTIONS carries origin and rate; the allowed rate is a limit, and each delivery says the origin again."""
    answer = allowing(WebHook_Allowed_Origin=origin, WebHook_Allowed_Rate="30")
    settings = 'verification = "options"\nrate_limit = "2/s"\nheaders = { X-Own = "1" }'
    async with (
        Receiver(default=answer) as receiver,
        stack(tmp_path, receiver.url, settings, delivery=ORIGIN, contract="cloudevents", secret=None) as house,
    ):
        await until(lambda: is_verified(house))
        event = await house.post()
        await house.settled(event["id"], "delivered")
        endpoint = await shown(house)
    first, second = receiver.received
    assert (first.method, first.body, first.headers["X-Own"]) == ("OPTIONS", b"", "1")
    assert first.headers["WebHook-Request-Origin"] == "events.example.com"
    assert first.headers["WebHook-Request-Rate"] == "120"
    assert "Content-Type" not in first.headers
    assert (second.method, second.headers["WebHook-Request-Origin"]) == ("POST", "events.example.com")
    assert endpoint["rate_limit"] == "30/m"
    assert endpoint["verified"]["allowed_rate"] == "30/m"
    assert endpoint["headers"] == {"X-Own": "1"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(200), "allowed nothing"),
        (Answer(405, {"Allow": "POST"}), "answered 405 to OPTIONS"),
        (Answer(403, {"WebHook-Allowed-Origin": "*"}), "answered 403 to OPTIONS"),
        (Answer(200, {"WebHook-Allowed-Origin": "example.com"}), "another origin, example.com"),
        (Answer(200, {"WebHook-Allowed-Origin": ""}), "another origin"),
        (Answer(200, {"WebHook-Allowed-Origin": "*", "WebHook-Allowed-Rate": "0"}), "must be a whole number above 0"),
        (Answer(200, {"WebHook-Allowed-Origin": "*", "WebHook-Allowed-Rate": "many"}), "must be a whole number"),
    ],
)
async def test_what_allows_nothing_opens_nothing(tmp_path: Path, answer: Answer, said: str) -> None:
    """A 2xx to OPTIONS is no consent without the header, nor is the header without a 2xx, another origin, or a broken rate."""
    async with (
        Receiver(default=answer) as receiver,
        stack(tmp_path, receiver.url, 'verification = "options"', delivery=ORIGIN) as house,
    ):
        await asked(house)
        endpoint = await shown(house)
        assert not is_verified(house)
    assert said in endpoint["unverified"]["detail"]


async def test_a_rate_without_limit_leaves_the_own_one(tmp_path: Path) -> None:
    """`WebHook-Allowed-Rate: *`, a great number, or none at all leave the endpoint's own limit as it is."""
    for rate in ({}, {"WebHook_Allowed_Rate": "*"}, {"WebHook_Allowed_Rate": "9" * 40}):
        folder = tmp_path / str(len(str(rate)))
        folder.mkdir()
        async with (
            Receiver(default=allowing(WebHook_Allowed_Origin="*", **rate)) as receiver,
            stack(folder, receiver.url, 'verification = "options"\nrate_limit = "2/s"', delivery=ORIGIN) as house,
        ):
            await until(lambda house=house: is_verified(house))  # type: ignore[misc]  # a default argument is no inferred type
            assert (await shown(house))["rate_limit"] == "2/s"


async def test_another_name_is_asked_under_at_once(tmp_path: Path) -> None:
    """After a reload with another `delivery.origin` who did not agree is asked again; who did keeps the one it allowed."""

    def one_only(received: Received) -> Answer:
        return Answer(200, {"WebHook-Allowed-Origin": "two.example.com"} if received.method == "OPTIONS" else {})

    async with Receiver(default=one_only) as receiver, Stack(tmp_path, clock=FakeClock(), delivery=ORIGIN) as house:
        _, made = await house.call("POST", PATH, {"url": receiver.url, "verification": "options"})
        await asked(house, 1, made["id"])
        for origin in ("two.example.com", "three.example.com"):
            house.write_config(delivery=f'origin = "{origin}"')
            assert (await house.call("POST", "/v1/reload"))[0] == 200
            await until(lambda: is_verified(house, made["id"]))
        event = await house.post()
        await house.settled(event["id"], "delivered")
    assert [each.headers["WebHook-Request-Origin"] for each in receiver.received] == [
        "events.example.com",
        *["two.example.com"] * 2,
    ]


# -- pings -------------------------------------------------------------------------------------------------------------


async def test_an_answered_ping_opens_the_endpoint(tmp_path: Path) -> None:
    """A ping is no event, is signed, and any 2xx to it opens the endpoint; 503 does not, and it is asked again later."""
    async with Receiver(503, default=204) as receiver, stack(tmp_path, receiver.url, 'verification = "ping"') as house:
        await asked(house)
        assert not is_verified(house)
        house.fake.advance(10_000)
        await until(lambda: is_verified(house))
    assert [json.loads(each.body) for each in receiver.received] == [{"type": "ping"}] * 2


# -- time, restarts, changes -------------------------------------------------------------------------------------------


async def test_it_is_asked_again_with_a_back_off(tmp_path: Path) -> None:
    """Tries come at the pace of cool-downs, doubling to the longest, and no sooner; `Retry-After` puts one off."""
    settings, delivery = 'verification = "ping"', 'health = { cool_down = "10s", cool_down_max = "1m" }'
    async with (
        Receiver(500, 500, Answer(429, {"Retry-After": "600"}), default=500) as receiver,
        stack(tmp_path, receiver.url, settings, delivery=delivery) as house,
    ):
        for tries, wait_s in ((1, 10), (2, 20), (3, 600), (4, 60)):
            await asked(house, tries)
            assert len(receiver.received) == tries
            house.fake.advance(wait_s * 790)
            await house.quiet()
            assert len(receiver.received) == tries
            house.fake.advance(wait_s * 420)
        await asked(house, 5)


async def test_nothing_is_lost_meanwhile(tmp_path: Path) -> None:
    """What is posted before the receiver agrees goes out afterwards, in order of acceptance, with its first attempt."""
    agrees: list[bool] = []

    def answer(received: Received) -> Answer:
        return as_text(challenge_of(received)) if agrees and is_challenge(received) else Answer(204)

    async with Receiver(default=answer) as receiver, stack(tmp_path, receiver.url) as house:
        events = [(await house.post())["id"] for _ in range(5)]
        await asked(house)
        agrees.append(True)
        house.fake.advance(10_000)
        for event in events:
            assert (await house.settled(event, "delivered"))["attempts"] == 1
    sent = [each.headers["webhook-id"] for each in receiver.received if not is_challenge(each)]
    assert sorted(sent) == sorted(events)


async def test_what_waits_too_long_ends_as_when_paused(tmp_path: Path) -> None:
    """Held beyond `max_age` a delivery is dead, `exhausted`, and beyond `expires_at`, `expired`."""
    settings = 'verification = "ping"\nmax_age = "1h"'
    async with Receiver(default=500) as receiver, stack(tmp_path, receiver.url, settings) as house:
        old = await house.post()
        expiring = await house.post(expires_at="2027-01-15T08:10:00Z")
        await asked(house)
        await house.quiet()  # the audit has had its first turn
        house.fake.advance(3_700_000)
        assert (await house.settled(old["id"], "dead"))["reason"] == "exhausted"
        assert (await house.settled(expiring["id"], "dead"))["reason"] == "expired"


async def test_a_verified_endpoint_stays_so_over_restart_and_reload(tmp_path: Path) -> None:
    """It is asked once: not after a restart, a reload or a crash, and an edit of anything but its URL asks nobody."""
    async with Receiver(default=echoing(as_text)) as receiver, stack(tmp_path, receiver.url) as house:
        await until(lambda: is_verified(house))
        await house.stop()
        await house.start()
        assert is_verified(house)
        house.write_config(
            endpoints={"one": receiver.url}, endpoint_settings='verification = "challenge"\nheaders = { X-A = "1" }'
        )
        assert (await house.call("POST", "/v1/reload"))[0] == 200
        await house.crash()
        await house.start()
        await house.quiet()
        assert is_verified(house)
        assert len(receiver.received) == 1


async def test_what_is_not_kept_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: an answer that never reaches the database is gone after a restart, and the receiver is asked again."""

    async def forget(*_: Any) -> bool:
        return True

    with monkeypatch.context() as forgetful:
        forgetful.setattr(Registrar, "verified", forget)
        async with Receiver(default=echoing(as_text)) as receiver:
            async with stack(tmp_path, receiver.url) as house:
                await receiver.wait_for(1)
                await house.crash()
                forgetful.undo()
                await house.start()
                await until(lambda: is_verified(house))
            assert len(receiver.received) == 2


async def test_another_url_is_asked_anew(tmp_path: Path) -> None:
    """A changed URL, in the file or by a call, makes it unverified until the new one agrees; going back asks again."""
    async with Receiver(default=echoing(as_text)) as first, Receiver(default=500) as second:
        async with stack(tmp_path, first.url) as house:
            await until(lambda: is_verified(house))
            house.write_config(endpoints={"one": second.url}, endpoint_settings='verification = "challenge"')
            assert (await house.call("POST", "/v1/reload"))[0] == 200
            assert not is_verified(house)
            await asked(house)
            house.write_config(endpoints={"one": first.url}, endpoint_settings='verification = "challenge"')
            assert (await house.call("POST", "/v1/reload"))[0] == 200
            await until(lambda: is_verified(house))
            made = {"url": first.url, "verification": "challenge", "application": "acme"}
            _, endpoint = await house.call("POST", PATH, made)
            name = endpoint["id"]
            await until(lambda: is_verified(house, name))
            _, changed = await house.call("PATCH", f"{PATH}/{name}", {"url": second.url})
            assert changed["verified"] is None
            _, same = await house.call("PATCH", f"{PATH}/{name}", {"url": first.url, "description": "back"})
            assert same["verified"] is None
            await until(lambda: is_verified(house, name))
        assert len(first.received) == 4


async def test_a_crash_between_creation_and_verification_loses_neither(tmp_path: Path) -> None:
    """After a crash while the challenge was under way the endpoint is there, unverified, and asked again at the start."""
    holding: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    script = [lambda _: holding]
    async with Receiver(*script, default=echoing(as_text)) as receiver, Stack(tmp_path, clock=FakeClock()) as house:
        _, made = await house.call("POST", PATH, {"url": receiver.url, "verification": "challenge"})
        event = await house.post()
        await receiver.wait_for(1)
        await house.crash()
        await house.start()
        await until(lambda: is_verified(house, made["id"]))
        await house.settled(event["id"], "delivered")
        holding.set_result(Answer(204))


async def test_an_edit_is_tried_at_once(tmp_path: Path) -> None:
    """What was in the way may be mended by an edit, so the receiver is asked without waiting for its time."""
    async with Receiver(401, default=204) as receiver, Stack(tmp_path, clock=FakeClock()) as house:
        _, made = await house.call("POST", PATH, {"url": receiver.url, "verification": "ping"})
        await asked(house, 1, made["id"])
        await house.call("PATCH", f"{PATH}/{made['id']}", {"headers": {"Authorization": "Bearer x"}})
        await until(lambda: is_verified(house, made["id"]))
    assert receiver.received[1].headers["Authorization"] == "Bearer x"


@pytest.mark.parametrize(("stop", "go"), [("pause", "resume"), ("disable", "enable")])
async def test_stopped_endpoints_are_not_asked(tmp_path: Path, stop: str, go: str) -> None:
    """Nothing is sent to an endpoint that somebody stopped; taken up again it is asked at once."""
    async with Receiver(500, default=204) as receiver, stack(tmp_path, receiver.url, 'verification = "ping"') as house:
        await asked(house)
        await house.call("POST", f"{PATH}/one/{stop}")
        house.fake.advance(3_600_000)
        await house.quiet()
        assert len(receiver.received) == 1
        endpoint = await shown(house)
        assert (endpoint["unverified"]["tries"], endpoint["unverified"]["next_try_at"]) == (1, None)
        _, moved = await house.call("POST", f"{PATH}/one/{go}")
        assert "`relay endpoint verify one`" in moved["note"]
        await until(lambda: is_verified(house))


async def test_a_mistake_of_relays_own_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in making the request is logged with its traceback, shown, and tried again; the process goes on."""

    def mistaken(*_: Any) -> bytes:
        raise KeyError("a mistake in the challenge")

    async with Receiver(default=echoing(as_text)) as receiver, stack(tmp_path, receiver.url, "") as house:
        with monkeypatch.context() as broken, capture_logs() as lines:
            broken.setattr(Verification, "body", mistaken)
            house.write_config(endpoints={"one": receiver.url}, endpoint_settings='verification = "challenge"')
            await house.call("POST", "/v1/reload")
            await asked(house)
        (line,) = [line for line in lines if line["event"] == log.VERIFICATION_BROKEN]
        assert str(line["exc_info"]) == "'a mistake in the challenge'"
        assert "a mistake of relay's own" in (await shown(house))["unverified"]["detail"]
        house.fake.advance(10_000)
        await until(lambda: is_verified(house))


# -- by hand -----------------------------------------------------------------------------------------------------------


async def test_a_person_asks_now(tmp_path: Path) -> None:
    """`…/verify` asks at once and answers with the outcome; one that agreed stays verified whatever it says later."""
    async with (
        Receiver(500, 500, default=204) as receiver,
        stack(tmp_path, receiver.url, 'verification = "ping"') as house,
    ):
        await asked(house)
        status, refused = await house.call("POST", f"{PATH}/one/verify")
        assert (status, refused["agreed"], refused["attempt"]["status"]) == (200, False, 500)
        assert refused["note"] == "it answered 500: let it answer 2xx"
        assert refused["unverified"]["tries"] == 2
        _, agreed = await house.call("POST", f"{PATH}/one/verify")
        assert (agreed["agreed"], agreed["note"], agreed["unverified"]) == (True, None, None)
        receiver._default = 500
        _, again = await house.call("POST", f"{PATH}/one/verify")
        assert (again["agreed"], again["verified"]["method"], again["unverified"]) == (False, "ping", None)
        assert is_verified(house)


async def test_who_need_not_be_asked_is_not(tmp_path: Path) -> None:
    """`…/verify` of an endpoint without verification is 409 with what to do, and sends nothing."""
    async with Receiver() as receiver, stack(tmp_path, receiver.url, "") as house:
        status, problem = await house.call("POST", f"{PATH}/one/verify")
    assert (status, problem["type"]) == (409, "nothing_to_verify")
    assert receiver.received == []


async def test_a_test_goes_to_an_unverified_endpoint(tmp_path: Path) -> None:
    """A test is asked for by somebody, and is answered as ever; it verifies nothing, and so does a probe, which sends nothing."""
    async with Receiver(default=204) as receiver, stack(tmp_path, receiver.url) as house:
        await asked(house)
        await house.post()
        _, tested = await house.call("POST", f"{PATH}/one/test", {"type": "a.b", "data": {}})
        assert tested["delivered"] is True
        _, probed = await house.call("POST", f"{PATH}/one/probe")
        assert probed["delivery"] is None
        assert "`relay endpoint verify one`" in probed["note"]
        assert not is_verified(house)
        assert len(receiver.received) == 2


# -- a listener at a desk ----------------------------------------------------------------------------------------------


def secret_for(contract: Contract) -> str | None:
    return contract.new_secret(lambda size: bytes(range(size))) if contract.signs else None


@asynccontextmanager
async def desk(
    contract: Contract, secret: str | None, forward_to: str | None = None
) -> AsyncIterator[tuple[str, list[str]]]:
    """A listener as `relay listen` runs it: its URL, and what it says beside deliveries."""
    notes: list[str] = []
    checking = Checking(contract, () if secret is None else (Secret(secret),), 300_000, endpoint="one")
    made = Listener(
        checking, Faults(), Tally(None), lambda _: None, clock=FakeClock(), forward_to=forward_to, note=notes.append
    )
    async with made.listening("127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}/hook", notes


@pytest.mark.parametrize("method", ["challenge", "options", "ping"])
@pytest.mark.parametrize("name", sorted(CONTRACTS.names))
async def test_a_listener_agrees_under_every_contract(tmp_path: Path, name: str, method: str) -> None:
    """`relay listen` checks the signature of what asks it, and agrees by whatever method, whatever the contract."""
    contract = CONTRACTS.get(name)
    assert contract is not None
    secret = secret_for(contract)
    settings = f'verification = "{method}"\nevent_types = ["*"]'
    async with (
        desk(contract, secret) as (url, notes),
        stack(tmp_path, url, settings, contract=name, secret=secret, delivery=ORIGIN) as house,
    ):
        await until(lambda: is_verified(house))
    assert len(notes) == 1


async def test_a_listener_with_another_secret_does_not_agree(tmp_path: Path) -> None:
    """Negative control: what is signed with another secret is answered 401, and the endpoint stays unverified."""
    contract = CONTRACTS.get("slack")
    assert contract is not None
    async with (
        desk(contract, "another-secret-0123456789") as (url, notes),
        stack(tmp_path, url, "", contract="slack", secret=SLACK_SECRET) as house,
    ):
        await asked(house)
        assert "it answered 401" in (await shown(house))["unverified"]["detail"]
    assert notes == []


async def test_a_listener_passes_on_what_asks(tmp_path: Path) -> None:
    """With `--forward-to` the receiver behind it is asked, and its answer counts."""
    contract = CONTRACTS.get("slack")
    assert contract is not None
    async with (
        Receiver(404, default=echoing(as_json)) as receiver,
        desk(contract, SLACK_SECRET, receiver.url) as (url, _),
        stack(tmp_path, url, "", contract="slack", secret=SLACK_SECRET) as house,
    ):
        await asked(house)
        house.fake.advance(10_000)
        await until(lambda: is_verified(house))
    assert len(receiver.received) == 2
