"""Tests of an endpoint: the contract's own event or an example, to it alone, as it would be sent, counted for nothing."""

import hashlib
import hmac
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from svix.webhooks import Webhook

from relay.contracts import ContractCatalogue
from relay.contracts.js import canonical
from tests.support.daemon import PRODUCER_TOKEN, SECRET
from tests.support.receiver import Answer, Received, Receiver
from tests.support.stack import Stack

TEXT_SECRET = "0f" * 32
SECRETS = {"standard": SECRET, "roughy": SECRET, "editframe": TEXT_SECRET, "videoaiditor": TEXT_SECRET}
HEX_HEADERS = {"editframe": "X-Webhook-Signature", "videoaiditor": "X-Signature"}
OWN_KEYS = {
    "editframe": "topic",
    "videoaiditor": "event",
    "rotor": "event",
}  # where a body says its type, if not `type`
CONTRACTS = ContractCatalogue.load()
APP_TOKEN = "test-application-token-0123456789"
READER_TOKEN = "test-reader-token-0123456789"


def tenant(contract: str, url: str, event_types: str = "") -> str:
    """Write the application `org` on a contract, with one endpoint `hook` and a token."""
    secret = f'secret = "{SECRETS[contract]}"' if contract in SECRETS else ""
    return f"""
[[token]]
name = "org-app"
role = "application"
application = "org"
secret = "{APP_TOKEN}"

[[token]]
name = "auditor"
role = "reader"
secret = "{READER_TOKEN}"

[[application]]
id = "org"
contract = "{contract}"

[[application.endpoint]]
id = "hook"
url = "{url}"
event_types = {event_types or '["*"]'}
{secret}
"""


class Tenant(Stack):
    """A relay with the application `org`."""

    def __init__(self, folder: Path, contract: str, url: str, event_types: str = "") -> None:
        super().__init__(folder, extra=tenant(contract, url, event_types))

    async def test(self, body: Any = None, *, endpoint: str = "hook", token: str = APP_TOKEN) -> tuple[int, Any]:
        return await self.call("POST", f"/v1/webhook-endpoints/{endpoint}/test", body, token=token)

    async def outcome(self, body: Any = None, *, endpoint: str = "hook") -> dict[str, Any]:
        status, answer = await self.test({} if body is None else body, endpoint=endpoint)
        assert status == 200, answer
        assert isinstance(answer, dict)
        return answer

    async def nothing_counted(self) -> None:
        """No event, no delivery, no failure of the endpoint."""
        for path in ("/v1/events", "/v1/deliveries"):
            _, listed = await self.call("GET", path)
            assert listed["data"] == [], path
        _, endpoint = await self.call("GET", "/v1/webhook-endpoints/hook")
        assert (endpoint["health"]["failures"], endpoint["due"], endpoint["dead"]) == (0, 0, 0)


def verified(contract: str, received: Received, secret: str | None = None) -> Any:
    """Do what the service's document tells its receivers to do; return the parsed body."""
    if contract in HEX_HEADERS:
        key = (secret or TEXT_SECRET).encode()
        expected = hmac.new(key, received.body, hashlib.sha256).hexdigest()
        assert received.headers.getall(HEX_HEADERS[contract]) == [expected]
    elif contract in ("standard", "roughy"):
        Webhook(secret or SECRET).verify(received.body, dict(received.headers))
    else:
        assert not any("signature" in name.lower() for name in received.headers)
    assert received.headers["Content-Type"] == "application/json"
    return json.loads(received.body)


async def test_editframes_own_test(tmp_path: Path) -> None:
    """`webhook.test` has the ids of endpoint and application, is signed, and asks for no subscription (EDF-10)."""
    async with Receiver() as receiver, Tenant(tmp_path, "editframe", receiver.url, '["render.completed"]') as relay:
        outcome = await relay.outcome()
        await relay.nothing_counted()
    (received,) = receiver.received
    verified("editframe", received)
    assert received.body == b'{"topic":"webhook.test","data":{"id":"hook","org_id":"org"}}'
    assert (outcome["endpoint"], outcome["event_type"], outcome["delivered"]) == ("hook", "webhook.test", True)


@pytest.mark.parametrize("contract", ["editframe", "rotor", "roughy", "standard", "videoaiditor", "wochit"])
async def test_every_example_passes_as_a_test(tmp_path: Path, contract: str) -> None:
    """Each catalogue example reaches the endpoint in the contract's shape, signed with the live secret (EDF-10, WOC-4,
    WOC-13, VAI-7, VAI-8, ROU-13, ROU-16, ROT-10, ROT-19)."""
    promised = CONTRACTS.get(contract)
    assert promised is not None
    async with Receiver() as receiver, Tenant(tmp_path, contract, receiver.url) as relay:
        for name in promised.types:
            outcome = await relay.outcome({"type": name})
            assert (outcome["delivered"], outcome["event_type"]) == (True, name)
            body = verified(contract, receiver.received[-1])
            assert body[OWN_KEYS.get(contract, "type")] == name
        await relay.nothing_counted()
    assert len(receiver.received) == len(promised.types)
    if promised.document.body.mode == "js":
        assert all(canonical(received.body) == received.body for received in receiver.received)


async def test_a_contract_without_a_test_event_sends_an_example(tmp_path: Path) -> None:
    """VideoAiditor prints no test event, so a plain test is its first example, in its envelope (VAI-6)."""
    async with Receiver() as receiver, Tenant(tmp_path, "videoaiditor", receiver.url) as relay:
        outcome = await relay.outcome()
    body = verified("videoaiditor", receiver.received[0])
    assert outcome["event_type"] == body["event"] == "render.completed"
    assert list(body) == ["event", "data"]


async def test_given_data_are_sent_in_the_envelope(tmp_path: Path) -> None:
    """Wochit's flat body has the given members behind the type (WOC-4), feature or not, and a title survives (WOC-14)."""
    data = {"wochitVideoId": "6094092472a9105747957aa3", "errorMessage": "“nöt” \U0001f600\n\u2028"}
    async with Receiver() as receiver, Tenant(tmp_path, "wochit", receiver.url) as relay:
        await relay.outcome({"type": "video.failed", "data": data})
    assert list(verified("wochit", receiver.received[0]).items()) == [("type", "video.failed"), *data.items()]


async def test_numbers_keep_their_lexemes_where_the_contract_says_verbatim(tmp_path: Path) -> None:
    """Given data are spliced in as they came (ROT-16); under `js` they become JavaScript's (VAI-8)."""
    body = b'{"type": "order.paid", "data": {"rate": 30.0, "n": 1e3}}'
    async with Receiver() as receiver, Tenant(tmp_path, "standard", receiver.url) as relay:
        await relay.outcome(body)
    assert b'"data":{"rate": 30.0, "n": 1e3}' in receiver.received[0].body
    example = json.loads(CONTRACTS.get("videoaiditor").types["render.completed"].example)  # type: ignore[union-attr]
    text = json.dumps({"type": "render.completed", "data": example | {"videoData": {"fps": 30.0}}}).encode()
    (tmp_path / "js").mkdir()
    async with Receiver() as receiver, Tenant(tmp_path / "js", "videoaiditor", receiver.url) as relay:
        await relay.outcome(text)
    verified("videoaiditor", receiver.received[0])
    assert b'"videoData":{"fps":30}' in receiver.received[0].body


@pytest.mark.parametrize(
    ("contract", "body", "pointers"),
    [
        ("editframe", {"type": "webhook.tests"}, ["/type"]),
        ("editframe", {"type": None}, ["/type"]),
        ("editframe", {"type": "webhook.test", "data": {"id": 7}}, ["/data/id", "/data/org_id"]),
        ("editframe", {"data": {"org_id": "o"}}, ["/data/id"]),
        ("roughy", {"type": "cut.failed", "data": {"entity_id": ""}}, ["/data/asset_id", "/data/entity_id"]),
        ("wochit", {"type": "video.delete", "data": []}, ["/data"]),
        ("videoaiditor", {"kind": "x", "type": 7}, ["/kind", "/type"]),
    ],
)
async def test_what_the_catalogue_does_not_know_is_refused(
    tmp_path: Path, contract: str, body: Any, pointers: list[str]
) -> None:
    """A wrong type or wrong data is 422 with every mistake, and nothing is sent (EDF-8, ROU-14, WOC-5)."""
    async with Receiver() as receiver, Tenant(tmp_path, contract, receiver.url) as relay:
        status, problem = await relay.test(body)
    assert status == 422, problem
    assert sorted(mistake["pointer"] for mistake in problem["errors"]) == pointers
    assert receiver.received == []


async def test_what_cannot_be_rendered_is_refused(tmp_path: Path) -> None:
    """A number that JavaScript would change has its pointer (VAI-8); so does nesting that no event may have."""
    example = json.loads(CONTRACTS.get("videoaiditor").types["render.completed"].example)  # type: ignore[union-attr]
    lossy = {"type": "render.completed", "data": example | {"videoData": {"n": 123456789012345678901}}}
    deep = b'{"type":"render.completed","data":' + b"[" * 300 + b"]" * 300 + b"}"
    async with Receiver() as receiver, Tenant(tmp_path, "videoaiditor", receiver.url) as relay:
        status, problem = await relay.test(json.dumps(lossy).encode())
        too_deep, _ = await relay.test(deep)
    assert (status, problem["type"], problem["errors"][0]["pointer"]) == (422, "lossy_number", "/data/videoData/n")
    assert (too_deep, receiver.received) == (400, [])


@pytest.mark.parametrize(("validation", "warnings"), [("warn", ["/data/id", "/data/org_id"]), ("off", [])])
async def test_an_application_may_be_less_strict(tmp_path: Path, validation: str, warnings: list[str]) -> None:
    """What intake would accept with a warning, or unseen, a test accepts so too."""
    async with Receiver() as receiver:
        relay = Tenant(tmp_path, "editframe", receiver.url)
        text = relay.config_path.read_text().replace('id = "org"', f'id = "org"\nvalidation = "{validation}"')
        relay.config_path.write_text(text)
        async with relay:
            outcome = await relay.outcome({"type": "webhook.test", "data": {"id": 7}})
            unknown = await relay.outcome({"type": "webhook.unknown"})
    assert sorted(warning["pointer"] for warning in outcome.get("warnings", [])) == warnings
    assert [warning["pointer"] for warning in unknown.get("warnings", [])] == ["/type"] * bool(warnings)
    first, second = (verified("editframe", received) for received in receiver.received)
    assert (first["data"], second["topic"]) == ({"id": 7}, "webhook.unknown")


async def test_an_open_catalogue_takes_any_type(tmp_path: Path) -> None:
    """A type that is not described is sent with the contract's own test data, or with those that are given."""
    async with Receiver() as receiver, Tenant(tmp_path, "standard", receiver.url) as relay:
        await relay.outcome({"type": "order.paid"})
        await relay.outcome({"data": 7})
    first, second = (verified("standard", received) for received in receiver.received)
    assert (first["type"], first["data"]) == ("order.paid", {"message": "This is a test."})
    assert (second["type"], second["data"]) == ("webhook.test", 7)


@pytest.mark.parametrize("verb", ["pause", "disable"])
async def test_a_held_endpoint_is_tested_all_the_same(tmp_path: Path, verb: str) -> None:
    """A test reaches an endpoint that is paused or disabled, and leaves its state as it is (EDF-10)."""
    async with Receiver() as receiver, Tenant(tmp_path, "editframe", receiver.url) as relay:
        await relay.call("POST", f"/v1/webhook-endpoints/hook/{verb}")
        outcome = await relay.outcome()
        _, endpoint = await relay.call("GET", "/v1/webhook-endpoints/hook")
    assert outcome["delivered"]
    assert endpoint["state"] == f"{verb}d"


@pytest.mark.parametrize("answer", [500, 410, Answer(400, {"webhook-delivery": "disable"})])
async def test_a_failed_test_changes_nothing(tmp_path: Path, answer: Any) -> None:
    """No failure of a test is retried, counted against health, or taken as the receiver's wish (EDF-10)."""
    async with Receiver(default=answer) as receiver, Tenant(tmp_path, "editframe", receiver.url) as relay:
        for _ in range(12):  # more than make an endpoint cool down
            outcome = await relay.outcome()
            assert outcome["delivered"] is False
        await relay.nothing_counted()
        _, endpoint = await relay.call("GET", "/v1/webhook-endpoints/hook")
    assert endpoint["state"] == "enabled"
    assert len(receiver.received) == 12


async def test_a_real_event_that_fails_is_counted(tmp_path: Path) -> None:
    """The same failure of a real event is stored and counted: the tests above look in the right place."""
    contract = CONTRACTS.get("editframe")
    assert contract is not None
    event = {"type": "file.ready", "application": "org", "data": json.loads(contract.types["file.ready"].example)}
    async with Receiver(default=500) as receiver, Tenant(tmp_path, "editframe", receiver.url) as relay:
        status, accepted = await relay.call("POST", "/v1/events", event)
        assert status == 202, accepted
        await relay.attempted(accepted["id"], 1)
        with pytest.raises(AssertionError):
            await relay.nothing_counted()
        _, endpoint = await relay.call("GET", "/v1/webhook-endpoints/hook")
    assert (endpoint["health"]["failures"], endpoint["due"]) == (1, 1)


async def test_the_answer_is_told(tmp_path: Path) -> None:
    """Status, headers, the first 16 KiB of the body, duration and address of the answer come back at once (EDF-17)."""
    reply = Answer(401, {"X-Why": "bad key", "Content-Type": "text/plain"}, b"Invalid signature" + b"." * 20_000)
    async with Receiver(reply) as receiver, Tenant(tmp_path, "editframe", receiver.url) as relay:
        outcome = await relay.outcome()
    assert (outcome["delivered"], outcome["status"], outcome["failure"]) == (False, 401, None)
    assert ["X-Why", "bad key"] in outcome["response"]["headers"]
    assert outcome["response"]["body"].startswith("Invalid signature")
    assert len(outcome["response"]["body"]) == 16 << 10
    assert outcome["duration_ms"] >= 0
    assert (outcome["address"], outcome["started_at"][-1]) == ("127.0.0.1", "Z")


async def test_a_test_without_an_answer_says_what_failed(tmp_path: Path) -> None:
    """Where nobody listens the class of the failure and a sentence come back (EDF-17)."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, and not listening
        async with Tenant(tmp_path, "editframe", f"http://127.0.0.1:{bound.getsockname()[1]}/") as relay:
            outcome = await relay.outcome()
            await relay.nothing_counted()
    assert (outcome["status"], outcome["failure"], outcome["response"]) == (None, "connect", None)
    assert "refused" in outcome["detail"].lower()


async def test_metrics_count_tests_apart(tmp_path: Path) -> None:
    """A test adds to the counter of tests and to no other."""
    async with Receiver(204, 500) as receiver, Tenant(tmp_path, "editframe", receiver.url) as relay:
        await relay.outcome()
        await relay.outcome()
        _, text = await relay.call("GET", "/metrics")
    counted = {line.split(" ")[0]: line.split(" ")[1] for line in text.splitlines() if not line.startswith("#")}
    tests = {
        name: value for name, value in counted.items() if "test" in name and name.partition("{")[0][-6:] == "_total"
    }
    assert sorted(tests.values()) == ["1.0", "1.0"]
    assert not any("attempts_total" in name and float(value) for name, value in counted.items() if name not in tests)


async def test_the_live_secret_signs_after_a_rotation(tmp_path: Path) -> None:
    """Where secrets cannot overlap a rotation cuts over, and the next test has the new one (EDF-18, VAI-7)."""
    async with Receiver() as receiver, Tenant(tmp_path, "editframe", receiver.url) as relay:
        body = {"url": receiver.url, "event_types": ["file.*"], "application": "org"}
        status, made = await relay.call("POST", "/v1/webhook-endpoints", body)
        assert status == 201, made
        await relay.outcome(endpoint=made["id"])
        path = f"/v1/webhook-endpoints/{made['id']}/rotate-secret"
        status, rotated = await relay.call("POST", path, {"overlap": "0s"})
        assert status == 200, rotated
        await relay.outcome(endpoint=made["id"])
    first, second = receiver.received
    assert verified("editframe", first, made["secret"])["data"] == {"id": made["id"], "org_id": "org"}
    verified("editframe", second, rotated["secret"])
    with pytest.raises(AssertionError):
        verified("editframe", second, made["secret"])


@pytest.mark.parametrize("token", [READER_TOKEN, PRODUCER_TOKEN])
async def test_only_those_who_may_change_it_test_it(tmp_path: Path, token: str) -> None:
    """Reader and producer tokens send no tests: 403, and nothing is sent."""
    async with Receiver() as receiver, Tenant(tmp_path, "editframe", receiver.url) as relay:
        status, _ = await relay.test({}, token=token)
    assert (status, receiver.received) == (403, [])
