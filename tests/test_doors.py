"""Wrong input through every door of a real daemon: one clear answer with a remedy, nothing stored, no traceback."""

import gzip
import http.client
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from relay.cli.client import Refused
from tests.support.daemon import PRODUCER_TOKEN, TOKEN, Daemon, config_text

pytestmark = pytest.mark.slow

EVENTS = "/v1/events"
BATCH = "/v1/events/batch"
ENDPOINTS = "/v1/webhook-endpoints"
JSON = {"Content-Type": "application/json"}
SOUND = {"type": "render.completed", "data": {"n": 1}}


class Told(NamedTuple):
    """What the daemon answered."""

    status: int
    problem: dict[str, Any]
    headers: dict[str, str]

    @property
    def slug(self) -> str:
        return str(self.problem["type"]).rpartition("/")[2]

    @property
    def words(self) -> str:
        """Everything a person reads."""
        mistakes = [f"{mistake['pointer']} {mistake['message']}" for mistake in self.problem.get("errors", ())]
        return " ".join([self.problem["detail"], *mistakes])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that every test of this file throws something at. At the end nothing was stored and nothing had failed."""
    folder = tmp_path_factory.mktemp("doors")
    text = config_text(folder, endpoints={"primary": "http://127.0.0.1:9/"}, extra='[[application]]\nid = "other"\n')
    with Daemon(folder, text) as running:
        yield running
        assert running.api.get(EVENTS)["data"] == []
        assert [endpoint["id"] for endpoint in running.api.get(ENDPOINTS)["data"]] == ["primary"]
        assert running.api.get("/v1/status")["due"] == 0
        assert running.stop() == 0
        assert "Traceback" not in running.log()
        assert [record for record in running.log_records() if record["level"] == "error"] == []
        assert "shibboleth" not in running.log()  # a payload never reaches the log (invariant 13)


def call(
    daemon: Daemon,
    method: str,
    path: str,
    body: bytes | object = None,
    *,
    token: str | None = TOKEN,
    headers: dict[str, str] | None = None,
) -> Told:
    """Make one call over TCP, and require that the answer is a problem with a remedy (RFC 9457)."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    sent = {**JSON, **({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, body=data, headers=sent)
        response = connection.getresponse()
        told = Told(response.status, json.loads(response.read()), {k.lower(): v for k, v in response.getheaders()})
    finally:
        connection.close()
    assert told.headers["content-type"] == "application/problem+json"
    assert told.problem["status"] == told.status
    assert told.problem["title"]
    assert told.problem["detail"]
    assert "Traceback" not in str(told.problem)
    return told


NOT_JSON = [
    b"",
    b"{",
    b'{"type": "a.b", "data": {}',
    b'{"type": "a.b", "data": NaN}',
    b"{'type': 'a.b'}",
    b'{"type": "a.b", "data": {}} trailing',
    b'{"type": "a.b", "data": "\xff"}',
    b"\xef\xbb\xbf\xff",
]


@pytest.mark.parametrize("path", [EVENTS, BATCH])
@pytest.mark.parametrize("body", NOT_JSON)
def test_malformed_json(daemon: Daemon, path: str, body: bytes) -> None:
    """What is not JSON, or not UTF-8, is 400 and says so; a batch that does not begin as an array is 422."""
    told = call(daemon, "POST", path, body)
    assert told.status == (422 if path == BATCH and body.startswith(b"{") and b"\xff" not in body else 400)


@pytest.mark.parametrize(
    ("path", "body"), [(EVENTS, b"[]"), (EVENTS, b"1"), (EVENTS, b"null"), (BATCH, b"{}"), (BATCH, b'"x"')]
)
def test_another_json_value(daemon: Daemon, path: str, body: bytes) -> None:
    """JSON of another shape is 422."""
    assert call(daemon, "POST", path, body).status == 422


@pytest.mark.parametrize(
    ("token", "headers"),
    [
        (None, {}),
        ("wrong", {}),
        (TOKEN + "x", {}),
        (None, {"Authorization": "Basic dXNlcjpwYXNz"}),
        (None, {"Authorization": "Bearer"}),
    ],
)
@pytest.mark.parametrize("path", [EVENTS, BATCH, ENDPOINTS])
def test_a_wrong_token(daemon: Daemon, path: str, token: str | None, headers: dict[str, str]) -> None:
    """Without a token of ours every call is 401, whatever else is wrong with it, and nothing of it is repeated."""
    told = call(daemon, "POST", path, b"{shibboleth", token=token, headers=headers)
    assert told.status == 401
    assert "Bearer" in told.headers["www-authenticate"]
    assert "shibboleth" not in str(told.problem)


def test_a_token_without_the_right(daemon: Daemon) -> None:
    """A producer may not make endpoints: 403, and which roles may."""
    told = call(daemon, "POST", ENDPOINTS, {"url": "https://example.com/"}, token=PRODUCER_TOKEN)
    assert told.status == 403
    assert "admin" in told.words


@pytest.mark.parametrize("event_type", ["", "no spaces", "a..b", ".a", "a.", "ä.b", "a" * 257, "a/b", "a.b\n", 7, None])
def test_an_unknown_type(daemon: Daemon, event_type: object) -> None:
    """A type outside the contract's grammar is 422 at `/type`, with what the grammar is."""
    told = call(daemon, "POST", EVENTS, {"type": event_type, "data": {}}, token=PRODUCER_TOKEN)
    assert (told.status, [mistake["pointer"] for mistake in told.problem["errors"]]) == (422, ["/type"])


def test_a_body_of_two_mebibytes(daemon: Daemon) -> None:
    """More than `max_body` is 413, declared or not, and names the setting."""
    body = json.dumps({"type": "a.b", "data": "x" * (2 << 20)}).encode()
    declared = call(daemon, "POST", EVENTS, body)
    streamed = streamed_call(daemon, body)
    for told in (declared, streamed):
        assert (told.status, told.slug) == (413, "body_too_large")
        assert "server.max_body" in told.words


def streamed_call(daemon: Daemon, body: bytes) -> Told:
    """Send a body in chunks, without its length."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    headers = {**JSON, "Authorization": f"Bearer {TOKEN}"}
    try:
        connection.request("POST", EVENTS, body=pieces, headers=headers, encode_chunked=True)
        response = connection.getresponse()
        return Told(response.status, json.loads(response.read()), dict(response.getheaders()))
    finally:
        connection.close()


def test_an_unknown_application(daemon: Daemon) -> None:
    """An application that is not configured is refused at its pointer; one must be named where there are several."""
    unknown = call(daemon, "POST", EVENTS, {**SOUND, "application": "nope"})
    unnamed = call(daemon, "POST", EVENTS, SOUND)
    foreign = call(daemon, "POST", EVENTS, {**SOUND, "application": "other"}, token=PRODUCER_TOKEN)
    for told in (unknown, unnamed, foreign):
        assert told.status == 422
        assert [mistake["pointer"] for mistake in told.problem["errors"]] == ["/application"]
    assert "acme, other" in unknown.words
    assert "acme, other" in unnamed.words


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Content-Length": "5"}, "Content-Length"),
        ({"Host": "x"}, "Host"),
        ({"webhook-id": "x"}, "webhook-id"),
        ({"Bad Name": "x"}, "Bad Name"),
        ({"X:Y": "x"}, "X:Y"),
        ({"X-Fine": "a\r\nX-Evil: 1"}, "X-Fine"),
        ({"X-Fine": "ä"}, "X-Fine"),
        ({"": "x"}, ""),
        ({"X" * 65: "x"}, "X" * 65),
    ],
)
def test_bad_headers_of_an_endpoint(daemon: Daemon, headers: dict[str, str], says: str) -> None:
    """A header that could change the framing, forge the signature or break the syntax is 422 (reliability §3.5, §7.19)."""
    told = call(daemon, "POST", ENDPOINTS, {"url": "https://example.com/", "application": "acme", "headers": headers})
    assert told.status == 422
    assert told.problem["errors"][0]["pointer"].startswith("/headers")
    assert says[:20] in told.words


BAD_URLS = [
    "",
    "example.com",
    "ftp://example.com/",
    "https://",
    "https://user:pw@example.com/",
    "https://exa mple.com/",
    "https://169.254.169.254/latest",
    "javascript:alert(1)",
    "https://example.com:0/",
    "https://10.0.0.1/",
    7,
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_of_an_endpoint(daemon: Daemon, url: object) -> None:
    """A URL that is none, carries a password or names a forbidden address is 422 at `/url` (reliability §7.15, §7.18)."""
    told = call(daemon, "POST", ENDPOINTS, {"url": url, "application": "acme"})
    assert (told.status, told.problem["errors"][0]["pointer"]) == (422, "/url")
    assert "pw@" not in told.words


def test_every_mistake_of_an_endpoint_at_once(daemon: Daemon) -> None:
    """Each wrong member has its pointer, and an unknown one is refused too."""
    wrong = {
        "url": 7,
        "timeout": "never",
        "concurrency": 0,
        "rate_limit": "fast",
        "event_types": [],
        "colour": 1,
    }
    told = call(daemon, "POST", ENDPOINTS, {"application": "acme", **wrong})
    assert {mistake["pointer"].split("/")[1] for mistake in told.problem["errors"]} == set(wrong)


@pytest.mark.parametrize("path", [EVENTS, BATCH, ENDPOINTS])
@pytest.mark.parametrize("depth", [201, 100_000])
def test_deep_json(daemon: Daemon, path: str, depth: int) -> None:
    """Nesting beyond `max_depth` is 400 and exhausts no stack (reliability §3.3)."""
    deep = b"[" * depth + b"]" * depth
    event = b'{"type": "a.b", "application": "acme", "data": ' + deep + b"}"
    body = b"[" * depth + b"]" * depth if path == ENDPOINTS else b"[" + event + b"]" if path == BATCH else event
    told = call(daemon, "POST", path, body)
    assert told.status == (422 if path == ENDPOINTS and depth == 201 else 400)  # an array, and not too deep to read


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Encoding": "gzip"},
    ],
)
@pytest.mark.parametrize("path", [EVENTS, ENDPOINTS])
def test_a_wrong_content_type(daemon: Daemon, path: str, headers: dict[str, str]) -> None:
    """Another media type, charset or encoding is 415 before anything is read of it."""
    body = gzip.compress(json.dumps(SOUND).encode()) if "Content-Encoding" in headers else json.dumps(SOUND).encode()
    assert call(daemon, "POST", path, body, headers=headers).status == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/events/evt_nothing", 404),
        ("GET", "/v1/deliveries/dlv_nothing", 404),
        ("GET", f"{ENDPOINTS}/nothing", 404),
        ("POST", "/v1/deliveries/dlv_nothing/retry", 404),
        ("POST", f"{ENDPOINTS}/nothing/pause", 404),
        ("DELETE", EVENTS, 405),
        ("PUT", f"{ENDPOINTS}/primary", 405),
        ("PATCH", f"{ENDPOINTS}/primary", 409),
        ("DELETE", f"{ENDPOINTS}/primary", 409),
        ("POST", f"{ENDPOINTS}/primary/rotate-secret", 409),
        ("GET", f"{EVENTS}?limit=0", 422),
        ("GET", f"{EVENTS}?limit=many", 422),
        ("GET", f"{EVENTS}?colour=red", 422),
        ("GET", "/v1/deliveries?state=lost", 422),
        ("GET", "/v1/deliveries?cursor=%00", 400),
    ],
)
def test_wrong_paths_methods_and_questions(daemon: Daemon, method: str, path: str, status: int) -> None:
    """What is not there is 404, a wrong method 405, what the file manages 409, a wrong question 4xx, each with words."""
    body = {"description": "x"} if method in ("PATCH", "PUT") else {} if method == "POST" else None
    told = call(daemon, method, path, body)
    assert told.status == status


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"data": ...}, "/data"),
        ({"id": "has space"}, "/id"),
        ({"id": "x" * 65}, "/id"),
        ({"idempotency_key": ""}, "/idempotency_key"),
        ({"idempotency_key": "x" * 1_000}, "/idempotency_key"),
        ({"timestamp": "yesterday"}, "/timestamp"),
        ({"deliver_at": "2999-01-01T00:00:00Z"}, "/deliver_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"metadata": "text"}, "/metadata"),
        ({"shade": "red"}, "/shade"),
        ({"application": 7}, "/application"),
    ],
)
def test_wrong_members_of_an_event(daemon: Daemon, wrong: dict[str, object], pointer: str) -> None:
    """Each member of an event has its rule, and its pointer when it breaks it."""
    event = {name: value for name, value in {**SOUND, **wrong}.items() if value is not ...}
    told = call(daemon, "POST", EVENTS, event, token=PRODUCER_TOKEN)
    assert (told.status, pointer in [mistake["pointer"] for mistake in told.problem["errors"]]) == (422, True)


def test_a_batch_that_is_too_long(daemon: Daemon) -> None:
    """More than `max_batch` events are 413, all of them."""
    assert call(daemon, "POST", BATCH, [SOUND] * 1_001, token=PRODUCER_TOKEN).status == 413


def test_a_batch_takes_no_key_of_its_own(daemon: Daemon) -> None:
    """One key cannot mean many events."""
    told = call(daemon, "POST", BATCH, [SOUND], token=PRODUCER_TOKEN, headers={"Idempotency-Key": "k"})
    assert told.status in (400, 422)


def test_the_client_says_what_the_daemon_says(daemon: Daemon) -> None:
    """Over the Unix socket too a mistake is a sentence, not a stack."""
    with pytest.raises(Refused, match="/type"):
        daemon.api.post(EVENTS, {"type": "no spaces", "data": {}, "application": "acme"})


def test_bytes_that_are_no_http(daemon: Daemon) -> None:
    """A connection that speaks something else is answered once, or closed, and nothing else happens."""
    import socket

    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"\x00" * 1_000,
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: raw.recv(65_536), b""))
        assert answer == b"" or answer.split(b" ")[1] == b"400"
