"""The five services as a configuration, and every event of their catalogues as a producer would post it."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from relay.contracts import ContractCatalogue

SVIX_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TEXT_SECRET = "your-webhook-secret"
SERVICES = ("rotor", "roughy", "videoaiditor", "wochit", "editframe")
SECRETS = {"roughy": SVIX_SECRET, "videoaiditor": TEXT_SECRET, "editframe": TEXT_SECRET}
FEATURES = {"wochit": "features = { drafts = true, failures = true }"}
EVERYTHING = '["*", "unprocessed_file.created"]'

Call = Callable[[str, str, Any], Awaitable[tuple[int, Any]]]
"""Calls the API: method, path, body; answers with status and decoded body."""


class Posting(NamedTuple):
    """One event of a catalogue."""

    type: str
    data: bytes
    test_only: bool


def application(
    contract: str, *urls: str, name: str | None = None, settings: str = "", secret: str | None = None
) -> str:
    """Write an application, named as its contract unless `name` says otherwise, that has one endpoint for each URL."""
    name, secret = name or contract, secret or SECRETS.get(contract)
    lines = [f'[[application]]\nid = "{name}"\ncontract = "{contract}"\n{FEATURES.get(contract, "")}\n{settings}\n']
    for number, url in enumerate(urls, 1):
        selection = EVERYTHING if contract == "editframe" else '["*"]'
        lines.append(f'[[application.endpoint]]\nid = "{name}-{number}"\nurl = "{url}"\nevent_types = {selection}')
        lines.append(f'secret = "{secret}"\n' if secret else "")
    return "\n".join(lines)


def catalogue(contract: str) -> Iterator[Posting]:
    """Yield every listed type with its example; no two have the same render id (VAI-11)."""
    found = ContractCatalogue.load().get(contract)
    assert found is not None
    for name, listed in found.types.items():
        data = listed.example.replace(b'"render-id"', b'"' + name.encode() + b'"')
        yield Posting(name, data, listed.test_only)


async def send_all(call: Call, contract: str, *, application: str | None = None, endpoints: int = 1) -> list[str]:
    """Send every type of a catalogue, tests as tests, to an application of `application`; return the types in order."""
    name = application or contract
    sent = []
    for posting in catalogue(contract):
        sent.append(posting.type)
        if posting.test_only:
            for number in range(1, endpoints + 1):
                path = f"/v1/webhook-endpoints/{name}-{number}/test"
                status, outcome = await call("POST", path, b'{"type":"%s"}' % posting.type.encode())
                assert (status, outcome["delivered"]) == (200, True), outcome
            continue
        status, answer = await call("POST", "/v1/events", event(name, posting.type, posting.data))
        assert (status, answer.get("deliveries")) == (202, endpoints), (posting.type, answer)
    return sent


def event(application: str, type: str, data: bytes, more: bytes = b"") -> bytes:
    """Write what a producer posts; `more` are further members, each with its comma before it."""
    return b'{"application":"%s","type":"%s","data":%s%s}' % (application.encode(), type.encode(), data, more)


async def all_delivered(call: Call, application: str, count: int) -> None:
    """Wait until an application has `count` deliveries, all delivered; fail as soon as one attempt has failed."""
    found: list[dict[str, Any]] = []
    while [delivery["state"] for delivery in found] != ["delivered"] * count:
        status, answer = await call("GET", f"/v1/deliveries?application={application}&limit=250", None)
        assert (status, answer["next"]) == (200, None), answer
        found = answer["data"]
        for delivery in found:
            if delivery["state"] != "delivered" and delivery["attempts"]:
                raise AssertionError((await call("GET", f"/v1/deliveries/{delivery['id']}", None))[1])
