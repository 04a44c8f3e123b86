"""Answers in JSON, as bytes on the wire: they write their own heads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from relay.api.answer import Answer


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[int]:
    """Serve one answer to everything; yields the port."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return answer

    app = web.Application()
    app.router.add_route("*", "/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def said(answer: Answer, request_line: str = "GET / HTTP/1.1", fields: str = "Connection: close\r\n") -> str:
    """Return all that a client reads until the server ends the connection."""
    async with answering(answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{request_line}\r\nHost: x\r\n{fields}\r\n".encode())
        text = await reader.read()
        writer.close()
        await writer.wait_closed()
        return text.decode()


async def test_an_answer_is_a_whole_response() -> None:
    """Status line, type, date, length and the caller's own headers stand before the body, each once."""
    head, _, body = (await said(Answer({"id": 7}, 202, {"Location": "/v1/events/7"}))).partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert (first, body, len(fields)) == ("HTTP/1.1 202 Accepted", '{"id":7}', len(lines))
    assert fields.pop("Date").endswith(" GMT")
    assert fields == {
        "Content-Type": "application/json",
        "Connection": "close",
        "Location": "/v1/events/7",
        "Content-Length": "8",
    }


async def test_a_header_that_is_set_later_goes_out() -> None:
    """Whoever passes an answer on may add to its head."""
    answer = Answer([])
    answer.headers["X-Later"] = "yes"
    assert "\r\nX-Later: yes\r\n" in await said(answer)


async def test_an_answer_to_head_has_no_body() -> None:
    """The length is that of the body that a GET would get."""
    text = await said(Answer([1, 2]), "HEAD / HTTP/1.1")
    assert "\r\nContent-Length: 5\r\n" in text
    assert text.endswith("\r\n\r\n")


async def test_an_old_client_is_told_that_the_connection_stays() -> None:
    """HTTP/1.0 closes unless both sides say otherwise."""
    answer = Answer([])
    async with answering(answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"\r\nConnection: keep-alive\r\n" in await reader.readuntil(b"[]")
        writer.close()
        await writer.wait_closed()
    assert "Connection" not in await said(Answer([]), "GET / HTTP/1.0", fields="")


async def test_an_answer_can_be_the_last_one() -> None:
    """`force_close` is said in the head and ends the connection, whatever the client wishes."""
    answer = Answer([])
    answer.force_close()
    assert "\r\nConnection: close\r\n" in await said(answer, fields="")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\n", "a\x00"])
async def test_a_header_cannot_end_its_line(value: str) -> None:
    """No part of a head can be smuggled in by a value: nothing of such an answer is sent, and the mistake is logged."""
    assert await said(Answer([], headers={"Link": value})) == ""
