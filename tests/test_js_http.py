"""Generated documents through the running relay to VideoAiditor's documented verifier in Node (VAI-7, VAI-8, EDF-4)."""

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.five import TEXT_SECRET, application, event
from tests.support.json_documents import Documents
from tests.support.node_receivers import NodeReceivers, needs_node
from tests.support.stack import Stack
from tests.test_js import stringified

DOCUMENTS = int(os.environ.get("JS_HTTP_DOCUMENTS", "2000"))
SEED = int(os.environ.get("JS_SEED", "1"))
AT_ONCE = 32

ROUNDING = """
description = "VideoAiditor, for producers that mean what JavaScript makes of their numbers"
extends = "videoaiditor"
[body]
numbers = "round"
"""
DATA = (
    b'{"_id":"%d","status":"completed","outputUrl":"https://cdn.example.com/video.mp4","error":"","videoId":"v",'
    b'"videoVersion":1.0,"videoData":%s,"createdAt":"2024-03-20T10:30:00Z","updatedAt":"2024-03-20T10:31:00Z"}'
)


def video_data(document: bytes) -> bytes:
    """Return an object, as the schema asks: the document itself, or one with the document in it."""
    return document if document.lstrip(b" \t\r\n").startswith(b"{") else b'{"value":%s}' % document


async def verdict(stack: Stack, name: str, data: bytes) -> str:
    """Post one event; say "accepted", or what the problem is called."""
    status, answer = await stack.call("POST", "/v1/events", event(name, "render.completed", data))
    if status == 202:
        assert answer["deliveries"] == 1
        return "accepted"
    assert status in (400, 422), (status, answer, data)
    return str(answer["type"]).rpartition("/")[2].rpartition(":")[2]


async def verdicts(stack: Stack, name: str, posted: list[bytes]) -> list[str]:
    """Post events, a few at once; return the verdicts in their order."""
    found: list[str] = []
    for start in range(0, len(posted), AT_ONCE):
        group = posted[start : start + AT_ONCE]
        found += await asyncio.gather(*(verdict(stack, name, data) for data in group))
    return found


@needs_node
@pytest.mark.slow
@pytest.mark.timeout(120 + DOCUMENTS // 50)
async def test_the_documented_verifier_takes_every_document(tmp_path: Path) -> None:
    """Node answers 200 to all that relay accepts, and each body equals its own `JSON.stringify(JSON.parse(…))`; numbers
    that JavaScript would change are refused, and pass under a contract with numbers = "round"; whatever else is refused
    is no JSON for Node either (VAI-7, VAI-8).

    JS_HTTP_DOCUMENTS says how many, JS_SEED which.
    """
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "rounding.toml").write_text(ROUNDING)
    documents = Documents(random.Random(SEED)).take(DOCUMENTS)
    posted = [DATA % (number, video_data(document)) for number, document in enumerate(documents)]
    with NodeReceivers(videoaiditor=TEXT_SECRET, editframe="") as node:
        url = node.url("videoaiditor")
        extra = application("videoaiditor", url) + application("rounding", url, secret=TEXT_SECRET)
        async with Stack(tmp_path, extra=extra) as stack:
            first = await verdicts(stack, "videoaiditor", posted)
            lossy = [data for data, word in zip(posted, first, strict=True) if word == "lossy_number"]
            second = await verdicts(stack, "rounding", lossy)
            count = first.count("accepted") + len(lossy)
            tally = await node.wait_for(count)

    assert set(second) == {"accepted"}
    assert tally == {"requests": count, "accepted": count, "refused": 0, "threw": 0, "differing": 0}
    others = [data for data, word in zip(posted, first, strict=True) if word not in ("accepted", "lossy_number")]
    assert "w" not in {letter for letter, _ in stringified(others)}
    assert count > 0.9 * DOCUMENTS, Counter(first)
    assert len(lossy) > 0.05 * DOCUMENTS, Counter(first)


@needs_node
async def test_a_difference_would_be_seen(tmp_path: Path) -> None:
    """Negative control: the same data under a contract that keeps every byte fail the documented verifier (VAI-8)."""
    (tmp_path / "contracts").mkdir()
    verbatim = 'description = "as it comes"\nextends = "videoaiditor"\n[body]\nmode = "verbatim"\n'
    (tmp_path / "contracts" / "verbatim.toml").write_text(verbatim)
    with NodeReceivers(videoaiditor=TEXT_SECRET, editframe="") as node:
        extra = application("verbatim", node.url("videoaiditor"), secret=TEXT_SECRET)
        async with Stack(tmp_path, extra=extra) as stack:
            assert await verdict(stack, "verbatim", DATA % (1, b'{"fps": 30.0}')) == "accepted"
            tally = await node.wait_for(1)

    assert (tally["accepted"], tally["refused"], tally["differing"]) == (0, 1, 1)
