"""A contract for one endpoint: its application's contract judges an event, its own writes what it is sent."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from relay.contracts import ContractCatalogue
from relay.core.model import Secret
from relay.diagnosis.verify import verify
from tests.support.daemon import SECRET
from tests.support.receiver import Received, Receiver
from tests.support.stack import Stack

ENDPOINTS = "/v1/webhook-endpoints"
CONTRACTS = ContractCatalogue.load()
GITHUB = "it is a secret of GitHub's kind"

NARROW = """
description = "It needs what not every event says."

[types]
catalogue = "closed"

[type."order.paid"]
description = "An order was paid."
example = '{"order":"o_1"}'

[type."order.lost"]
description = "An order was lost."
example = '{"order":"o_1"}'

[body]
members = [{ name = "number", value = "{data.order}" }]

[[signature]]
header = "X-Narrow"
algorithm = "hmac-sha256"
content = "{body}"
encoding = "hex"
value = "{sigs}"
"""


class Varied(Stack):
    """A relay whose application `acme` has the endpoint `plain`, and endpoints with contracts of their own."""

    def __init__(self, folder: Path, **config: Any) -> None:
        (folder / "contracts").mkdir()
        (folder / "contracts" / "narrow.toml").write_text(NARROW)
        super().__init__(folder, **config)

    async def add(self, receiver: Receiver, contract: str, name: str, **fields: Any) -> Any:
        """Make an endpoint with a contract; it must be taken."""
        written = {"url": receiver.url, "application": "acme", "id": name, "contract": contract, **fields}
        status, answer = await self.call("POST", ENDPOINTS, written)
        assert status == 201, answer
        return answer

    async def patch(self, name: str, **fields: Any) -> tuple[int, Any]:
        return await self.call("PATCH", f"{ENDPOINTS}/{name}", fields)

    async def states(self, event_id: str) -> dict[str, tuple[str, str | None]]:
        """State and reason of each delivery of an event, when none is due any more."""
        found: dict[str, tuple[str, str | None]] = {}

        async def ended() -> bool:
            found.update({one["endpoint"]: (one["state"], one["reason"]) for one in await self.deliveries(event_id)})
            return all(state != "due" for state, _ in found.values())

        await self.until(ended)
        return found


def is_signed(request: Received, contract: str, secret: str, stack: Stack) -> bool:
    """Whether a request is right for a receiver of this contract."""
    own = ContractCatalogue.load(stack.folder / "contracts").get(contract)
    assert own is not None
    return verify(own, (Secret(secret),), request.headers, request.body, stack.clock.wall_ms()).ok


# -- what each is sent -------------------------------------------------------------------------------------------------


async def test_each_contract_writes_and_signs_what_its_endpoints_get(tmp_path: Path) -> None:
    """One event reaches four receivers in three shapes, each signed as its own contract says; all bodies can be read."""
    async with AsyncExitStack() as opened:
        plain, first, second, third = [await opened.enter_async_context(Receiver()) for _ in range(4)]
        stack = await opened.enter_async_context(Varied(tmp_path, endpoints={"plain": plain.url}))
        await stack.add(first, "github", "first", secret=GITHUB)
        await stack.add(second, "github", "second", secret=GITHUB)
        await stack.add(third, "cloudevents", "third")
        event = await stack.post("order.paid", {"order": "o_7"})
        assert event["deliveries"] == 4
        assert set((await stack.states(event["id"])).values()) == {("delivered", None)}
        (got,), (one,), (other,), (cloud,) = plain.received, first.received, second.received, third.received
        assert is_signed(got, "standard", SECRET, stack)
        assert json.loads(got.body)["data"] == {"order": "o_7"}
        assert (one.body, is_signed(one, "github", GITHUB, stack)) == (other.body, True)
        assert not is_signed(one, "github", GITHUB + "!", stack)  # negative control
        assert "webhook-id" not in one.headers
        assert json.loads(cloud.body)["specversion"] == "1.0"
        assert cloud.headers["Content-Type"] == "application/cloudevents+json"
        _, shown = await stack.call("GET", f"/v1/events/{event['id']}")
        assert shown["payload"] == json.loads(got.body)
        assert [(each["contract"], each["endpoints"], each["payload"]) for each in shown["variants"]] == [
            ("cloudevents", ["third"], json.loads(cloud.body)),
            ("github", ["first", "second"], json.loads(one.body)),
        ]
        assert (await stack.call("GET", f"{ENDPOINTS}/third"))[1]["contract"] == "cloudevents"
        assert (await stack.call("GET", f"{ENDPOINTS}/plain"))[1]["contract"] == "standard"


async def test_what_is_retried_after_a_restart_is_what_was_frozen(tmp_path: Path) -> None:
    """Invariant 6: read from the database, an attempt by hand sends the same bytes under the same contract."""
    async with Receiver() as receiver, Varied(tmp_path) as stack:
        await stack.add(receiver, "github", "hook", secret=GITHUB)
        event = await stack.post("order.paid", {"order": "o_7"})
        delivery = await stack.settled(event["id"], "delivered")
        await stack.stop()
        await stack.start()
        assert (await stack.call("POST", f"/v1/deliveries/{delivery['id']}/retry", {}))[0] == 202
        first, second = await receiver.wait_for(2)
        assert (second.body, is_signed(second, "github", GITHUB, stack)) == (first.body, True)


async def test_a_changed_contract_holds_for_later_events(tmp_path: Path) -> None:
    """Q11: what is due goes as it was frozen, signed under the contract that wrote it; what comes later goes in the new one."""
    async with Receiver() as receiver, Varied(tmp_path) as stack:
        await stack.add(receiver, "github", "hook", secret=SECRET)
        await stack.call("POST", f"{ENDPOINTS}/hook/pause")
        old = await stack.post("order.paid", {"order": "o_1"})
        status, changed = await stack.patch("hook", contract="narrow", event_types=["order.paid"])
        assert (status, changed["contract"]) == (200, "narrow")
        new = await stack.post("order.paid", {"order": "o_2"})
        assert (await stack.patch("hook", contract=None))[1]["contract"] == "standard"
        last = await stack.post("order.paid", {"order": "o_3"})
        await stack.call("POST", f"{ENDPOINTS}/hook/resume")
        for event in (old, new, last):
            await stack.settled(event["id"], "delivered")
        by_contract = {
            name: request.body
            for request in receiver.received
            for name in ("github", "narrow", "standard")
            if is_signed(request, name, SECRET, stack)
        }
        assert len(receiver.received) == len(by_contract) == 3
        assert by_contract["narrow"] == b'{"number":"o_2"}'
        assert json.loads(by_contract["standard"])["data"] == {"order": "o_3"}


async def test_a_body_that_nothing_can_sign_any_more_is_a_dead_letter(tmp_path: Path) -> None:
    """Secrets that its frozen contract does not take end one delivery, `unrenderable`, and suspend nobody."""
    async with Receiver() as receiver, Varied(tmp_path) as stack:
        await stack.add(receiver, "standard", "hook", secret=SECRET)  # its application's: no contract of its own
        await stack.call("POST", f"{ENDPOINTS}/hook/pause")
        old = await stack.post("order.paid", {"order": "o_1"})
        await stack.patch("hook", contract="github")
        assert (await stack.call("POST", f"{ENDPOINTS}/hook/rotate-secret", {"secret": GITHUB}))[0] == 200
        new = await stack.post("order.paid", {"order": "o_2"})
        await stack.call("POST", f"{ENDPOINTS}/hook/resume")
        assert await stack.states(old["id"]) == {"hook": ("dead", "unrenderable")}
        assert await stack.states(new["id"]) == {"hook": ("delivered", None)}
        (request,) = receiver.received
        assert is_signed(request, "github", GITHUB, stack)
        assert (await stack.call("GET", f"{ENDPOINTS}/hook"))[1]["suspended"] is None


# -- what does not fit -------------------------------------------------------------------------------------------------


async def test_what_one_contract_cannot_write_keeps_it_from_nobody_else(tmp_path: Path) -> None:
    """The event is taken and delivered to the others, its producer is warned, and a dead letter says what was not sent."""
    async with Receiver() as plain, Receiver() as narrow:
        async with Varied(tmp_path, endpoints={"plain": plain.url}) as stack:
            await stack.add(narrow, "narrow", "narrow", event_types=["order.paid"])
            event = await stack.post("order.paid", {"n": 1}, idempotency_key="k")
            (warning,) = event["warnings"]
            assert warning["pointer"] == "/data"
            assert "'narrow'" in warning["message"]
            assert "/data/order" in warning["message"]
            assert await stack.states(event["id"]) == {
                "plain": ("delivered", None),
                "narrow": ("dead", "unrenderable"),
            }
            assert len(plain.received) == 1
            _, shown = await stack.call("GET", f"/v1/events/{event['id']}")
            (variant,) = shown["variants"]
            assert variant["payload"] is None
            assert "/data/order" in variant["fault"]
            (dead,) = (await stack.call("GET", "/v1/deliveries?reason=unrenderable"))[1]["data"]
            assert (await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry", {}))[0] == 202
            assert (await stack.states(event["id"]))["narrow"] == ("dead", "unrenderable")  # no bytes have come since
        assert narrow.received == []


async def test_an_event_goes_only_where_both_contracts_have_its_type(tmp_path: Path) -> None:
    """A subscription covers of its application's types those that its own contract has; one that covers none is refused."""
    async with Receiver() as receiver, Varied(tmp_path) as stack:
        await stack.add(receiver, "narrow", "hook", event_types=["order.*", "invoice.*", "*"][:1])
        known, unknown = await stack.post("order.paid", {"order": 1}), await stack.post("order.sent", {"order": 1})
        assert (known["deliveries"], unknown["deliveries"], unknown["reason"]) == (1, 0, "no_match")
        status, refused = await stack.patch("hook", event_types=["order.paid", "order.sent", "invoice.*"])
        assert (status, [issue["pointer"] for issue in refused["errors"]]) == (
            422,
            ["/event_types/1", "/event_types/2"],
        )
        assert "under the endpoint's contract narrow" in refused["errors"][0]["message"]
        tried = {"endpoint": "hook", "event": {"type": "order.sent", "data": {}}}
        assert (await stack.call("POST", "/v1/filters/try", tried))[1]["subscribes"] is False


async def test_two_closed_catalogues_must_share_a_type(tmp_path: Path) -> None:
    """`*` of an application with a closed catalogue is refused where the endpoint's contract knows none of its types."""
    async with Receiver() as receiver, Varied(tmp_path, contract="rotor", secret=None) as stack:
        wanted = {"url": receiver.url, "application": "acme", "contract": "narrow"}
        status, refused = await stack.call("POST", ENDPOINTS, wanted)
        (issue,) = refused["errors"]
        assert (status, issue["pointer"]) == (422, "/event_types/0")
        assert "covers no event type that rotor has, too" in issue["message"]


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"contract": "githup"}, "/contract", 'id you mean "github"'),
        ({"contract": 7}, "/contract", "must be text"),
        (
            {"contract": "github", "headers": {"X-GitHub-Event": "x"}},
            "/headers/X-GitHub-Event",
            "written by the contract",
        ),
        ({"contract": "cloudevents", "secret": SECRET}, "/secret", "signs nothing"),
    ],
)
async def test_an_endpoint_is_judged_by_its_own_contract(
    tmp_path: Path, fields: dict[str, Any], pointer: str, words: str
) -> None:
    """Its name, its headers and its secrets: each mistake is said where it stands."""
    async with Varied(tmp_path) as stack:
        wanted = {"url": "https://example.com/", "application": "acme", **fields}
        status, refused = await stack.call("POST", ENDPOINTS, wanted)
        assert status == 422, refused
        assert [
            issue["message"] for issue in refused["errors"] if issue["pointer"] == pointer and words in issue["message"]
        ]


async def test_a_contract_that_signs_brings_a_secret_along(tmp_path: Path) -> None:
    """An endpoint that signed nothing gets a secret with its new contract; secrets that this cannot use are refused."""
    async with Receiver() as receiver, Varied(tmp_path) as stack:
        assert (await stack.add(receiver, "cloudevents", "hook"))["secret"] is None
        status, changed = await stack.patch("hook", contract="github")
        assert (status, changed["secrets"]) == (200, 1)
        event = await stack.post("order.paid", {"order": 1})
        await stack.settled(event["id"], "delivered")
        assert is_signed(receiver.received[0], "github", changed["secret"], stack)
        await stack.call("POST", f"{ENDPOINTS}/hook/rotate-secret", {"secret": GITHUB})
        status, refused = await stack.patch("hook", contract="standard")
        assert (status, refused["errors"][0]["pointer"]) == (422, "/contract")
        assert GITHUB not in json.dumps(refused)


# -- tenants, the file, moving, tests ----------------------------------------------------------------------------------


TENANT = """
[[token]]
name = "acme-app"
role = "application"
application = "acme"
secret = "application-token-0123456789"
"""


async def test_tenants_choose_among_the_contracts_that_are_open_to_them(tmp_path: Path) -> None:
    """What is the operator's business under a contract stays his; other contracts' names are not told."""
    async with Receiver() as receiver, Varied(tmp_path, extra=TENANT) as stack:

        async def asked(method: str, path: str, **fields: Any) -> tuple[int, Any]:
            return await stack.call(method, path, fields, token="application-token-0123456789")

        assert (await asked("POST", ENDPOINTS, url=receiver.url, contract="cloudevents"))[0] == 201
        for name in ("rotor", "nope"):
            status, refused = await asked("POST", ENDPOINTS, url=receiver.url, contract=name)
            assert (status, refused["errors"][0]["pointer"]) == (422, "/contract")
            assert "standard" not in refused["errors"][0]["message"]
        await stack.add(receiver, "rotor", "theirs", event_types=["*"])
        assert (await asked("PATCH", f"{ENDPOINTS}/theirs", description="mine"))[1]["type"] == "operator_only"
        assert (await asked("DELETE", f"{ENDPOINTS}/theirs"))[0] == 403


async def test_the_file_names_contracts_of_endpoints(tmp_path: Path) -> None:
    """A reload takes another contract over, and is refused for one that is gone, as long as an endpoint has it."""
    async with Receiver() as receiver:
        hooks = {"hook": receiver.url}
        own = {"endpoint_settings": 'contract = "narrow"\nevent_types = ["order.paid"]'}
        async with Varied(tmp_path, endpoints=hooks, **own) as stack:
            first = await stack.post("order.paid", {"order": "o_1"})
            await stack.settled(first["id"], "delivered")
            assert receiver.received[0].body == b'{"number":"o_1"}'
            stack.write_config(endpoints=hooks, endpoint_settings='contract = "github"')
            assert (await stack.call("POST", "/v1/reload"))[0] == 200
            second = await stack.post("order.paid", {"order": "o_2"})
            await stack.settled(second["id"], "delivered")
            assert is_signed(receiver.received[1], "github", SECRET, stack)
            stack.write_config(endpoints=hooks, endpoint_settings='contract = "githup"')
            status, refused = await stack.call("POST", "/v1/reload")
            assert (status, "githup" in json.dumps(refused)) == (422, True)
            stack.write_config(endpoints=hooks)
            await stack.add(receiver, "narrow", "made", event_types=["order.paid"])
            (tmp_path / "contracts" / "narrow.toml").unlink()
            status, refused = await stack.call("POST", "/v1/reload")
            assert (status, "'narrow', which there is not" in json.dumps(refused)) == (422, True)


async def test_contracts_of_endpoints_move_out_and_in(tmp_path: Path) -> None:
    """An export names them, an import takes them, and one that is unknown there is a mistake of its line."""
    async with Receiver() as receiver, Varied(tmp_path) as stack:
        await stack.add(receiver, "github", "hook", secret=GITHUB)
        lines = (await stack.call("GET", "/v1/export?secrets=true"))[1]["data"]
        (line,) = [line["endpoint"] for line in lines if "endpoint" in line]
        assert line["contract"] == "github"
        head = lines[0]
        moved = [head, {"endpoint": line | {"id": "other"}}, {"endpoint": line | {"id": "third", "contract": "githup"}}]
        status, refused = await stack.call("POST", "/v1/import", {"lines": moved})
        assert (status, [issue["pointer"] for issue in refused["errors"]]) == (422, ["/lines/2/endpoint/contract"])
        assert (await stack.call("POST", "/v1/import", {"lines": moved[:2]}))[0] == 200
        event = await stack.post("order.paid", {"order": 1})
        await stack.states(event["id"])
        assert [is_signed(request, "github", GITHUB, stack) for request in receiver.received] == [True, True]
        changed = [head, {"endpoint": {k: v for k, v in line.items() if k != "secrets"} | {"contract": "standard"}}]
        status, refused = await stack.call("POST", "/v1/import", {"lines": changed, "update": True})
        assert (status, refused["errors"][0]["pointer"]) == (422, "/lines/1/endpoint/contract")


async def test_a_test_goes_in_the_shape_of_the_endpoint(tmp_path: Path) -> None:
    """Its own contract writes it, with its example, or where it lists nothing of the kind, with that of the application's."""
    async with Receiver() as receiver, Varied(tmp_path) as stack:
        await stack.add(receiver, "narrow", "closed", event_types=["order.paid"], secret=SECRET)
        await stack.add(receiver, "cloudevents", "open")
        for name, named in (("closed", {}), ("open", {"type": "webhook.test"})):
            status, answer = await stack.call("POST", f"{ENDPOINTS}/{name}/test", named)
            assert (status, answer["delivered"]) == (200, True)
        closed, cloud = receiver.received
        assert (closed.body, is_signed(closed, "narrow", SECRET, stack)) == (b'{"number":"o_1"}', True)
        assert json.loads(cloud.body)["data"] == {"message": "This is a test."}
        _, listed = await stack.call("GET", "/v1/event-types?endpoint=closed")
        assert (listed["contract"], [one["name"] for one in listed["data"]]) == ("narrow", ["order.paid", "order.lost"])
        assert (await stack.call("GET", "/v1/event-types/order.lost?endpoint=closed"))[0] == 200
        assert (await stack.call("GET", "/v1/event-types?endpoint=nope"))[0] == 404
