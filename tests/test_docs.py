"""What README.md and docs/ promise is there: calls, problems, commands, settings."""

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from aiohttp import hdrs

import relay
from relay.api.routing import Route
from relay.cli import main
from relay.config import model as schema
from relay.core.access import Principal, Role
from relay.daemon import service
from relay.telemetry import log
from tests.support.stack import Stack

ROOT = Path(relay.__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted((ROOT / "relay").rglob("*.py"))
API = (ROOT / "docs" / "API.md").read_text()

PROBLEM_ROW = re.compile(r"^\| `([a-z_]+)` \| (\d{3}) \|", re.MULTILINE)
FENCED = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE_COMMAND = re.compile(r"`(relay [^`\n]+)`")
INLINE_KEY = re.compile(r"`([a-z_]+(?:\.[a-z_]+)+)(?: = [^`]*)?`")


# -- calls --------------------------------------------------------------------------------------------------------------


async def registered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The calls that the front door of a relay really finds."""
    served: list[Route] = []
    front_door = service.FrontDoor

    def remember(routes: list[Route], *args: Any, **options: Any) -> service.FrontDoor:
        served.extend(routes)
        return front_door(routes, *args, **options)

    monkeypatch.setattr(service, "FrontDoor", remember)
    async with Stack(folder):
        called = {(route.method, route.path) for route in served}
    return {(method, re.sub(r":[^}]+}", "}", path)) for method, path in called if method != hdrs.METH_HEAD}


async def test_the_api_page_has_every_call_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each route stands in docs/API.md as a heading, and each heading is a route."""
    documented = re.findall(r"^### `([A-Z]+) (/\S*)`$", API, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == await registered(tmp_path, monkeypatch)


CALLS = re.compile(r"((?:^### `[A-Z]+ /\S*`\n)+)(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)
ROLES = re.compile(r"Roles?(?: for all\nthese calls| for all these calls)?: ([a-z, ]+)\.|(No token)\.")


def documented_roles() -> dict[tuple[str, str], str]:
    """What the page says about who may make each call: beside the call, or for all of its section."""
    found = {}
    for section in API.split("\n## "):
        common = ROLES.search(section.partition("\n### ")[0])
        for headings, text in CALLS.findall(section):
            said = ROLES.search(text) or common
            assert said is not None, headings
            for method, path in re.findall(r"`([A-Z]+) (\S+)`", headings):
                found[method, path] = said[1] or said[2]
    return found


async def test_the_api_page_says_who_may_make_each_call(tmp_path: Path) -> None:
    """The roles beside each call are those whose rights include its own."""
    async with Stack(tmp_path) as stack:
        routes = [route for route in stack.relay.routes if route.method != hdrs.METH_HEAD]
    documented = documented_roles()
    for route in routes:
        may = [role.value for role in Role if route.right and Principal("", role).may(route.right)]
        said = documented[route.method, re.sub(r":[^}]*", "", route.path)]
        assert said == ("No token" if route.right is None else "all" if len(may) == len(Role) else ", ".join(may))


async def test_the_api_page_names_every_field_of_an_answer(tmp_path: Path) -> None:
    """What events, deliveries, endpoints and the status answer with stands in docs/API.md, field by field."""
    async with Stack(tmp_path) as stack:
        status, endpoint = await stack.call("POST", "/v1/webhook-endpoints", {"url": "http://127.0.0.1:9/"})
        assert status == 201
        await stack.call("POST", f"/v1/webhook-endpoints/{endpoint['id']}/pause")
        event = await stack.post()
        _, shown = await stack.call("GET", f"/v1/events/{event['id']}")
        (delivery,) = await stack.deliveries(event["id"])
        answers = [event, shown, endpoint, await stack.delivery(delivery["id"])]
        answers += [(await stack.call("GET", path))[1] for path in ("/v1/status", "/readyz", "/v1/dead-letters")]
    named = set(re.findall(r"[\"`.]([a-z_]+)[\"`]", API))
    for answer in answers:
        assert set(answer) <= named, set(answer) - named


# -- problems -----------------------------------------------------------------------------------------------------------


def raised() -> dict[str, int]:
    """Each problem slug that the source makes, with its status."""
    found: dict[str, int] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (problem := _problem(node)) is not None:
                found[problem[0]] = problem[1]
    return found


def _problem(call: ast.Call) -> tuple[str, int] | None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
    if not words or not isinstance(words[0], str) or not re.fullmatch(r"[a-z_]+", words[0]):
        return None
    match name:
        case "Problem" if len(words) > 2 and isinstance(words[2], int):
            return words[0], words[2]
        case "_unavailable":
            given = [word.value for word in call.keywords if word.arg == "status"]
            return words[0], given[0].value if given and isinstance(given[0], ast.Constant) else 503  # type: ignore[return-value]
        case "Conflict" | "conflict":
            return words[0], 409
    return None


def test_every_problem_is_in_the_table() -> None:
    """Each slug of relay/problems.py and each Conflict code has a row with its status, and each row is made somewhere."""
    documented = {slug: int(status) for slug, status in PROBLEM_ROW.findall(API)}
    found = raised()
    assert {"malformed_json", "disk_low", "not_due", "managed_by_file", "idempotency_conflict"} <= set(found)
    assert documented == found


# -- commands -----------------------------------------------------------------------------------------------------------


def commands_in(text: str) -> Iterator[str]:
    """Each `relay …` that a reader may copy: in code blocks for the shell, and in running text."""
    for block in FENCED.findall(text):
        for line in block.splitlines():
            yield from (part.strip() for part in re.split(r"&&|;|\|", line) if part.strip().startswith("relay "))
    yield from INLINE_COMMAND.findall(FENCED.sub("", text))


def fault(command: str) -> str | None:
    """What click would say against a command's names; None when every word of it is known."""
    group: click.Command = main
    context = click.Context(main, info_name="relay", **main.context_settings)
    words = shlex.split(command, comments=True)[1:]
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        inner = group.get_command(context, words[0])
        if inner is None:
            return f"there is no command {words[0]!r}"
        context = click.Context(inner, parent=context, info_name=words.pop(0))
        group = inner
    return _fault_of_words(group, context, words)


def _fault_of_words(command: click.Command, context: click.Context, words: Sequence[str]) -> str | None:
    if isinstance(command, click.Group) and words in ([], ["--help"], ["--version"]):
        return None
    try:
        _, rest, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    return f"{rest} is too much" if rest else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_exists(page: Path) -> None:
    """Each command and option that a page mentions is in click's tree, and takes that many arguments."""
    for command in commands_in(page.read_text()):
        assert fault(command) is None, f"{page.name}: {command}: {fault(command)}"


def test_every_command_of_a_message_exists() -> None:
    """A remedy names commands that exist: each `relay …` in the source, and in the unit's comment."""
    texts = {path.name: path.read_text() for path in MODULES}
    for name, text in texts.items():
        for command in INLINE_COMMAND.findall(text):
            plain = re.sub(r"\{[^}]*\}", "X", command)
            assert fault(plain) is None, f"{name}: {command}: {fault(plain)}"
    unit = (ROOT / "systemd" / "relay.service").read_text()
    for command in re.findall(r"bin/(relay (?!&&)[a-z][^&\n]*)", unit):
        assert fault(command) is None, command


@pytest.mark.parametrize(
    "command",
    ["relay replay creat", "relay send a.b --data 1", "relay init /etc/relay/config.toml", "relay dead bury x"],
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    """Negative control: unknown verbs, unknown options and superfluous arguments are noticed."""
    assert fault(command) is not None


# -- settings -----------------------------------------------------------------------------------------------------------

SECTIONS = {"server": (), "storage": (), "delivery": (), "log": (), "retention": ("storage",)}
"""Tables whose keys pages name, and where each stands; `delivery.retry` and its kin are written out."""


def is_setting(key: str) -> bool:
    first, *rest = key.split(".")
    path = (*SECTIONS[first], first, *rest)
    table = schema.table_at(path[:-1])
    return table is not None and path[-1] in schema.fields(table)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    """Each `section.key` that a page mentions is a key of the configuration's models."""
    for key in INLINE_KEY.findall(page.read_text()):
        if key.split(".")[0] in SECTIONS and key not in log.EVENTS:
            assert is_setting(key), f"{page.name}: {key}"


def test_settings_that_do_not_exist_are_found() -> None:
    """Negative control: a misspelt key, and a key in the wrong table, are noticed."""
    assert is_setting("storage.retention.events")
    assert not is_setting("server.max_bodi")
    assert not is_setting("storage.max_body")
