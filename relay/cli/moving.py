"""`relay export` and `relay import`: applications and endpoints as lines of JSON."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import click

from relay.cli.client import Daemon, Refused, asks_daemon, daemon_options
from relay.cli.output import PAGE_MAX, Exit, Json, counted, echo, fail, say, say_warnings, show
from relay.core.issues import keys_of
from relay.core.terminal import one_line

BYTES_MAX = 512 << 10
"""Bytes of the lines that go to the daemon at once; more go in several calls, an application in one where it fits."""


NAMED = 20
"""Endpoints that a message names; the rest are counted."""


class Line(NamedTuple):
    """One line of a file, as it was parsed."""

    number: int  # from 1
    written: Any
    size_bytes: int

    @property
    def application(self) -> str | None:
        """The id of the application that it is about."""
        for kind, member in (("application", "id"), ("endpoint", "application")):
            value = self.written.get(kind) if isinstance(self.written, dict) else None
            if isinstance(value, dict) and isinstance(value.get(member), str):
                return str(value[member])
        return None


class Part(NamedTuple):
    """What goes to the daemon in one call: the first line of the file, and some of the others."""

    lines: list[Line]

    def body(self, *, update: bool, dry_run: bool) -> Json:
        """Return the request."""
        return {"lines": [line.written for line in self.lines], "update": update, "dry_run": dry_run}


@click.command("export")
@click.option("--application", help="Only this one.")
@click.option("--with-secrets", is_flag=True, help="Signing secrets and client keys too, in clear.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to make, for its owner's eyes.  [stdout]"
)
@daemon_options
def export_(daemon: Daemon, application: str | None, with_secrets: bool, output: Path | None) -> None:
    """Write applications and endpoints as lines of JSON, which `relay import` reads.

    Keys of applications, events and deliveries are no part of it. Values of headers are, secrets only with --with-secrets.
    """
    query: Json = {"application": application, "secrets": "true" if with_secrets else None, "limit": PAGE_MAX}
    lines = (json.dumps(line, separators=(",", ":")) for line in daemon.pages("/v1/export", **query))
    if output is None:
        for line in lines:
            echo(line)
        return
    with _made(output) as file:
        file.writelines(f"{line}\n" for line in lines)


@click.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--dry-run", is_flag=True, help="Say what would be done, and everything that is wrong; do nothing.")
@click.option("--update", is_flag=True, help="Make what is there already as the lines say, state included.")
@asks_daemon
def import_(daemon: Daemon, file: TextIO, dry_run: bool, update: bool, as_json: bool) -> None:
    """Make applications and endpoints of the lines in FILE (- is stdin), with their ids, secrets and states.

    All lines are checked first, and with one mistake nothing is done. What is there already stays as it is: a second import
    changes nothing. Made for what `relay export` writes; docs/MOVING.md has recipes for other services.
    """
    parts = list(_parts(_read(file)))
    reports = [_send(daemon, part, update=update, dry_run=True) for part in parts]
    if not dry_run:
        reports = [_send(daemon, part, update=update, dry_run=False) for part in parts]
    report = _sum(reports)
    show(report, as_json, lambda: "\n".join(_summary(report)))
    if not as_json:
        say_warnings(report)
        if made := report["secrets_made"]:
            more = f" and {len(made) - NAMED} more" if len(made) > NAMED else ""
            say(
                f"{counted(len(made), 'endpoint')} came without a secret and got one here: {', '.join(made[:NAMED])}{more}"
            )
            say("`relay endpoint secret ID` shows it.")


# -- out -----------------------------------------------------------------------------------------------------------------


def _made(path: Path) -> TextIO:
    """Make a file that nobody else can read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        remedy = "Choose another name, or remove it." if isinstance(error, FileExistsError) else "Choose another place."
        fail(f"{path}: {error.strerror}. {remedy}", Exit.CANNOT_CREATE)
    return os.fdopen(descriptor, "w", encoding="utf-8")


# -- in ------------------------------------------------------------------------------------------------------------------


def _read(file: TextIO) -> list[Line]:
    """Parse a file; every line that is no JSON ends the command, all named at once."""
    lines, wrong = [], []
    try:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                lines.append(Line(number, json.loads(text), len(text.encode())))
            except (ValueError, RecursionError) as error:
                wrong.append(f"  line {number}: is not JSON: {error}")
    except UnicodeDecodeError:
        fail(f"{file.name} is not UTF-8.", Exit.BAD_INPUT)
    if wrong:
        fail("\n".join(["Nothing was imported.", *wrong]), Exit.BAD_INPUT)
    if not lines:
        fail(f'{file.name} is empty; its first line is {{"relay": {{"schema": 1}}}}.', Exit.BAD_INPUT)
    return lines


def _parts(lines: list[Line]) -> Iterator[Part]:
    """Put lines together that go in one call: those of an application, and then as many applications as fit."""
    first, *rest = lines
    groups: dict[str | None, list[Line]] = {}
    for line in rest:
        groups.setdefault(line.application, []).append(line)
    part: list[Line] = []
    for group in groups.values():
        for piece in _pieces(group):
            if part and _size(part) + _size(piece) > BYTES_MAX:
                yield Part([first, *part])
                part = []
            part += piece
    yield Part([first, *part])


def _pieces(group: list[Line]) -> Iterator[list[Line]]:
    """Cut the lines of a very large application; its own line goes with each piece, which needs it."""
    if _size(group) <= BYTES_MAX:
        yield group
        return
    own = [line for line in group if "application" in line.written]
    piece = list(own)
    for line in group:
        if line in own:
            continue
        if len(piece) > len(own) and _size(piece) + line.size_bytes > BYTES_MAX:
            yield piece
            piece = list(own)
        piece.append(line)
    yield piece


def _size(lines: Iterable[Line]) -> int:
    return sum(line.size_bytes for line in lines)


def _send(daemon: Daemon, part: Part, *, update: bool, dry_run: bool) -> Json:
    """Make one call; what the daemon has against lines is said with their numbers in the file."""
    try:
        report: Json = daemon.post("/v1/import", part.body(update=update, dry_run=dry_run))
    except Refused as refused:
        mistakes = refused.problem.get("errors")
        if not mistakes:
            raise
        lines = [_numbered(part, mistake) for mistake in mistakes]
        if omitted := refused.problem.get("errors_omitted"):
            lines.append(f"  and {omitted} more")
        numbers = f"{part.lines[0].number} to {part.lines[-1].number}"
        head = "Nothing was imported." if dry_run else f"Lines {numbers} were not imported; those before them were."
        fail("\n".join([head, *lines]), Exit.BAD_INPUT)
    report["warnings"] = [
        warning | {"pointer": _place(part, warning["pointer"])} for warning in report.get("warnings", ())
    ]
    return report


def _numbered(part: Part, mistake: Json) -> str:
    remedy = f" {mistake['remedy']}" if mistake.get("remedy") else ""
    return one_line(f"  {_place(part, mistake['pointer'])}: {mistake['message']}{remedy}")


def _place(part: Part, pointer: str) -> str:
    """Say where in the file a pointer into the request points."""
    keys = keys_of(pointer)
    if len(keys) < 2 or keys[0] != "lines":
        return pointer or "the request"
    number, inner = part.lines[int(keys[1])].number, "/".join(keys[2:])
    return f"line {number}" + (f", {inner}" if inner else "")


def _sum(reports: list[Json]) -> Json:
    """Put the reports of all parts together."""
    total: Json = {"dry_run": reports[0]["dry_run"], "changed": any(report["changed"] for report in reports)}
    for kind in ("applications", "endpoints"):
        words = reports[0][kind]
        total[kind] = {word: sum(report[kind][word] for report in reports) for word in words}
    for name in ("secrets_made", "warnings"):
        total[name] = [one for report in reports for one in report.get(name, ())]
    return total


def _summary(report: Json) -> Iterator[str]:
    if not report["changed"]:
        yield "Nothing to change: all is there as the lines say."
    for kind in ("applications", "endpoints"):
        done = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in report[kind].items() if count)
        yield f"{kind}: {done or 'none'}"
    if report["dry_run"] and report["changed"]:
        yield "Nothing was done: this was a dry run."


COMMANDS = [export_, import_]
