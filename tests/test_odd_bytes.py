"""Bytes that are no text, in paths, queries and headers, through every call of the table and both of aiohttp's parsers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp.http_parser import HttpRequestParserC, HttpRequestParserPy

from relay.api.routes import Route
from tests.support.api import SECRETS, Api

ODD = {
    "a byte that is no UTF-8": b"\xff",
    "UTF-8 as it is": b"\xc3\xa9",
    "an overlong form": b"\xc0\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "NUL": b"\x00",
    "DEL": b"\x7f",
    "an escaped byte that is no UTF-8": b"%ff",
    "an escaped overlong form": b"%c0%af",
    "an escaped surrogate": b"%ed%a0%80",
    "beyond Unicode": b"%f4%90%80%80",
    "an escaped NUL": b"a%00b",
    "escaped ends of lines": b"a%0d%0ab",
    "a lone %": b"%",
    "a % before other letters": b"%zz",
    "another kind of escape": b"%u0041",
    "a fragment": b"a#b",
}
EMPTY = [b"&&", b"&", b"=", b"=&=", b"?", b";", b"a=b=c&", b"%26=%3d", b"+", b"%20"]
"""What stands behind the `?` and names no parameter, or an odd one, in text that is sound."""

JSON_BODY = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True, params=[HttpRequestParserC, HttpRequestParserPy], ids=["c", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of aiohttp's parsers: which one runs depends on how it was built."""
    monkeypatch.setattr("aiohttp.web_protocol.HttpRequestParser", request.param)


async def raw(api: Api, method: str, target: bytes, *fields: bytes, by: str | None = "root") -> tuple[int, bytes]:
    """Send a request byte for byte; return the status, 0 for none, and all of the answer."""
    host, _, port = api.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    token = [b"Authorization: Bearer " + SECRETS[by].encode()] if by is not None else []
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: x", b"Connection: close", *token, *fields]
    writer.write(b"\r\n".join([*lines, JSON_BODY]))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b"Traceback" not in answer
    return int(answer[9:12] or b"0"), answer


def targets(route: Route, odd: bytes) -> Iterator[bytes]:
    """Put odd bytes wherever the target of a call may have some."""
    names = ("{id}", "{key}", "{name:.+}")
    path = route.path
    for name in names:
        path = path.replace(name, "x")
        if name in route.path:
            yield (
                route.path.replace(name, "\0")
                .encode()
                .replace(b"\0", odd)
                .replace(b"{id}", b"x")
                .replace(b"{key}", b"x")
            )
    yield path.encode() + odd
    for query in (odd + b"=1", b"type=" + odd, b"cursor=" + odd, b"limit=1&" + odd):
        yield path.encode() + b"?" + query


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
async def test_odd_bytes_in_a_target_are_a_problem(tmp_path: Path, odd: bytes) -> None:
    """I14: in the path and query of every call they are 400 `bad_request`, and nothing that nobody foresaw."""
    async with Api(tmp_path) as api:
        for route in api.relay.routes:
            for target in targets(route, odd):
                status, answer = await raw(api, route.method, target)
                assert (status, b"bad_request" in answer or route.method == "HEAD") == (400, True), target


@pytest.mark.parametrize("by", [None, "root", "acme-app"])
async def test_odd_queries_are_never_our_error(tmp_path: Path, by: str | None) -> None:
    """I14: what names no parameter is nothing, and no query of anybody is a 5xx."""
    async with Api(tmp_path) as api:
        for route in api.relay.routes:
            path = route.path.replace("{id}", "x").replace("{key}", "x").replace("{name:.+}", "x")
            for query in EMPTY:
                status, _ = await raw(api, route.method, path.encode() + b"?" + query, by=by)
                assert 200 <= status < 500, (route.method, path, query)
        assert (await raw(api, "GET", b"/healthz?&&", by=None))[0] == 200


@pytest.mark.parametrize(
    "name", ["Authorization", "Accept", "Content-Type", "Idempotency-Key", "Host", "Expect", "X-Other"]
)
async def test_odd_bytes_in_a_header_are_never_our_error(tmp_path: Path, name: str) -> None:
    """I14: the value of a header is bytes; what is read of them is refused when it is odd, by every call, and nothing else is."""
    async with Api(tmp_path) as api:
        for route in api.relay.routes:
            path = route.path.replace("{id}", "x").replace("{key}", "x").replace("{name:.+}", "x")
            for odd in ODD.values():
                status, _ = await raw(api, route.method, path.encode(), name.encode() + b": " + odd)
                assert 200 <= status < 500, (route.method, path, odd)
                if odd in (b"\x00", b"\x7f"):
                    assert status == 400, (route.method, path, odd)
        assert (await api.get("/v1/events"))["data"] == []
