"""The daemon's HTTP API, as the verbs use it, by `http.client`.

Nothing here imports the daemon's libraries: an operator's verb starts in a few dozen milliseconds.
"""

import functools
import http.client
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from relay.cli.address import Address, find, reason
from relay.cli.output import Exit, Failure, echo, fail, json_option, options
from relay.core.terminal import one_line

F = TypeVar("F", bound=Callable[..., Any])

_SAFE = "/?&=%+:,;@!$'()*~"
"""What may stand in a path with a query string; of an id that holds anything else the daemon says that it is unknown."""

_AFTER_BREAK = "Look at its log, and at `relay status`, before you repeat the command."


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of the daemon that reports success."""

    status: int
    data: Any
    text: str = ""  # the body as it came: parsing loses how numbers are written


class Refused(Failure):
    """The daemon answered with a problem (RFC 9457)."""

    def __init__(self, status: int, problem: dict[str, Any], as_json: bool) -> None:
        super().__init__(_explain(status, problem), _exit_code(status, problem))
        self.status = status
        self.problem = problem
        self._as_json = as_json

    def show(self, file: Any = None) -> None:
        if self._as_json:
            echo(json.dumps(self.problem, indent=2, ensure_ascii=False), err=True)
        else:
            super().show(file)


class Daemon:
    """A daemon that may be at one of several addresses; the first that answers is used."""

    def __init__(self, addresses: list[Address], token: str | None = None, *, as_json: bool = False) -> None:
        self._addresses = addresses
        self._token = token
        self._as_json = as_json

    def get(self, path: str, **query: Any) -> Any:
        """Read; query values that are None are left out."""
        given = [(name, value) for name, value in query.items() if value is not None]
        return self.call("GET", f"{path}?{urlencode(given, errors='surrogateescape')}" if given else path).data

    def post(self, path: str, body: Any = None, *, patient: bool = False) -> Any:
        """Do something; the answer's data, None when there is none. `patient` waits for the answer however long it takes."""
        return self.call("POST", path, body, patient=patient).data

    def page(self, path: str, **query: Any) -> Any:
        """Read a page of a list; where it comes out empty although more may follow, the next that does not."""
        found = self.get(path, **query)
        while not found["data"] and found["next"]:
            found = self.get(path, **query | {"cursor": found["next"]})
        return found

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Walk a list, newest first, to its end or for a million pages."""
        cursor: str | None = None
        for _ in range(1_000_000):
            page = self.get(path, **query, cursor=cursor)
            yield from page["data"]
            cursor = page["next"]
            if cursor is None:
                return

    def call(self, method: str, path: str, body: Any = None, *, patient: bool = False) -> Answer:
        """Send one request. `bytes` go as they are, other bodies as JSON.

        Raises Refused for a problem; ends the command when no daemon can be reached.
        """
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self._connect()
        if patient:
            connection.sock.settimeout(None)
        try:
            connection.request(
                method, quote(path, safe=_SAFE, errors="surrogateescape"), payload, self._headers(payload)
            )
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            fail(f"The connection to the daemon broke off ({reason(error)}). {_AFTER_BREAK}", Exit.UNREACHABLE)
        finally:
            connection.close()
        return self._answer(response.status, content)

    def _connect(self) -> http.client.HTTPConnection:
        failures: list[tuple[Address, OSError]] = []
        for address in self._addresses:
            connection = address.connection()
            try:
                connection.connect()
            except OSError as error:
                failures.append((address, error))
            else:
                return connection
        raise _unreachable(failures)

    def _headers(self, payload: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if payload is not None:
            headers["Content-Type"] = "application/json"
        if self._token and not self._token.isprintable():
            fail(
                "The token holds a line end or another invisible character. Take it out of --token or $RELAY_TOKEN.",
                Exit.USAGE,
            )
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _answer(self, status: int, content: bytes) -> Answer:
        try:
            data = json.loads(content) if content else None
        except ValueError:
            fail(f"Status {status}, and the answer is not JSON: this is not a relay. Check --url.", Exit.UNREACHABLE)
        if status < 400:
            return Answer(status, data, content.decode("utf-8", "replace"))
        raise Refused(status, data if isinstance(data, dict) else {}, self._as_json)


def daemon_options(command: F) -> F:
    """Add the options that say where the daemon is; the command takes a `Daemon` as its first argument."""

    @click.option(
        "--url", "daemon_url", help="Address of the daemon, http://HOST:PORT or unix:/PATH.  [env: RELAY_URL]"
    )
    @click.option("--socket", "daemon_socket", help="Unix socket of the daemon.  [env: RELAY_SOCKET]")
    @click.option("--token", help="Bearer token; the environment keeps it out of the process list.  [env: RELAY_TOKEN]")
    @click.option("--config", "daemon_config", help="Configuration file that says where the daemon listens.")
    @functools.wraps(command)
    def wrapped(*args: Any, token: str | None, **kwargs: Any) -> Any:
        url, socket_path, config = (kwargs.pop(f"daemon_{name}") for name in ("url", "socket", "config"))
        addresses = find(url, socket_path, config, os.environ)
        daemon = Daemon(addresses, token or os.environ.get("RELAY_TOKEN"), as_json=bool(kwargs.get("as_json")))
        return command(daemon, *args, **kwargs)

    return wrapped  # type: ignore[return-value]  # click changes the signature


asks_daemon = options(json_option, daemon_options)
"""What nearly every verb takes that asks a daemon for data."""


def _unreachable(failures: list[tuple[Address, OSError]]) -> Failure:
    tried = "\n".join(f"  {address}: {reason(error)}" for address, error in failures)
    if any(isinstance(error, PermissionError) for _, error in failures):
        remedy = "Join the socket's group, use sudo, or give --url with --token."
        return Failure(f"A daemon's socket is closed to this user. Tried:\n{tried}\n{remedy}", Exit.NO_PERMISSION)
    remedy = "Start one with `relay serve`, or say where it is: --url, --socket, --config, or $RELAY_URL."
    return Failure(f"No daemon answers. Tried:\n{tried}\n{remedy}", Exit.UNREACHABLE)


def _explain(status: int, problem: dict[str, Any]) -> str:
    lines = [str(problem.get("title") or f"The daemon answered {status}.")]
    mistakes = problem.get("errors", [])
    if problem.get("detail") and not mistakes:  # with mistakes, the detail repeats the first
        lines.append(str(problem["detail"]))
    for mistake in mistakes:
        where = f"{mistake['pointer']}: " if mistake.get("pointer") else ""
        lines.append(one_line(f"  {where}{mistake.get('message')}"))
    if status in (401, 403):
        lines.append("Give a token that may do this: --token or $RELAY_TOKEN, or be root on the daemon's Unix socket.")
    return "\n".join(lines)


def _exit_code(status: int, problem: dict[str, Any]) -> Exit:
    if problem.get("type") == "invalid_config":
        return Exit.CONFIGURATION
    if status in (401, 403):
        return Exit.NO_PERMISSION
    if status in (400, 413, 415, 422):
        return Exit.BAD_INPUT
    if status in (429, 503, 507):
        return Exit.TEMPORARY
    return Exit.FAILED
