"""Finding the call that a request makes: by its path as it was sent, else by the patterns of paths that have parameters."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from aiohttp import web

from relay.api import problems
from relay.api.problems import Problem, Refused
from relay.core.access import Right

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PARAMETERS: web.RequestKey[Mapping[str, str]] = web.RequestKey("parameters", Mapping)
"""What stands in the path of a request for `{id}` and the like; set for calls whose path has parameters."""

PARAMETER = re.compile(r"\{(\w+)(?::([^}]+))?\}")
"""A part of a path that stands for what a request has there: its name, and its form if that is not one segment."""

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ONE_SEGMENT = "[^{}/]+"
_NONE: Mapping[str, str] = {}


class Route(NamedTuple):
    """One call: who may make it, and what answers it."""

    method: str
    path: str  # `{id}` stands for one segment, `{name:.+}` for what the expression says
    right: Right | None  # None: anybody, without a token
    handler: Handler
    takes_query: bool = False


class Found(NamedTuple):
    """The call that a request makes, and the parameters in its path."""

    route: Route
    parameters: Mapping[str, str]


class Table:
    """Every call there is, by path and method."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.public: set[str] = set()
        """The paths that need no token, whatever the method."""
        self._fixed: dict[str, dict[str, Found]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            if route.right is None:
                self.public.add(route.path)
            if "{" in route.path:
                patterns.setdefault(route.path, {})[route.method] = route
            else:
                self._fixed.setdefault(route.path, {})[route.method] = Found(route, _NONE)
        self._patterns = [(_pattern(path), by_method) for path, by_method in patterns.items()]

    def find(self, request: web.Request) -> Found:
        """Return the call of `request`; where there is none, one that answers 400, 404 or 405. O(patterns), mostly O(1)."""
        method, path = request.method, request.raw_path
        by_method = self._fixed.get(path)
        if by_method is None:
            if (fault := _fault(path)) is not None:
                return _refused(method, path, problems.bad_request(fault))
            path = request.rel_url.path_safe  # percent-decoded, but for %2F and %25
            by_method = self._fixed.get(path, {})
        return by_method.get(method) or self._search(method, path, set(by_method))

    def _search(self, method: str, path: str, allowed: set[str]) -> Found:
        for pattern, by_method in self._patterns:
            matched = pattern.fullmatch(path)
            if matched is None:
                continue
            if method in by_method:
                return Found(by_method[method], {name: _decoded(text) for name, text in matched.groupdict().items()})
            allowed |= by_method.keys()
        problem = problems.method_not_allowed(allowed) if allowed else problems.nothing_here()
        return _refused(method, path, problem)


def _pattern(path: str) -> re.Pattern[str]:
    fixed, *rest = PARAMETER.split(path)
    text = re.escape(fixed)
    for name, form, fixed in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        text += f"(?P<{name}>{form or _ONE_SEGMENT}){re.escape(fixed)}"
    return re.compile(text)


def _fault(target: str) -> str | None:
    """Say what of a path and query as they were sent would be read in several ways, or be no text at all. O(their length)"""
    if "#" in target:
        return "The path has a fragment (#), which is never sent. Write %23 for the character itself."
    if "%" not in target:
        return None
    if _BROKEN_ESCAPE.search(target):
        return "A % in the path or query is not followed by two hexadecimal digits. Write %25 for the character itself."
    try:
        text = unquote_to_bytes(target).decode()
    except UnicodeError:
        return "What is percent-encoded in the path or query is not UTF-8."
    return "The path or query holds a control character." if _CONTROL.search(text) else None


def _refused(method: str, path: str, problem: Problem) -> Found:
    return Found(Route(method, path, None, _refusing(problem), takes_query=True), _NONE)


def _decoded(text: str) -> str:
    return text.replace("%2F", "/").replace("%25", "%")


def _refusing(problem: Problem) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise Refused(problem)

    return refuse
