"""What people are told: refusing receivers, whose fault it is, and what an answer means (T1–T6, Q9)."""

import asyncio
import errno
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from relay.cli import main
from relay.cli.output import Exit
from relay.core.model import Failure, Outcome
from relay.core.units import parse_duration_ms
from relay.delivery.dial import NotConnected
from relay.delivery.failures import is_ours
from relay.delivery.trail import Stage
from relay.telemetry import log
from tests.support.api import CONFIG, Api
from tests.support.clock import FakeClock
from tests.support.daemon import SECRET, TOKEN
from tests.support.receiver import Answer, Receiver
from tests.support.stack import Stack
from tests.support.waiting import until

TWO_MINUTES_MS = 120_000
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d .*\[")
HOURS = 'retry = { schedule = ["6h", "6h"], jitter = 0.0 }'


async def command(stack: Stack, *words: str) -> Result:
    """Run a verb against a relay in this process."""
    env = {"RELAY_URL": stack.url, "RELAY_TOKEN": TOKEN}
    return await asyncio.to_thread(CliRunner().invoke, main, list(words), env=env, catch_exceptions=False)


def printed(result: Result) -> list[str]:
    """What a verb printed, without what the relay beside it logged meanwhile."""
    return [line for line in result.stdout.splitlines() if not LOG_LINE.match(line)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(401), "compare the secret on both sides"),
        (Answer(404), "correct the URL"),
        (Answer(405), "does not take POST"),
        (Answer(413), "too large"),
        (Answer(415), "application/json"),
        (Answer(418), "ask its operator"),
        (Answer(301, {"Location": "https://new.example/hooks/T0/secret?token=x"}), "at https://new.example:"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
async def test_two_minutes_after_the_first_refusal_status_says_so(tmp_path: Path, answer: Answer, said: str) -> None:
    """T1: one refusal, the next attempt hours away: status names the endpoint, the answer and the remedy, and exits 1."""
    clock = FakeClock()
    async with (
        Receiver(default=answer) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=HOURS) as stack,
    ):
        delivery = await stack.attempted((await stack.post())["id"], 1)
        before = await command(stack, "status")
        clock.advance(TWO_MINUTES_MS)
        after = await command(stack, "status")
        shown = await command(stack, "endpoint", "show", "primary")
        listed = await command(stack, "endpoint", "list")
        _, found = await stack.call("GET", "/v1/webhook-endpoints?state=refusing")
        _, enabled = await stack.call("GET", "/v1/webhook-endpoints?state=enabled")
        _, metrics = await stack.call("GET", "/metrics")
    assert before.exit_code == Exit.FINE
    assert after.exit_code == Exit.FAILED
    first = printed(after)[0]
    assert f"primary ({answer.status})" in first
    assert said in first
    assert "secret?token" not in after.stdout + shown.stdout + str(delivery["timeline"][0]["detail"])
    assert "1 refusing" in after.stdout
    assert f"the last answer: {answer.status}" in shown.stdout
    assert "refusing" in listed.stdout
    (one,) = found["data"]
    assert (one["refusing"]["status"], one["health"]["last_failure"]) == (answer.status, str(answer.status))
    assert enabled["data"] == []
    assert 'relay_endpoints{state="refusing"} 1.0' in metrics
    assert 'relay_endpoint_state{endpoint="primary",state="refusing"} 1.0' in metrics


async def test_refusing_survives_a_restart_and_ends_with_a_success(tmp_path: Path) -> None:
    """T1: what is known of refusals is stored with health; a 2xx takes it back, and status is well again."""
    clock = FakeClock()
    async with (
        Receiver(401, default=204) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=HOURS) as stack,
    ):
        event = await stack.post()
        await stack.attempted(event["id"], 1)
        await stack.quiet()
        await stack.stop()
        clock.advance(TWO_MINUTES_MS)
        await stack.start()
        _, refusing = await stack.call("GET", "/v1/status")
        clock.advance(parse_duration_ms("6h"))
        await stack.settled(event["id"], "delivered")
        _, well = await stack.call("GET", "/v1/status")
    assert (refusing["refusing"], [trouble["code"] for trouble in refusing["troubles"]]) == (["primary"], ["refusing"])
    assert (well["refusing"], well["troubles"]) == ([], [])
    assert well["headline"].startswith("All is well")


async def test_a_held_endpoint_is_not_refusing(tmp_path: Path) -> None:
    """T1: whoever paused it knows; it takes no deliveries that could be refused."""
    async with Api(tmp_path) as api:
        api.courier.script = [404, 404]
        await api.delivery_of(await api.post_event(), "due", attempts=1)
        api.clock.advance(TWO_MINUTES_MS)
        assert (await api.get("/v1/status"))["refusing"] == ["primary"]
        await api.call("POST", "/v1/webhook-endpoints/primary/pause")
        status = await api.get("/v1/status")
    assert (status["refusing"], status["endpoint_states"]["paused"]) == ([], 1)


LOCATIONS = [
    ({"Location": "https://user:pw@new.example:8443/a/b?c=d"}, "at https://new.example:8443:"),
    ({"Location": "/hook/"}, "another path at 127.0.0.1:"),
    ({"Location": "//other.example/x"}, "at http://other.example:"),
    ({"Location": "https://[broken/"}, "names no target"),
    ({"Location": "mailto:a@example.com"}, "names no target"),
    ({}, "names no target"),
]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(("headers", "said"), LOCATIONS)
async def test_a_redirect_is_explained_in_the_timeline(
    tmp_path: Path, status: int, headers: dict[str, str], said: str
) -> None:
    """T4: the timeline says that redirects are not followed and what to register; of the target only the host is named."""
    async with (
        Receiver(default=Answer(status, headers)) as receiver,
        Stack(tmp_path, endpoints={"primary": receiver.url}, endpoint_settings=HOURS) as stack,
    ):
        delivery = await stack.attempted((await stack.post())["id"], 1)
        shown = await command(stack, "deliveries", "show", delivery["id"])
        _, tested = await stack.call("POST", "/v1/webhook-endpoints/primary/test")
    (attempt,) = delivery["timeline"]
    assert "redirects are not followed" in attempt["detail"]
    assert said in attempt["detail"]
    assert "pw" not in attempt["detail"]
    assert "a/b" not in attempt["detail"]
    assert attempt["detail"] in shown.stdout
    assert tested["detail"] == attempt["detail"]


def certificate_refused(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "refused")
    error.verify_code = code
    return error


@pytest.mark.parametrize(
    ("stage", "cause", "ours"),
    [
        (Stage.RESOLVING, TimeoutError(), True),
        (Stage.RESOLVING, socket.gaierror(socket.EAI_AGAIN, "temporary"), True),
        (Stage.RESOLVING, socket.gaierror(socket.EAI_FAIL, "failed"), True),
        (Stage.RESOLVING, socket.gaierror(socket.EAI_NONAME, "no such name"), False),
        (Stage.CONNECTING, OSError(errno.ENETUNREACH, "no route"), True),
        (Stage.CONNECTING, OSError(errno.EADDRNOTAVAIL, "no port left"), True),
        (Stage.CONNECTING, ConnectionRefusedError(errno.ECONNREFUSED, "refused"), False),
        (Stage.CONNECTING, ConnectionResetError(errno.ECONNRESET, "reset"), False),
        (Stage.CONNECTING, TimeoutError(), False),
        (Stage.SECURING, certificate_refused(9), True),
        (Stage.SECURING, certificate_refused(10), True),
        (Stage.SECURING, certificate_refused(18), False),
        (Stage.SECURING, ssl.SSLError(1, "protocol"), False),
    ],
)
def test_what_this_host_causes(stage: Stage, cause: Exception, ours: bool) -> None:
    """T2: name servers, routes and the clock are ours; what a receiver refuses, resets or lets time out is theirs (Q9)."""
    error = NotConnected(stage, literal=False)
    error.__cause__ = cause
    assert is_ours(error) is ours
    assert not is_ours(cause)


TWO_TENANTS = CONFIG | {
    "application": [
        {
            "id": name,
            "endpoint": [
                {"id": f"{name}-{host}", "url": f"https://{host}.example/", "secret": secret} for host in hosts
            ],
        }
        for name, hosts, secret in (
            ("acme", ("one", "two"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ("globex", ("three",), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        )
    ]
}


@pytest.mark.parametrize(("ours", "us"), [(True, True), (False, False)])
async def test_it_is_us_when_hosts_of_several_tenants_are_out_of_reach(tmp_path: Path, ours: bool, us: bool) -> None:
    """T2: only failures of a kind that this host causes count; refused connections of the same hosts are theirs."""
    async with Api(tmp_path, TWO_TENANTS) as api:
        api.courier.script = [Outcome(0, 1, failure=Failure.CONNECT, ours=ours)] * 3
        for application in ("acme", "globex"):
            await api.post_event(application=application)
        await until(lambda: api.relay.metrics._retries == 3)
        status = await api.get("/v1/status")
    assert status["local_trouble"] is us
    assert status["headline"].startswith("It is us, not them: ") is us


async def test_two_endpoints_of_one_host_that_refuse_connections_are_them(tmp_path: Path) -> None:
    """T2: two endpoints on one closed port and one that just delivered: the receivers' trouble, and the exit code is 0."""
    async with Receiver() as receiver:
        closed = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = closed.sockets[0].getsockname()[1]
        closed.close()
        await closed.wait_closed()
        urls = {"a": f"http://127.0.0.1:{port}/a", "b": f"http://127.0.0.1:{port}/b", "c": receiver.url}
        async with Stack(tmp_path, endpoints=urls, endpoint_settings=HOURS) as stack:
            event = await stack.post()

            async def all_tried() -> bool:
                return all(one["attempts"] == 1 for one in await stack.deliveries(event["id"]))

            await stack.until(all_tried)
            status = await command(stack, "status")
            _, told = await stack.call("GET", "/v1/status")
    assert status.exit_code == Exit.FINE
    assert printed(status)[0].startswith("2 of 3 endpoints are failing")
    assert told["local_trouble"] is False


def held_open() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    "newer",
    [
        ("PATCH", "", {"headers": {"x-key": "new"}}),
        ("PATCH", "", {"url": "https://new.example/"}),
        ("POST", "/disable", None),
        ("POST", "/pause", None),
    ],
    ids=["headers", "url", "disabled and enabled", "paused and resumed"],
)
async def test_a_410_of_an_older_attempt_does_not_disable(tmp_path: Path, newer: tuple[str, str, Any]) -> None:
    """Q9: whoever edited or enabled the endpoint since that attempt began has the last word; the delivery is dead all the same."""
    method, verb, body = newer
    async with Api(tmp_path) as api:
        made = await api.call(
            "POST", "/v1/webhook-endpoints", {"url": "https://made.example/", "application": "globex"}
        )
        path = f"/v1/webhook-endpoints/{made.json['id']}"
        answer = held_open()
        api.courier.script = [answer]
        event = await api.post_event(application="globex")
        await until(lambda: len(api.courier.requests) == 1)
        assert (await api.call(method, path + verb, body)).status == 200
        if verb:
            back = "enable" if verb == "/disable" else "resume"
            assert (await api.call("POST", f"{path}/{back}")).status == 200
        answer.set_result(410)
        await api.delivery_of(event, "dead")
        await api.quiet()
        assert (await api.get(path))["state"] == "enabled"

        api.courier.script = [410]  # an attempt that began since
        await api.delivery_of(await api.post_event(application="globex"), "dead")
        await api.quiet()
        assert (await api.get(path))["state"] == "disabled"


async def test_a_410_to_a_test_does_not_disable(tmp_path: Path) -> None:
    """Q9: a test counts for nothing, whatever it is answered."""
    async with Api(tmp_path) as api:
        api.courier.script = [410]
        assert (await api.call("POST", "/v1/webhook-endpoints/primary/test")).json["status"] == 410
        await api.quiet()
        assert (await api.get("/v1/webhook-endpoints/primary"))["state"] == "enabled"


async def failing(api: Api, *, times: int = 10) -> None:
    """Let `primary` fail over several deliveries until it cools down."""
    api.courier.script = [503] * times
    for _ in range(times):
        await api.post_event()
    await until(lambda: api.relay.metrics._retries == times)
    await api.quiet()


@pytest.mark.parametrize(("verb", "unlike"), [("resume", "pause"), ("enable", "disable")])
async def test_a_verb_says_when_it_changed_nothing_and_what_would_help(tmp_path: Path, verb: str, unlike: str) -> None:
    """T3: on an endpoint that cools down, resume and enable change nothing; the answer names the end and the probe."""
    async with Api(tmp_path) as api:
        await failing(api)
        same = await api.call("POST", f"/v1/webhook-endpoints/primary/{verb}")
        moved = await api.call("POST", f"/v1/webhook-endpoints/primary/{unlike}")
        again = await api.call("POST", f"/v1/webhook-endpoints/primary/{unlike}")
        back = await api.call("POST", f"/v1/webhook-endpoints/primary/{verb}")
    assert (same.status, same.json["changed"], same.json["state"]) == (200, False, "enabled")
    assert same.json["note"].startswith("It cools down until 2027-")
    assert "10 failed attempts (503); `relay endpoint probe primary` tries one" in same.json["note"]
    assert (moved.json["changed"], moved.json["note"]) == (True, None)
    assert again.json["changed"] is False
    assert f"`relay endpoint {verb} primary`" in again.json["note"]
    assert back.json["changed"] is True
    assert (back.json["note"] is None) is (verb == "enable")  # which ends the cool-down too


async def test_enabling_a_refusing_endpoint_says_what_to_mend(tmp_path: Path) -> None:
    """T3: the command line says that nothing changed, with the remedy of the last answer."""
    clock = FakeClock()
    async with (
        Receiver(default=401) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=HOURS) as stack,
    ):
        await stack.attempted((await stack.post())["id"], 1)
        clock.advance(TWO_MINUTES_MS)
        enabled = await command(stack, "endpoint", "enable", "primary")
        probed = await command(stack, "endpoint", "probe", "primary")
        await receiver.wait_for(2)
    assert (enabled.exit_code, probed.exit_code) == (Exit.FINE, Exit.FINE)
    first, second = printed(enabled)
    assert first == "primary: nothing changed; it was refusing."
    assert second.startswith("Its receiver refuses every delivery (401): the receiver does not accept the signature")
    assert "goes out now" in printed(probed)[0]


async def test_a_probe_goes_past_a_cool_down(tmp_path: Path) -> None:
    """T3: one delivery goes out at once, and its success ends the cool-down; with nothing due, or held, it says why."""
    path = "/v1/webhook-endpoints/primary/probe"
    async with Api(tmp_path) as api:
        nothing = await api.call("POST", path)
        await failing(api)
        probed = await api.call("POST", path)
        await until(lambda: len(api.courier.requests) == 11)
        await api.quiet()
        health = (await api.get("/v1/webhook-endpoints/primary"))["health"]
        await api.call("POST", "/v1/webhook-endpoints/primary/pause")
        held = await api.call("POST", path)
    assert (nothing.json["changed"], nothing.json["delivery"]) == (False, None)
    assert nothing.json["note"].startswith("Nothing is due")
    assert (probed.json["changed"], probed.json["delivery"][:4]) == (True, "dlv_")
    assert (health["failures"], health["cool_down_until"]) == (0, None)
    assert (held.json["changed"], held.json["delivery"]) == (False, None)
    assert "`relay endpoint resume primary`" in held.json["note"]


async def test_a_probe_with_nothing_due_says_so_first(tmp_path: Path) -> None:
    """T3: where nothing is due to a refusing endpoint, no verb advises a probe that has nothing to send."""
    clock = FakeClock()
    async with (
        Receiver(default=401) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=HOURS) as stack,
    ):
        event = (await stack.post())["id"]
        await stack.attempted(event, 1)
        clock.advance(TWO_MINUTES_MS)
        (waiting,) = await stack.deliveries(event)
        await stack.call("POST", f"/v1/deliveries/{waiting['id']}/cancel")
        _, probed = await stack.call("POST", "/v1/webhook-endpoints/primary/probe")
        _, enabled = await stack.call("POST", "/v1/webhook-endpoints/primary/enable")
    assert (probed["changed"], probed["delivery"]) == (False, None)
    assert probed["note"] == "Nothing is due to it. `relay endpoint test primary` sends a test event."
    assert enabled["note"].endswith("then `relay endpoint test primary` sends it a test event.")


# -- the file and what runs ---------------------------------------------------------------------------------------------

SILENT = "https://silent.example/hooks"


async def owing(stack: Stack, endpoint: str) -> None:
    """Pause an endpoint, and let two deliveries wait there."""
    await stack.call("POST", f"/v1/webhook-endpoints/{endpoint}/pause")
    for _ in range(2):
        await stack.post()


async def test_a_renamed_endpoint_is_named_with_what_waits_there(tmp_path: Path) -> None:
    """T5: a typo in an id is a warning of the reload and a trouble in status, until the old one is deleted."""
    async with Stack(tmp_path, endpoints={"primary": SILENT}) as stack:
        await owing(stack, "primary")
        stack.write_config(endpoints={"primry": SILENT})
        with capture_logs() as lines:
            reloaded = await command(stack, "reload")
        status = await command(stack, "status")
        _, told = await stack.call("GET", "/v1/status")
        deleted = await command(stack, "endpoint", "delete", "primary", "--yes")
        well = await command(stack, "status")
    assert reloaded.exit_code == Exit.FINE
    for said in (reloaded.stderr, printed(status)[0]):
        assert (
            "ndpoint 'primary' of application 'acme' is no longer in the configuration file; 2 deliveries wait there"
            in said
        )
        assert "renamed to 'primry'" in said
        assert "`relay endpoint delete primary`" in said
    assert told["vanished"] == [
        {"kind": "endpoint", "id": "primary", "application": "acme", "due": 2, "renamed_to": "primry"}
    ]
    assert [line["id"] for line in lines if line["event"] == log.CONFIG_VANISHED] == ["primary"]
    assert (status.exit_code, deleted.exit_code, well.exit_code) == (Exit.FAILED, Exit.FINE, Exit.FINE)


async def test_a_vanished_application_is_named_after_a_restart_too(tmp_path: Path) -> None:
    """T5: an application that the file has no more is one line, not one for each endpoint; put back, all is well."""
    other = f'[[application]]\nid = "tenant"\n[[application.endpoint]]\nid = "hook"\nurl = "{SILENT}"\nsecret = "{SECRET}"\n'
    async with Stack(tmp_path, extra=other) as stack:
        await stack.stop()
        stack.write_config()
        await stack.start()
        _, gone = await stack.call("GET", "/v1/status")
        stack.write_config(extra=other)
        assert (await command(stack, "reload")).exit_code == Exit.FINE
        _, back = await stack.call("GET", "/v1/status")
    (one,) = gone["vanished"]
    assert (one["kind"], one["id"], one["due"], one["renamed_to"]) == ("application", "tenant", 0, None)
    assert any("application 'tenant' is no longer" in warning for warning in gone["warnings"])
    assert (gone["troubles"], back["vanished"]) == ([], [])


async def test_a_refused_reload_is_an_exit_code_and_stays_in_status(tmp_path: Path) -> None:
    """T6: `relay reload` exits 78 with every mistake, its line and key; status says so until a good one, SIGHUP's too."""
    async with Stack(tmp_path, endpoints={"primary": SILENT}) as stack:
        stack.write_config(endpoints={"primary": "ftp://silent.example/"}, delivery='max_age = "soon"')
        refused = await command(stack, "reload")
        status = await command(stack, "status")
        _, told = await stack.call("GET", "/v1/status")
        stack.write_config(endpoints={"primary": SILENT})
        applied = await command(stack, "reload")
        _, after = await stack.call("GET", "/v1/status")
    assert refused.exit_code == Exit.CONFIGURATION
    assert re.search(r"config\.toml:\d+: delivery\.max_age: ", refused.stderr)
    assert re.search(r"config\.toml:\d+: application\[acme\]\.endpoint\[primary\]\.url: ", refused.stderr)
    assert status.exit_code == Exit.FAILED
    assert "was refused, and what was in force before still is: " in printed(status)[0]
    assert len(told["reload"]["refused"]) >= 2
    assert applied.exit_code == Exit.FINE
    assert (after["reload"]["refused"], after["troubles"]) == ([], [])


async def test_what_the_database_refuses_has_its_place_in_the_file(tmp_path: Path) -> None:
    """T6: an id that is taken is shown with file, line and key, as a mistake of the file is."""
    async with Stack(tmp_path) as stack:
        assert (await stack.call("POST", "/v1/applications", {"id": "taken"}))[0] == 201
        stack.write_config(extra='[[application]]\nid = "taken"\n')
        refused = await command(stack, "reload")
        await stack.relay.reload()  # as SIGHUP does
        _, told = await stack.call("GET", "/v1/status")
    assert refused.exit_code == Exit.CONFIGURATION
    assert re.search(r"config\.toml:\d+: application\[taken\]\.id: application 'taken' was made", refused.stderr)
    assert [trouble["code"] for trouble in told["troubles"]] == ["reload_refused"]


async def test_settings_that_wait_for_a_restart_stand_in_status(tmp_path: Path) -> None:
    """T6: they are said by the reload, and in status until the file is as it was, or a restart."""
    async with Stack(tmp_path) as stack:
        stack.write_config(storage="max_backlog = 77")
        reloaded = await command(stack, "reload")
        _, told = await stack.call("GET", "/v1/status")
        stack.write_config()
        await command(stack, "reload")
        _, after = await stack.call("GET", "/v1/status")
    assert "These wait for a restart: storage.max_backlog." in reloaded.stderr
    assert told["reload"]["needs_restart"] == ["storage.max_backlog"]
    assert "These settings wait for a restart: storage.max_backlog." in told["warnings"]
    assert after["reload"]["needs_restart"] == []


# -- every mistake in one answer -----------------------------------------------------------------------------------------

TEN_MISTAKES = {
    "url": "http://user:pw@localhost:22/#x y",
    "event_types": ["a b", "fine", 5],
    "headers": {"webhook-id": "x", "X-Number": 5},
    "concurrency": 9999,
    "rate_limit": "x",
    "timeout": 5,
    "retry": {"schedule": ["5s", "x"], "jitter": 7},
    "max_age": "9000d",
    "nonsense": 1,
    "description": 7,
}
PLACES = {
    "/url",
    "/event_types/0",
    "/event_types/2",
    "/headers/webhook-id",
    "/headers/X-Number",
    "/concurrency",
    "/rate_limit",
    "/timeout",
    "/retry/schedule/1",
    "/retry/jitter",
    "/max_age",
    "/nonsense",
    "/description",
}


def counted(answer: Any, below: str = "") -> dict[str, int]:
    places = [
        error["pointer"].removeprefix(below) for error in answer.json["errors"] if error["pointer"].startswith(below)
    ]
    return {place: places.count(place) for place in dict.fromkeys(places)}


@pytest.mark.parametrize("way", ["new", "patch", "first", "whose"])
async def test_one_answer_has_every_mistake_of_an_endpoint(tmp_path: Path, way: str) -> None:
    """T8: form, URL, headers, subscriptions and rules of admission come together, however the endpoint is written."""
    strict = {"delivery": {}, "application": [{"id": "acme"}]}
    path, call = "/v1/webhook-endpoints", "POST"
    async with Api(tmp_path, strict) as api:
        body: Any = TEN_MISTAKES
        if way == "patch":
            made = await api.call("POST", path, {"url": "https://made.example/"})
            path, call = f"{path}/{made.json['id']}", "PATCH"
        elif way == "first":
            path, body = (
                "/v1/applications",
                {"id": "a b", "endpoint": TEN_MISTAKES, "key": {"name": 5}},
            )
        elif way == "whose":
            body = TEN_MISTAKES | {"application": 5}
        answer = await api.call(call, path, body)
    assert (answer.status, answer.json["type"]) == (422, "invalid_request")
    found = counted(answer, "/endpoint" if way == "first" else "")
    judged = PLACES - ({"/event_types/0"} if way == "whose" else set())  # nobody knows under which contract
    assert judged <= found.keys()
    assert found["/url"] >= (3 if way == "whose" else 5)
    if way == "first":
        assert {"/id", "/key/name"} <= counted(answer).keys()
    if way == "whose":
        assert found["/application"] == 1


@pytest.mark.parametrize(
    ("url", "least"),
    [
        ("ftp://u:p@10.0.0.1:99999/%zz#a", 6),
        ("ftp://localhost:0/", 3),
        ("https://[::1/ #x", 3),
        ("http://-x-.example:22/", 3),
    ],
)
async def test_one_answer_has_every_mistake_of_a_url(tmp_path: Path, url: str, least: int) -> None:
    """T8: no mistake of a URL hides another: scheme, port, credentials, host, escapes and fragment are all named."""
    async with Api(tmp_path, {"delivery": {}, "application": [{"id": "acme"}]}) as api:
        answer = await api.call("POST", "/v1/webhook-endpoints", {"url": url})
    sentences = [error["message"] for error in answer.json["errors"]]
    assert len(set(sentences)) >= least, sentences


async def test_a_wrong_member_does_not_make_others_wrong(tmp_path: Path) -> None:
    """T8: what is judged by something that is wrong itself is left out: no mistake comes of a placeholder."""
    async with Api(tmp_path, {"delivery": {}, "application": [{"id": "acme"}]}) as api:
        no_url = await api.call("POST", "/v1/webhook-endpoints", {"event_types": "cut.*"})
        no_contract = await api.call("POST", "/v1/applications", {"contract": 5, "features": {"drafts": True}})
    assert counted(no_url) == {"/url": 1, "/event_types": 1}
    assert counted(no_contract) == {"/contract": 1}


async def test_one_answer_has_every_mistake_of_an_event(tmp_path: Path) -> None:
    """T8: envelope and data are judged together."""
    posted = {
        "type": "a b",
        "data": 5,
        "id": "a b",
        "timestamp": "gestern",
        "deliver_at": "x",
        "expires_at": "y",
        "metadata": [],
        "ordering_key": 5,
        "oops": 1,
    }
    async with Api(tmp_path) as api:
        answer = await api.call("POST", "/v1/events", posted, by="acme-producer")
    assert answer.status == 422
    assert {f"/{member}" for member in posted} - {"/data"} <= counted(answer).keys()
