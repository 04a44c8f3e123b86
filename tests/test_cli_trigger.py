"""`relay trigger`: examples of the catalogue as real events, and as tests of one endpoint."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.output import Exit
from relay.contracts import ContractCatalogue
from tests.support.api_stub import ApiStub
from tests.support.daemon import PRODUCER_TOKEN, SECRET, Daemon, config_text

pytestmark = pytest.mark.slow

EXAMPLE = b'{"fps": 30.0, "id" : "r1"}'
LISTED: dict[str, Any] = {"name": "render.completed", "test_only": False, "example": {}}
ACCEPTED = {"id": "evt_1", "type": "render.completed", "deliveries": 2, "duplicate": False}


class Hooks:
    """A receiver in a thread: answers 204, and 500 below `/fail`; remembers the bodies by path."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {}
        hooks = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hooks.bodies.setdefault(self.path, []).append(body)
                status, answer = (500, b"out of paper") if self.path.startswith("/fail") else (204, b"")
                self.send_response(status)
                if answer:
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def application(name: str, contract: str, **endpoints: str) -> str:
    """Write an application with endpoints, id → URL."""
    secret = "" if contract == "wochit" else f'secret = "{SECRET}"\n'
    written = "".join(
        f'[[application.endpoint]]\nid = "{endpoint_id}"\nurl = "{url}"\n{secret}'
        for endpoint_id, url in endpoints.items()
    )
    return f'[[application]]\nid = "{name}"\ncontract = "{contract}"\n{written}\n'


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    hooks = Hooks()
    yield hooks
    hooks.close()


@pytest.fixture(scope="module")
def running(hooks: Hooks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    extra = application("edit", "editframe", edit=f"{hooks.url}/edit")
    extra += application("half", "editframe", half_up=f"{hooks.url}/half", half_down=f"{hooks.url}/fail")
    extra += application("held", "editframe", held=f"{hooks.url}/held")
    extra += application("empty", "editframe")
    with Daemon(folder, config_text(folder, endpoints={"primary": f"{hooks.url}/acme"}, extra=extra)) as daemon:
        daemon.api.post("/v1/webhook-endpoints/held/pause")
        yield daemon


@pytest.fixture
def daemon(running: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """The daemon that the tests of this file share; each reads its own path of the receiver."""
    monkeypatch.setenv("RELAY_SOCKET", str(running.socket_path))
    for name in ("RELAY_TOKEN", "RELAY_URL"):
        monkeypatch.delenv(name, raising=False)
    return running


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiStub]:
    stub = ApiStub()
    monkeypatch.setenv("RELAY_URL", stub.url)
    monkeypatch.delenv("RELAY_SOCKET", raising=False)
    stub.answer("POST", "/v1/events", ACCEPTED)
    entry = json.dumps(LISTED).encode().replace(b'"example": {}', b'"example": ' + EXAMPLE)
    stub.answer("GET", "/v1/event-types/render.completed", entry)
    yield stub
    stub.close()


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["trigger", *words], input=stdin, catch_exceptions=False)


# -- what is asked of the daemon -------------------------------------------------------------------------------------------


def test_the_example_is_posted_byte_for_byte(api: ApiStub) -> None:
    """The example keeps its spelling (ROT-16), and a key of its own keeps a second trigger from being a repetition."""
    first, second = run("render.completed"), run("render.completed")
    posted = [asked for asked in api.asked if asked.method == "POST"]
    assert (first.exit_code, second.exit_code) == (Exit.FINE, Exit.FINE)
    assert first.stdout == "evt_1 accepted: 2 deliveries.\n"
    assert all(EXAMPLE in event.body for event in posted)
    assert [event.json["type"] for event in posted] == ["render.completed"] * 2
    assert len({event.json["idempotency_key"] for event in posted}) == 2


def test_the_application_is_named(api: ApiStub) -> None:
    """`--application` says whose catalogue and whose event."""
    api.answer("GET", "/v1/event-types/render.completed?application=acme", LISTED)
    assert run("render.completed", "--application", "acme").exit_code == Exit.FINE
    assert api.asked[-1].json["application"] == "acme"


def test_members_are_set(api: ApiStub) -> None:
    """Values are JSON, or else text; members that are not there are made; the rest stays as it is written."""
    changes = ["data.id=r2", "data.fps=25", "data.deep.list=[1, 2]", "data.deep.list.1=x=y", "metadata.ctx=true"]
    changes += ["data.none=null", 'data.quoted="7"', "ordering_key=7a", "data.empty=", "data.nan=NaN"]
    result = run("render.completed", *(word for change in changes for word in ("--set", change)))
    assert result.exit_code == Exit.FINE, result.stderr
    event = api.asked[-1].json
    assert event["data"] == {
        "fps": 25,
        "id": "r2",
        "deep": {"list": [1, "x=y"]},
        "none": None,
        "quoted": "7",
        "empty": "",
        "nan": "NaN",
    }
    assert (event["metadata"], event["ordering_key"]) == ({"ctx": True}, "7a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("fps=25", "such as data.fps"),
        ("data.fps", "PATH=VALUE"),
        ("data..fps=1", "PATH=VALUE"),
        ("data.id.x=1", "nothing inside"),
        ("type=other", "a path begins with data"),
    ],
)
def test_a_wrong_change_is_refused(api: ApiStub, change: str, said: str) -> None:
    """A path that leads nowhere is explained, and nothing is sent."""
    result = run("render.completed", "--set", change)
    assert result.exit_code in (Exit.USAGE, Exit.BAD_INPUT)
    assert said in result.stderr
    assert all(asked.method == "GET" for asked in api.asked)


def test_data_of_a_file_take_the_place_of_the_example(api: ApiStub, tmp_path: Path) -> None:
    """`--data-file` needs no catalogue, and what it holds is sent as it is, but for `--set`."""
    file = tmp_path / "data.json"
    file.write_text('{"n": 1e3,  "x": 1}')
    assert run("order.paid", "--data-file", str(file), "--set", "data.x=2").exit_code == Exit.FINE
    assert b'{"n": 1e3,  "x": 2}' in api.asked[-1].body
    assert run("order.paid", "--data-file", "-", stdin="[1.0]").exit_code == Exit.FINE
    assert b'"data":[1.0]' in api.asked[-1].body
    file.write_text("{")
    assert run("order.paid", "--data-file", str(file)).exit_code == Exit.BAD_INPUT
    file.write_bytes(b"\xff")
    assert run("order.paid", "--data-file", str(file)).exit_code == Exit.BAD_INPUT


def test_the_answer_is_printed_as_json(api: ApiStub) -> None:
    """`--json` prints what the daemon answered, and a problem as it came."""
    assert json.loads(run("render.completed", "--json").stdout) == ACCEPTED
    api.problem("GET", "/v1/event-types/rendr", 404, "There is no such thing", detail="did you mean 'render'?")
    result = run("rendr", "--json")
    assert (result.exit_code, json.loads(result.stderr)["detail"]) == (Exit.BAD_INPUT, "did you mean 'render'?")


def test_a_repetition_is_told(api: ApiStub) -> None:
    """With a key of one's own an event may be there already."""
    api.answer("POST", "/v1/events", ACCEPTED | {"duplicate": True})
    run("render.completed")
    result = run("render.completed", "--set", "idempotency_key=k")
    assert result.stdout == "evt_1 was accepted before; nothing was sent again.\n"


def test_help_lists_what_there_is() -> None:
    """`-h` lists the types of the built-in contracts, without a daemon."""
    words = run("-h").output.split()
    for name in ("editframe", "draft.delete", "order.finalized", "cut.completed,"):
        assert name in words, name


# -- with a daemon ---------------------------------------------------------------------------------------------------------


def test_an_event_is_delivered(daemon: Daemon, hooks: Hooks) -> None:
    """The example is a real event in the contract's shape; `--wait` says that it was delivered, and exits 0."""
    words = ["render.completed", "--application", "edit", "--wait", "--set", "data.fps=25"]
    for _ in range(2):  # a second one is no repetition of the first (EDF-19)
        result = run(*words)
        assert (result.exit_code, result.stdout.startswith("edit: delivered: 204 in ")) == (Exit.FINE, True), result
    contract = ContractCatalogue.load().get("editframe")
    assert contract is not None
    example = contract.types["render.completed"].example.replace(b'"fps":30', b'"fps":25')
    assert hooks.bodies["/edit"] == [b'{"topic":"render.completed","data":' + example + b"}"] * 2


def test_one_that_failed_is_told(daemon: Daemon) -> None:
    """A failed first attempt is an outcome: what was answered, when the next one is, and exit code 1."""
    result = run("render.failed", "--application", "half", "--wait")
    up, down = sorted(result.stdout.splitlines(), reverse=True)
    assert result.exit_code == Exit.FAILED
    assert up.startswith("half_up: delivered: 204 in ")
    assert down.startswith("half_down: not delivered: 500 in ")
    assert "(out of paper); due: its next attempt is not due yet (20" in down
    told = json.loads(run("render.failed", "--application", "half", "--wait", "--json").stdout)
    assert (told["delivered"], len(told["deliveries"]), told["event"]["duplicate"]) == (False, 2, False)
    assert {row["timeline"][0]["status"] for row in told["deliveries"]} == {204, 500}


@pytest.mark.parametrize(
    ("name", "said"),
    [("held", "held: due (held): the endpoint is paused\n"), ("empty", "deliveries: none: ")],
)
def test_what_waits_for_nothing_is_told(daemon: Daemon, name: str, said: str) -> None:
    """A held delivery, and an event that nobody subscribed to, are outcomes too: exit code 1."""
    result = run("file.ready", "--application", name, "--wait")
    assert (result.exit_code, result.stdout.startswith(said)) == (Exit.FAILED, True), result.stdout


def test_waiting_ends(api: ApiStub) -> None:
    """What has not begun when the time is over is shown as it is, with exit code 1."""
    row = {"id": "dlv_1", "endpoint": "ep", "state": "due", "attempts": 0, "held": False, "reason": None}
    wait = {"at": None, "why": "turn", "detail": "it is about to start"}
    api.answer("GET", "/v1/events/evt_1/deliveries", {"data": [row], "next": None})
    api.answer("GET", "/v1/deliveries/dlv_1", row | {"timeline": [], "next_attempt": wait})
    result = run("render.completed", "--wait", "--wait-for", "0")
    assert (result.exit_code, result.stdout) == (Exit.FAILED, "ep: due: it is about to start\n")


def test_one_endpoint_is_tested(daemon: Daemon, hooks: Hooks) -> None:
    """`--endpoint` sends it to that one alone, even if it is held, as a test: outcome printed, nothing stored (EDF-10)."""
    stored = len(daemon.api.get("/v1/events", application="held")["data"])
    own = run("webhook.test", "--endpoint", "held")
    changed = run("file.created", "--endpoint", "held", "--set", "data.filename=a b.mp4")
    failed = run("file.created", "--endpoint", "half_down", "--json")
    assert (own.exit_code, changed.exit_code, failed.exit_code) == (Exit.FINE, Exit.FINE, Exit.FAILED)
    assert own.stdout.startswith("delivered: 204 in ")
    assert "\n  Server: " in own.stdout
    first, second = hooks.bodies["/held"]
    assert first == b'{"topic":"webhook.test","data":{"id":"held","org_id":"held"}}'
    assert json.loads(second)["data"]["filename"] == "a b.mp4"
    assert json.loads(failed.stdout)["response"]["body"] == "out of paper"
    assert len(daemon.api.get("/v1/events", application="held")["data"]) == stored


def test_what_cannot_be_triggered_is_explained(daemon: Daemon) -> None:
    """An unknown type is answered with the nearest, a test-only one with `--endpoint`, wrong data with their place."""
    unknown = run("render.complete", "--application", "edit")
    assert (unknown.exit_code, "did you mean 'render.completed'?" in unknown.stderr) == (Exit.BAD_INPUT, True)
    at_endpoint = run("render.complete", "--endpoint", "edit")
    assert (at_endpoint.exit_code, "did you mean 'render.completed'?" in at_endpoint.stderr) == (Exit.BAD_INPUT, True)
    test_only = run("webhook.test", "--application", "edit")
    assert (test_only.exit_code, "--endpoint ID" in test_only.stderr) == (Exit.USAGE, True)
    wrong = run("file.created", "--endpoint", "edit", "--set", "data.status=new")
    assert (wrong.exit_code, "/data/status: must be" in wrong.stderr) == (Exit.BAD_INPUT, True)
    metadata = run("file.created", "--endpoint", "edit", "--set", "metadata.x=1")
    assert (metadata.exit_code, "a path begins with data," in metadata.stderr) == (Exit.USAGE, True)
    both = run("file.created", "--endpoint", "edit", "--application", "edit")
    assert (both.exit_code, "Leave --application out" in both.stderr) == (Exit.USAGE, True)
    several = run("file.created")
    assert (several.exit_code, "several applications" in several.stderr) == (Exit.FAILED, True)
    other = run("order.paid", "--application", "acme")
    assert (other.exit_code, "is open" in other.stderr) == (Exit.BAD_INPUT, True)


def test_a_producer_triggers_and_cannot_wait(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A producer's token posts the event; deliveries are not its to read, and that is said."""
    monkeypatch.delenv("RELAY_SOCKET")
    monkeypatch.setenv("RELAY_URL", daemon.url)
    monkeypatch.setenv("RELAY_TOKEN", PRODUCER_TOKEN)
    (tmp_path / "data.json").write_text('{"n": 1}')
    file = str(tmp_path / "data.json")
    assert run("order.paid", "--data-file", file).exit_code == Exit.FINE
    refused = run("order.paid", "--data-file", file, "--wait")
    assert (refused.exit_code, "evt_" in refused.stderr) == (Exit.NO_PERMISSION, True)
