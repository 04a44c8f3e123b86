"""Manual pages, made of the command tree: what `--help` says, as roff."""

import inspect
import re
from collections.abc import Iterator

import click

from relay import __version__

_ROFF = {ord("\\"): r"\e", ord("-"): r"\-", ord("'"): r"\(aq", ord("`"): r"\(ga", ord("^"): r"\(ha", ord("~"): r"\(ti"}


def manual_pages(root: click.Group, name: str = "relay") -> Iterator[tuple[str, str]]:
    """Make a page for the program and one for each verb: file name (`relay-endpoint-add.1`) and roff."""
    for context in _tree(root, name, None):
        yield f"{_page(context)}.1", "\n".join(_lines(context)) + "\n"


def _tree(command: click.Command, name: str, parent: click.Context | None) -> Iterator[click.Context]:
    context = click.Context(command, parent, name, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            verb = command.get_command(context, each)
            if verb is not None and not verb.hidden:
                yield from _tree(verb, each, context)


def _page(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _lines(context: click.Context) -> Iterator[str]:
    command = context.command
    yield f'.TH "{_page(context).upper()}" "1" "" "relay {__version__}" "relay"'
    yield ".SH NAME"
    yield f"{_text(_page(context))} \\- {_text(command.get_short_help_str(200).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(context.command_path)}"
    yield _text(" ".join(command.collect_usage_pieces(context)))
    if command.help:
        yield ".SH DESCRIPTION"
        yield from _paragraphs(command.help)
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [record for record in (each.get_help_record(context) for each in options) if record]
    if records:
        yield ".SH OPTIONS"
        for option, description in records:
            yield from (".TP", f"\\fB{_text(option)}\\fR", _text(description))
    if isinstance(command, click.Group):
        yield from _verbs(command, context)
    if command.epilog:
        yield from _epilog(command.epilog)
    if context.parent is not None:
        yield from (".SH SEE ALSO", f".BR {_text(_page(context.parent))} (1)")


def _verbs(command: click.Group, context: click.Context) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name in command.list_commands(context):
        verb = command.get_command(context, name)
        if verb is not None and not verb.hidden:
            yield from (".TP", f".BR {_text(f'{_page(context)}-{name}')} (1)", _text(verb.get_short_help_str(200)))


def _paragraphs(text: str) -> Iterator[str]:
    """Fill what is prose; what follows a line `\\b` in a paragraph stays as it is written."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        prose, kept, verbatim = paragraph.partition("\b\n")
        if number:
            yield ".PP"
        if prose.strip():
            yield _text(" ".join(prose.split()))
        if kept:
            yield from (".nf", *(_text(line) for line in verbatim.splitlines()), ".fi")


def _epilog(text: str) -> Iterator[str]:
    """Write the exit codes, `Exit codes:` above them, as a section of their own; else what there is as notes."""
    title, _, rest = text.replace("\b", "").strip().partition("\n")
    yield f".SH {_text(title.rstrip(':').upper())}" if rest else ".SH NOTES"
    yield from (".nf", *(_text(line.strip()) for line in (rest or title).splitlines()), ".fi")


def _text(text: str) -> str:
    """Write text so that roff takes nothing of it for a request or an escape."""
    written = text.translate(_ROFF)
    return rf"\&{written}" if written.startswith((".", r"\(aq")) else written
