"""docs/PRODUCING.md: the outbox of the document loses nothing and repeats nothing, in Python and in Node."""

import asyncio
import json
import sqlite3
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest

from tests.support.daemon import PRODUCER_TOKEN
from tests.support.node_receivers import needs_node
from tests.support.receiver import Receiver
from tests.support.snippets import is_there, snippets
from tests.support.stack import Stack

SNIPPETS = snippets("PRODUCING.md")


class Outbox(Protocol):
    """An outbox of the document, with what a test wants to know."""

    def record(self, event_type: str, data: Any, **fields: Any) -> None: ...

    def drain(self, url: str) -> float:
        """Post once; how long to wait, in seconds."""
        ...

    def waiting(self) -> list[Any]: ...

    def problems(self) -> list[Any]: ...


class InPython:
    """The Python of the document, on a database file."""

    def __init__(self, folder: Path) -> None:
        space: dict[str, Any] = {}
        exec(SNIPPETS["outbox", "python"], space)
        self.code = SimpleNamespace(**space)
        self.path = folder / "outbox.db"
        with self._open() as db:
            db.execute(self.code.TABLE)

    def _open(self) -> "Closing":
        return Closing(self.path)

    def record(self, event_type: str, data: Any, **fields: Any) -> None:
        with self._open() as db:
            self.code.record(db, event_type, data, **fields)

    def drain(self, url: str) -> float:
        with self._open() as db:
            return float(self.code.drain(db, url, PRODUCER_TOKEN))

    def waiting(self) -> list[Any]:
        with self._open() as db:
            return [json.loads(row[0]) for row in db.execute("SELECT event FROM outbox WHERE problem IS NULL")]

    def problems(self) -> list[Any]:
        with self._open() as db:
            return [json.loads(row[0]) for row in db.execute("SELECT problem FROM outbox WHERE problem IS NOT NULL")]


class Closing:
    """A connection that commits and closes at the end of its block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        self._db = sqlite3.connect(self._path)
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.commit()
        self._db.close()


DRIVER = """
const [rows, url, token] = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const outbox = {
  oldest: async (limit) => rows.filter((row) => !row.problem).slice(0, limit),
  forget: async (number) => rows.splice(rows.findIndex((row) => row.number === number), 1),
  keepAside: async (number, problem) => { rows.find((row) => row.number === number).problem = problem; },
};
drain(outbox, url, token).then((wait) => console.log(JSON.stringify({ wait, rows })));
"""


class InNode:
    """The Node of the document; the table is in memory here."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "outbox.js"
        self._path.write_text(SNIPPETS["outbox", "node"] + DRIVER)
        self._rows: list[dict[str, Any]] = []
        self._number = 0

    def record(self, event_type: str, data: Any, **fields: Any) -> None:
        self._number += 1
        event = {"type": event_type, "data": data, "idempotency_key": f"key-{self._number}", **fields}
        self._rows.append({"number": self._number, "event": event})

    def drain(self, url: str) -> float:
        given = json.dumps([self._rows, url, PRODUCER_TOKEN])
        done = subprocess.run(["node", self._path], input=given, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        self._rows = answer["rows"]
        return float(answer["wait"]) / 1000

    def waiting(self) -> list[Any]:
        return [row["event"] for row in self._rows if "problem" not in row]

    def problems(self) -> list[Any]:
        return [row["problem"] for row in self._rows if "problem" in row]


MAKERS: dict[str, Callable[[Path], Outbox]] = {"python": InPython, "node": InNode}


@pytest.fixture(params=["python", pytest.param("node", marks=needs_node)])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Outbox:
    return MAKERS[request.param](tmp_path)


async def posted(outbox: Outbox, stack: Stack) -> float:
    return await asyncio.to_thread(outbox.drain, stack.url)


async def test_what_is_written_down_is_delivered_once(tmp_path: Path, outbox: Outbox) -> None:
    """Events leave the outbox when the relay has them; one that it never takes is kept aside with its problem."""
    outbox.record("render.completed", {"n": 1})
    outbox.record("render completed", {"n": 2})
    outbox.record("render.completed", {"n": 3})
    async with Receiver() as receiver, Stack(tmp_path, endpoints={"here": receiver.url}) as stack:
        assert await posted(outbox, stack) == 0
        assert await posted(outbox, stack) == 1.0
        received = await receiver.wait_for(2)

    assert outbox.waiting() == []
    assert [problem["errors"][0]["pointer"] for problem in outbox.problems()] == ["/type"]
    assert sorted(json.loads(request.body)["data"]["n"] for request in received) == [1, 3]


async def test_a_post_whose_answer_was_lost_is_a_repeat(tmp_path: Path, outbox: Outbox) -> None:
    """What is posted again with its key is stored once; negative control: without the key it is stored twice."""
    async with Stack(tmp_path) as stack:
        outbox.record("render.completed", {"n": 1}, idempotency_key="render-1")
        await posted(outbox, stack)
        outbox.record("render.completed", {"n": 1}, idempotency_key="render-1")
        await posted(outbox, stack)
        _, once = await stack.call("GET", "/v1/events")
        outbox.record("render.completed", {"n": 1})
        await posted(outbox, stack)
        _, twice = await stack.call("GET", "/v1/events")

    assert outbox.waiting() == outbox.problems() == []
    assert (len(once["data"]), len(twice["data"])) == (1, 2)


async def test_a_relay_that_is_not_there_loses_nothing(tmp_path: Path, outbox: Outbox) -> None:
    """Nobody answers, or intake is closed: the event waits in the outbox, with its key, and is posted when it opens."""
    outbox.record("render.completed", {"n": 1})
    (event,) = outbox.waiting()
    async with Stack(tmp_path) as stack:
        url = stack.url
    assert await asyncio.to_thread(outbox.drain, url) == 1.0
    assert outbox.waiting() == [event]

    async with Stack(tmp_path, storage="max_backlog = 1") as stack:
        _, made = await stack.call("POST", "/v1/webhook-endpoints", {"url": "http://127.0.0.1:9/"})
        await stack.call("POST", f"/v1/webhook-endpoints/{made['id']}/pause")
        await stack.post(data={"n": 0})
        assert await posted(outbox, stack) == 30.0
        assert outbox.waiting() == [event]
        await stack.call("DELETE", f"/v1/webhook-endpoints/{made['id']}")
        await stack.until(lambda: drained(outbox, stack))
    assert outbox.waiting() == []


async def drained(outbox: Outbox, stack: Stack) -> bool:
    await posted(outbox, stack)
    return not outbox.waiting()


async def test_a_batch_that_is_too_large_is_divided(tmp_path: Path, outbox: Outbox) -> None:
    """Five events of 300 kB are posted in parts of at most 1 MiB, and one that is too large alone is kept aside."""
    for number in range(5):
        outbox.record("render.completed", {"n": number, "text": "x" * 300_000})
    outbox.record("render.completed", {"text": "x" * 1_100_000})
    async with Stack(tmp_path) as stack:
        for _ in range(9):
            await posted(outbox, stack)
        _, listed = await stack.call("GET", "/v1/events")

    assert outbox.waiting() == []
    assert [problem["type"] for problem in outbox.problems()] == ["body_too_large"]
    assert len(listed["data"]) == 5


async def test_a_wrong_token_stops_the_loop(tmp_path: Path) -> None:
    """401 is no matter of waiting: the loop ends with it and the event stays."""
    outbox = InPython(tmp_path)
    outbox.record("render.completed", {})
    async with Stack(tmp_path) as stack:

        def drain() -> None:
            with Closing(outbox.path) as db:
                outbox.code.drain(db, stack.url, "wrong")

        with pytest.raises(outbox.code.urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(drain)
    assert len(outbox.waiting()) == 1


def test_both_languages_have_an_outbox() -> None:
    """The document has the recipe in Python and in Node."""
    assert {language for name, language in SNIPPETS if name == "outbox"} == {"python", "node"}
    assert is_there("python")


async def test_the_sdk_of_cloudevents_posts_as_the_document_shows(tmp_path: Path) -> None:
    """The snippet's event is stored, and the same once more is a repetition."""
    space: dict[str, Any] = {}
    exec(SNIPPETS["cloudevents", "python"], space)
    async with Stack(tmp_path) as stack:
        post = partial(space["post_cloudevent"], stack.url, PRODUCER_TOKEN, "render-42", "render.completed")
        assert [await asyncio.to_thread(post, {"n": 1}) for _ in range(2)] == [202, 200]
