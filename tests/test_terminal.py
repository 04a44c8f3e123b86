"""I13: nothing that a stranger wrote commands a terminal, in the output of any verb and in the log."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import relay
from relay.cli import main
from relay.cli.client import Answer, Daemon, Refused
from relay.core.terminal import one_line, visible
from tests.test_cli_verbs import ATTEMPT, DELIVERY, ENDPOINT, EVENT, STATUS
from tests.test_log import Terminal, logged

RAW = "\x00\x07\x08\x0b\x0c\r\x1b\x7f\x80\x85\x9b\x9d\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\udc9b"
HOSTILE = f"x{RAW}\x1b]0;title\x07y"
FORBIDDEN = re.compile(f"[{re.escape(RAW)}\x01-\x08\x0e-\x1f\x80-\x9f\ud800-\udfff]")
ESCAPED = "\\u001b"


def test_what_commands_a_terminal_is_escaped() -> None:
    """I13: each such character becomes its escape; letters, signs, blanks, tabs and line feeds stay as they are."""
    for character in RAW:
        assert visible(f"a{character}b") == one_line(f"a{character}b") == f"a\\u{ord(character):04x}b"
    plain = "Größe 日本 🎉 e\u0301 \u200d — «»\t\n"
    assert visible(plain) == plain
    assert one_line("a\n\tb") == "a\\u000a\\u0009b"


@given(st.text())
def test_json_stays_the_json_it_was(text: str) -> None:
    """I13: an escape inside a JSON string is that string's other spelling, so scripts read what the daemon said."""
    written = visible(json.dumps({text: [text]}, ensure_ascii=False))
    assert json.loads(written) == {text: [text]}
    assert FORBIDDEN.search(written) is None


# -- every verb --------------------------------------------------------------------------------------------------------


class Anything(dict[str, Any]):
    """An answer that has what every verb looks for, each text of it a stranger's."""

    def __missing__(self, name: str) -> str:
        return HOSTILE


def poisoned(value: Any) -> Any:
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        return Anything({name: poisoned(inner) for name, inner in value.items()})
    return [poisoned(inner) for inner in value] if isinstance(value, list) else value


WARNING = {"pointer": "/url", "message": "odd", "where": "relay.toml:1", "key": "x", "remedy": "mend", "severity": "w"}
TIMES = dict.fromkeys(("oldest_at", "newest_at", "updated_at", "state_since"), "2026-11-22T08:00:00.000Z")
NUMBERS = {
    "count": 2,
    "endpoints": 1,
    "keys": 1,
    "deliveries": 1,
    "attempts": 1,
    "series": 1,
    "due": 1,
    "uptime_s": 1.0,
}
SHAPE: dict[str, Any] = {
    **STATUS,
    **ENDPOINT,
    **EVENT,
    **DELIVERY,
    **ATTEMPT,
    **TIMES,
    "response": {"headers": [["x-a", "v"]], "body": "line one\nline two"},
    "next_attempt": {"at": "2026-11-22T08:00:00.000Z", "why": "turn", "detail": "it waits"},
    "features": {"drafts": True},
    "warnings": [WARNING],
    "example": {"a": "b"},
    "schema": {"title": "c"},
    "replaced_by": None,
    "test_only": False,
    "deprecated": False,
    "open": True,
    "duplicate": False,
    "delivered": False,
    "expired": False,
    "expires_at": None,
    "present": True,
    "changed": ["a"],
    "needs_restart": ["b"],
    "reloaded": True,
    "unverified": {"tries": 1, "detail": "d", "next_try_at": "2026-11-22T08:00:00.000Z"},
    "agreed": True,
    "worst": [ENDPOINT | {"blocked": True, "suspended": None}],
    "errors": [{"pointer": "/a", "message": "b"}],
    "usage": {"due": 1, "bytes": 2},
    "limits": {
        "backlog": 1,
        "bytes": "1GiB",
        "definition": "64KiB",
        "endpoints": 1,
        "tests": {"at_once": 1, "per_minute": 1},
    },
}


def shape(path: str) -> Any:
    one = poisoned(SHAPE)
    if path.startswith("/v1/deliveries"):
        one["deliveries"] = 1
    if path.startswith(("/v1/applications", "/v1/dead-letters", "/v1/events/batch")):
        one |= NUMBERS
    if path == "/v1/applications":
        one |= {"endpoint": poisoned(ENDPOINT | {"secret": "s"}), "key": poisoned({"id": "k", "token": "t"})}
    if path.startswith("/v1/replays"):
        one |= {"selected": 1, "left": 0, "count": 2, "skipped": {HOSTILE: 1}, "filters": {"type": HOSTILE}}
        one["sample"] = [poisoned(dict.fromkeys(("delivery", "event_id", "event_type", "endpoint", "created_at"), ""))]
    if path in ("/v1/deliveries/cancel", "/v1/deliveries/retry", "/v1/dead-letters/drop"):
        one |= {"matched": 1, "done": 1, "unknown": 1, "sample": [poisoned(DELIVERY | {"under_way": True})]}
        return Anything(one, next=None)
    if path.startswith("/v1/queue"):
        row = poisoned({"endpoint": "e", "state": "paused", "waits_for": "w"}) | {"due": 1, "by_age": [1, 0]}
        return Anything(one, data=[row], ages=["1m" + HOSTILE], endpoints=2)
    if path == "/v1/import":
        one |= {"applications": Anything({"made": 1}), "endpoints": Anything({"made": 1}), "secrets_made": [HOSTILE]}
    if path == "/v1/rekey":
        one |= NUMBERS | {"idempotency_records": 1, "were_clear": 1, "backups": [HOSTILE], "traces_removed": False}
    if "/explain" in path:
        owed = poisoned(SHAPE) | {"last_attempt": poisoned(SHAPE)}
        one |= {"event": Anything(poisoned(SHAPE)), "delivery": owed, "edited_at": "2026-11-22T08:00:00.000Z"}
    if path.endswith("/secret"):
        one["secrets"] = [Anything(expires_at="2026-11-22T08:00:00.000Z") for _ in range(2)]
    listed = Anything(one)
    listed["deliveries"] = {"due" + HOSTILE: 1} if path.startswith("/v1/events") else 1
    return Anything(one, data=[listed], timeline=[listed], next=HOSTILE if "?" not in path else None)


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Walk the tree of verbs as click knows it."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from leaves(below, (*words, name))


VERBS = [(words, command) for words, command in leaves(main) if words not in {("serve",), ("demo",), ("listen",)}]
"""All but those that run until they are ended: what the relay says of a stranger's text is the log's, below."""


def given_words(command: click.Command, folder: Path) -> list[str]:
    """Fill in every argument, and every option that is asked for, with a stranger's text where text is taken."""
    words: list[str] = []
    for parameter in command.params:
        kind = parameter.type
        value = HOSTILE
        if isinstance(kind, click.Choice):
            value = next(iter(kind.choices))
        elif isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
            value = "1"
        elif isinstance(kind, click.Path | click.File) or parameter.name in ("path", "config_path"):
            value = str(folder / "file.json")
        if isinstance(parameter, click.Argument):
            words.append(value)
        elif parameter.required or parameter.name in ("description", "name", "yes"):
            assert isinstance(parameter, click.Option)
            words += [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], value]
    return words


def run(words: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Result:
    monkeypatch.setenv("RELAY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / f"config{HOSTILE}".replace("\x00", "")))
    return CliRunner().invoke(main, [word.replace("\x00", "") for word in words], input='{"a": "\x1b"}')


@pytest.mark.parametrize("answer", ["data", "a refusal"])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("verb", "command"), VERBS, ids=[" ".join(words) for words, _ in VERBS])
def test_no_verb_lets_a_stranger_command_the_terminal(
    verb: tuple[str, ...],
    command: click.Command,
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    as_json: bool,
) -> None:
    """I13: with such characters in every text it is given and in every answer, no verb prints one, on either stream."""
    (tmp_path / "file.json").write_text('{"a": 1}')

    def call(self: Daemon, method: str, path: str, body: Any = None, *, patient: bool = False) -> Answer:
        found = shape(path)
        if answer == "a refusal":
            raise Refused(
                422,
                {"title": HOSTILE, "detail": HOSTILE, "errors": [{"pointer": HOSTILE, "message": HOSTILE}]},
                as_json,
            )
        return Answer(200, found, json.dumps(found))

    monkeypatch.setattr(Daemon, "call", call)
    result = run([*verb, *given_words(command, tmp_path), *(["--json"] if as_json else [])], monkeypatch, tmp_path)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    found = FORBIDDEN.search(result.output)
    assert found is None, result.output[max(0, found.start() - 60) : found.end() + 20]


@pytest.mark.parametrize(
    "verb", ["endpoint show", "endpoint list", "app list", "app show", "app key list", "events list"]
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_the_walk_would_see_it(verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, as_json: bool) -> None:
    """Negative control: the verbs show the strangers' texts, escaped, and raw where the door is taken away."""
    words = verb.split()
    command = dict(VERBS)[tuple(words)]
    monkeypatch.setattr(
        Daemon, "call", lambda self, method, path, body=None: Answer(200, shape(path), json.dumps(shape(path)))
    )
    line = [*words, *given_words(command, tmp_path), *(["--json"] if as_json else [])]
    assert ESCAPED in run(line, monkeypatch, tmp_path).output
    monkeypatch.setattr("relay.cli.output.visible", lambda text: text.encode("utf-8", "replace").decode())
    monkeypatch.setattr("relay.cli.output.one_line", lambda text: text)
    assert FORBIDDEN.search(run(line, monkeypatch, tmp_path).output)


@pytest.mark.parametrize(
    "words",
    [["\x1b[31m"], ["--\x1b[31m"], ["status", "--\u202e"], ["status", "\x9b"], ["check-config", "--config", "\x1b"]],
)
def test_a_mistyped_command_is_repeated_harmlessly(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """I13: what click says about wrong words shows them escaped."""
    result = run(words, monkeypatch, tmp_path)
    assert result.exit_code != 0
    assert FORBIDDEN.search(result.output) is None


@pytest.mark.parametrize("verb", ["check-config", "config show"])
def test_a_hostile_file_is_shown_harmlessly(verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """I13: names, values and keys of a configuration file are escaped in its mistakes and in what is in force."""
    path = tmp_path / "a\x1b\u202e.toml"
    path.write_text(
        '["ser\\u001bver"]\n[[application]]\nid = "a"\nname = "\\u001b\\u202e"\n[delivery]\n"t\\u009b" = "\\u009b"\n'
    )
    path.chmod(0o600)
    result = run([*verb.split(), "--config", str(path)], monkeypatch, tmp_path)
    assert ESCAPED in result.output
    assert FORBIDDEN.search(result.output) is None


def test_there_is_one_door() -> None:
    """I13: the command line prints in one function, which a new verb cannot walk around unseen."""
    folder = Path(relay.__file__).parent / "cli"
    written = re.compile(r"click\.(echo|secho)\(|\bprint\(|sys\.std(out|err)\.write|pager")
    doors = [(path.name, found[0]) for path in folder.glob("*.py") for found in written.finditer(path.read_text())]
    assert doors == [("output.py", "click.echo(")]


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_the_log_commands_nothing(form: str, stream: type[io.StringIO]) -> None:
    """I13: values, names and tracebacks in the log are escaped, in both forms; the console's own colours stay."""

    def say(logger: Any) -> None:
        logger.warning("x", detail=HOSTILE, listed=[HOSTILE], error=ValueError(HOSTILE), **{f"key{HOSTILE}": 1})
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception("y")

    text = logged(say, stream(), format=form)
    ours = re.sub(r"\x1b\[[0-9;]*m", "", text) if form == "console" and stream is Terminal else text
    assert FORBIDDEN.search(ours) is None, ours
    assert ESCAPED in ours or "\\x1b" in ours
