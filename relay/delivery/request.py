"""A request as it goes on the wire: everything but the values of its headers is laid out once for each endpoint."""

from collections.abc import Iterable
from typing import NamedTuple

from relay.core.grammars import HEADER_NAME
from relay.core.urls import Target, UnfitURL, parse_target

FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding"})


class Unsendable(ValueError):
    """The request can never be sent; the text says why and repeats neither the URL nor a header."""


class Layout(NamedTuple):
    """Where a request goes, and its head with places for the values of the headers and the length of the body."""

    target: Target
    template: str
    lines: int

    def fill(self, values: Iterable[str], body: bytes) -> bytes:
        """Return the whole request. O(its length)."""
        head = self.template % (*values, len(body))
        if head.count("\n") != self.lines or head.count("\r") != self.lines or "\0" in head:
            raise Unsendable("a header holds characters that cannot be sent")
        try:
            return head.encode() + body
        except UnicodeEncodeError:
            raise Unsendable("a header holds characters that cannot be sent") from None


def lay_out(url: str, names: tuple[str, ...], method: str = "POST", *, user_agent: str) -> Layout:
    """Lay out the requests that go to `url` with headers of these names."""
    try:
        target = parse_target(url)
    except UnfitURL as error:
        raise Unsendable(f"the URL cannot be posted to: {error}") from None
    given = {name.lower() for name in names}
    if not all(HEADER_NAME.fullmatch(name) for name in names) or not FRAMING.isdisjoint(given):
        raise Unsendable("a header has a name that cannot be sent")
    own = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
    lines = [f"{method} {target.path} HTTP/1.1", f"Host: {target.authority}"]
    lines += [f"{name}: {value}" for name, value in own.items() if name.lower() not in given]
    fixed = "\r\n".join(lines).replace("%", "%%")
    places = "".join(f"{name.replace('%', '%%')}: %s\r\n" for name in names)
    template = f"{fixed}\r\n{places}Content-Length: %d\r\n\r\n"
    return Layout(target, template, template.count("\n"))
