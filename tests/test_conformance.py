"""Receivers written as the five services document them take what the running relay sends, and nothing else.

VideoAiditor's and Editframe's run in Node (tests/node/receivers.js), Roughy's is the official Svix library, Rotor's and
Wochit's check the documented shape (tests/support/documented.py). None of them knows our contracts.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import documented
from tests.support.daemon import TOKEN, Daemon, config_text
from tests.support.five import (
    SERVICES,
    SVIX_SECRET,
    TEXT_SECRET,
    all_delivered,
    application,
    catalogue,
    event,
    send_all,
)
from tests.support.node_receivers import NodeReceivers, Seen, needs_node
from tests.support.receiver import Answer, Received, Receiver
from tests.support.stack import Stack

TYPES = {name: [posting.type for posting in catalogue(name)] for name in SERVICES}
PYTHON: dict[str, Callable[[Received], Answer]] = {
    "rotor": documented.rotor,
    "roughy": documented.roughy(SVIX_SECRET),
    "wochit": documented.wochit,
}
HOOKS = {"videoaiditor": ("videoaiditor",), "editframe": ("editframe-raw", "editframe-stringify")}
KEYS = {"rotor": "event", "videoaiditor": "event", "editframe": "topic"}
OTHER_SECRETS = {"roughy": "whsec_" + "A" * 32, "videoaiditor": "another-secret", "editframe": "another-secret"}


@pytest.fixture
def node() -> Iterator[NodeReceivers]:
    with NodeReceivers(videoaiditor=TEXT_SECRET, editframe=TEXT_SECRET) as receivers:
        yield receivers


def type_of(service: str, body: bytes) -> str:
    return str(json.loads(body)[KEYS.get(service, "type")])


async def replayed(url: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
    """Send a request again, perhaps altered, straight to its receiver."""
    kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
    async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=kept) as response:
        return response.status, await response.text()


# -- every event of each catalogue -------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", sorted(PYTHON))
async def test_python_receivers_take_every_event(tmp_path: Path, service: str) -> None:
    """Rotor's, Roughy's and Wochit's receivers answer 200 to each type of the catalogue (ROT-7, ROT-10 … ROT-19, ROU-1,
    ROU-10 … ROU-17, WOC-1, WOC-3 … WOC-7, WOC-9, WOC-13)."""
    async with (
        Receiver(default=PYTHON[service]) as receiver,
        Stack(tmp_path, extra=application(service, receiver.url)) as stack,
    ):
        sent = await send_all(stack.call, service)
        await all_delivered(stack.call, service, len(sent))
        received = receiver.received

    assert sent == TYPES[service]
    assert sorted(type_of(service, request.body) for request in received) == sorted(sent)


@needs_node
async def test_videoaiditors_verifier_takes_every_event(tmp_path: Path, node: NodeReceivers) -> None:
    """The documented verification answers 200 "OK" to both events, whose bodies are what JSON.stringify gives (VAI-1,
    VAI-2, VAI-6 … VAI-10, VAI-12)."""
    async with Stack(tmp_path, extra=application("videoaiditor", node.url("videoaiditor"))) as stack:
        sent = await send_all(stack.call, "videoaiditor")
        await all_delivered(stack.call, "videoaiditor", len(sent))
        seen = node.received()

    assert [(request.status, request.threw) for request in seen] == [(200, None)] * 2
    assert {type_of("videoaiditor", request.body) for request in seen} == {"render.completed", "render.failed"}
    assert node.tally()["differing"] == 0
    for request in seen:
        assert request.method == "POST"
        assert not {"x-signature-2", "content-encoding"} & set(request.headers)
        assert list(json.loads(request.body)) == ["event", "data"]


@needs_node
async def test_editframes_samples_take_every_topic(tmp_path: Path, node: NodeReceivers) -> None:
    """Those that hash the raw body and those that hash JSON.stringify(req.body) answer 200 to all 12 topics, and each
    body is the documented interface (EDF-1 … EDF-10, EDF-14, EDF-15)."""
    urls = [node.url(hook) for hook in HOOKS["editframe"]]
    async with Stack(tmp_path, extra=application("editframe", *urls)) as stack:
        sent = await send_all(stack.call, "editframe", endpoints=2)
        await all_delivered(stack.call, "editframe", 2 * (len(sent) - 1))  # a test leaves no delivery
        seen = node.received()

    assert {(request.status, request.threw) for request in seen} == {(200, None)}
    for hook in HOOKS["editframe"]:
        bodies = [request.body for request in seen if request.path == f"/{hook}"]
        assert sorted(map(documented.editframe_shape, bodies)) == sorted(TYPES["editframe"])
    assert len(TYPES["editframe"]) == 12


# -- negative controls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", sorted(OTHER_SECRETS))
@needs_node
async def test_another_secret_is_refused(tmp_path: Path, node: NodeReceivers, service: str) -> None:
    """Negative control: signed with another secret, the same event is refused by the same receiver (ROU-16, VAI-10,
    EDF-3)."""
    posting = next(catalogue(service))
    async with Receiver(default=documented.roughy(SVIX_SECRET)) as receiver:
        url = node.url(HOOKS[service][0]) if service in HOOKS else receiver.url
        text = application(service, url, secret=OTHER_SECRETS[service])
        async with Stack(tmp_path, extra=text) as stack:
            status, answer = await stack.call("POST", "/v1/events", event(service, posting.type, posting.data))
            assert status == 202, answer
            delivery = await stack.attempted(answer["id"], 1)

    (attempt,) = delivery["timeline"]
    assert attempt["status"] == (401 if service in HOOKS else 400)
    assert delivery["state"] == "due"


async def first_request(tmp_path: Path, service: str, node: NodeReceivers, receiver: Receiver) -> tuple[str, Seen]:
    """Deliver the first event of a catalogue; return where it went, and the request."""
    url = node.url(HOOKS[service][0]) if service in HOOKS else receiver.url
    posting = next(catalogue(service))
    async with Stack(tmp_path, extra=application(service, url)) as stack:
        status, answer = await stack.call("POST", "/v1/events", event(service, posting.type, posting.data))
        assert status == 202, answer
        await stack.settled(answer["id"], "delivered")
    if service in HOOKS:
        return url, node.received()[0]
    got = receiver.received[0]
    return url, Seen(got.method, got.path, dict(got.headers), got.body, 200, None)


ALTERED = {
    "rotor": (b'"frame_rate":30.0', b'"frame_rate":30'),
    "roughy": (b'"cut.completed"', b'"cut.failed"'),
    "videoaiditor": (b'"videoVersion":1', b'"videoVersion":2'),
    "wochit": (b'"videoUrl"', b'"videoURL"'),
    "editframe": (b'"fps":30', b'"fps":31'),
}


@pytest.mark.parametrize("service", SERVICES)
@needs_node
async def test_an_altered_body_is_refused(tmp_path: Path, node: NodeReceivers, service: str) -> None:
    """Negative control: a request is taken again as it was, and refused with one thing in its body changed."""
    async with Receiver(default=PYTHON.get(service, 500)) as receiver:
        url, request = await first_request(tmp_path, service, node, receiver)
        before, after = ALTERED[service]
        assert request.body.count(before) == 1

        assert (await replayed(url, request.headers, request.body))[0] == 200
        assert (await replayed(url, request.headers, request.body.replace(before, after)))[0] in (400, 401)


@needs_node
async def test_what_the_documented_code_does_with_other_requests(tmp_path: Path, node: NodeReceivers) -> None:
    """As printed it throws at every request, for Node writes names of headers in lower case: the one correction is
    needed. A signature of another length makes it throw, so the relay sends exactly one of 64 digits (VAI-7)."""
    async with Receiver() as receiver:
        url, request = await first_request(tmp_path, "videoaiditor", node, receiver)
    signature = request.headers["x-signature"]
    longer = request.headers | {"x-signature": f"{signature}, {signature}"}

    assert len(signature) == 64
    assert (await replayed(node.url("videoaiditor-as-printed"), request.headers, request.body))[0] == 500
    assert (await replayed(url, longer, request.body))[0] == 500
    assert (await replayed(url, request.headers | {"x-signature": signature.upper()}, request.body))[0] == 401
    threw = [entry.threw for entry in node.received()]
    assert threw == ["ERR_INVALID_ARG_TYPE", "ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH", None]


# -- through the daemon ------------------------------------------------------------------------------------------------


@needs_node
@pytest.mark.slow
async def test_one_daemon_stands_behind_all_five(tmp_path: Path, node: NodeReceivers) -> None:
    """One `relay serve` with five applications: every receiver answers 200 to every event of its own catalogue and gets
    none of another's, whose types have the same names (ROT-1, ROT-2, ROU-20, VAI-1, WOC-1, EDF-1)."""
    async with (
        Receiver(default=PYTHON["rotor"]) as rotor,
        Receiver(default=PYTHON["roughy"]) as roughy,
        Receiver(default=PYTHON["wochit"]) as wochit,
    ):
        receivers = {"rotor": rotor, "roughy": roughy, "wochit": wochit}
        urls = {name: [receiver.url] for name, receiver in receivers.items()}
        urls |= {name: [node.url(hook) for hook in hooks] for name, hooks in HOOKS.items()}
        extra = "\n".join(application(name, *urls[name]) for name in SERVICES)
        with Daemon(tmp_path, config_text(tmp_path, extra=extra)) as daemon:
            await _drive(daemon, {name: len(found) for name, found in urls.items()})
            assert await asyncio.to_thread(daemon.stop) == 0
        seen = {name: [request.body for request in receiver.received] for name, receiver in receivers.items()}
    requests = node.received()
    assert {(request.status, request.threw) for request in requests} == {(200, None)}
    for name, hooks in HOOKS.items():
        seen[name] = [request.body for request in requests if request.path == f"/{hooks[0]}"]
    for name in SERVICES:
        assert sorted(type_of(name, body) for body in seen[name]) == sorted(TYPES[name])


async def _drive(daemon: Daemon, endpoints: dict[str, int]) -> None:
    """Send every catalogue through TCP, and wait until all of it is delivered."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:

        async def call(method: str, path: str, body: Any) -> tuple[int, Any]:
            headers = {"Content-Type": "application/json"}
            async with http.request(method, daemon.url + path, data=body, headers=headers) as response:
                return response.status, await response.json(content_type=None)

        for name, count in endpoints.items():
            await send_all(call, name, endpoints=count)
            tests = sum(posting.test_only for posting in catalogue(name))
            await all_delivered(call, name, count * (len(TYPES[name]) - tests))
