"""The command line as people and scripts meet it: help, exit codes, finding the daemon, refusals."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import relay
from relay.cli import EXIT_CODES, SECTIONS, main
from relay.cli.address import Address, find
from relay.cli.output import Exit, Failure, counted, facts, table
from tests.support.api_stub import ApiStub

HEAVY = ("aiohttp", "pydantic", "structlog", "aiosqlite", "cryptography", "orjson", "msgspec", "uvloop")
VERBS = [name for section in SECTIONS.values() for name in section]
EVENT = {"id": "evt_1", "type": "order.paid", "deliveries": 2, "duplicate": False}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("RELAY_", "XDG_", "RUNTIME_DIR", "STATE_DIR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def api() -> Iterator[ApiStub]:
    stub = ApiStub()
    yield stub
    stub.close()


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=stdin, catch_exceptions=False)


# -- help ---------------------------------------------------------------------------------------------------------------


LIGHT = [name for name in VERBS if name not in ("trigger", "sign", "verify")]  # those three read contracts


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["version"], *([name, "--help"] for name in LIGHT)])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """`relay --help` and the module of an operator's verb never import the daemon's libraries."""
    code = (
        "import sys\nfrom relay.cli import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_operators_verbs_import_nothing_heavy(api: ApiStub) -> None:
    """A verb that talks to a daemon it was told of starts without the daemon's libraries."""
    api.answer("GET", "/v1/events/evt_1", {"id": "evt_1"})
    api.answer("GET", "/v1/events/evt_1/deliveries", {"data": [], "next": None})
    words = ["events", "show", "evt_1", "--json", "--url", api.url]
    code = f"import sys\nfrom relay.cli import main\nmain({words!r}, standalone_mode=False)\nprint('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_there(name: str) -> None:
    """Each verb that `relay --help` lists exists under that name and explains itself."""
    result = run(name, "--help")
    assert result.exit_code == Exit.FINE
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_help_documents_every_exit_code() -> None:
    """Each exit code that the program uses is documented in `relay --help`."""
    documented = {int(number) for number in re.findall(r"^  (\d+)", EXIT_CODES, re.MULTILINE)}
    assert documented == set(Exit)
    assert "Exit codes:" in run("--help").output


def test_a_mistyped_verb_is_usage_with_a_proposal() -> None:
    """A mistyped verb exits 2 and names the verb that was meant."""
    result = run("statsu")
    assert result.exit_code == Exit.USAGE
    assert "status" in result.stderr


def test_version_has_one_source() -> None:
    """`relay version`, `--version` and `--json` all say what `relay.__version__` says."""
    assert run("version").output.startswith(f"relay {relay.__version__} ")
    assert run("--version").output == f"relay {relay.__version__}\n"
    assert json.loads(run("version", "--json").stdout)["relay"] == relay.__version__


def test_module_is_the_command() -> None:
    """`python -m relay` is `relay`."""
    done = subprocess.run(
        [sys.executable, "-m", "relay", "version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.startswith(f"relay {relay.__version__}")


# -- finding the daemon -------------------------------------------------------------------------------------------------


def test_flags_win_over_everything(tmp_path: Path) -> None:
    """--socket and --url name the daemon, whatever environment and file say."""
    env = {"RELAY_URL": "http://127.0.0.1:1", "RELAY_CONFIG": str(tmp_path / "none.toml")}
    assert find(None, "/s", None, env) == [Address(socket="/s")]
    assert find("http://[::1]:2/", None, None, env) == [Address(host="::1", port=2)]
    assert find("unix:/x", None, None, {"RELAY_SOCKET": "/s"}) == [Address(socket="/x")]


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    """$RELAY_URL and $RELAY_SOCKET come before the configuration."""
    config = tmp_path / "config.toml"
    config.write_text('[server]\nlisten = "127.0.0.1:9"')
    assert find(None, None, str(config), {"RELAY_URL": "https://relay.test"}) == [
        Address(host="relay.test", port=443, tls=True)
    ]
    assert find(None, None, str(config), {"RELAY_SOCKET": "/s"}) == [Address(socket="/s")]


def test_the_file_says_where_it_listens(tmp_path: Path) -> None:
    """`server.listen` is read even where secrets could not be: sockets first, wildcards as loopback, port 0 left out."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[server]\nlisten = ["0.0.0.0:7", "[::]:8", "127.0.0.1:0", "unix:/run/r.sock"]\n[[token]]\nsecret = "cred:none"\n'
    )
    assert find(None, None, None, {"RELAY_CONFIG": str(config)}) == [
        Address(socket="/run/r.sock"),
        Address(host="127.0.0.1", port=7),
        Address(host="::1", port=8),
    ]


def test_without_a_word_the_usual_places() -> None:
    """Without flag, variable and file the user's socket is tried first, then the host's, then the default port."""
    found = find(None, None, None, {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/nonexistent"})
    assert [str(address) for address in found] == [
        "unix:/run/user/7/relay/relay.sock",
        "unix:/run/relay/relay.sock",
        "unix:/var/lib/relay/relay.sock",
        "http://127.0.0.1:8420",
    ]


@pytest.mark.parametrize("url", ["relay", "ftp://x", "http://", "http://h:99999", "http://h:1/v1", "http://h:x"])
def test_a_wrong_url_is_usage(url: str) -> None:
    """An address that cannot be one exits 2 and says which forms are taken."""
    result = run("status", "--url", url)
    assert result.exit_code == Exit.USAGE
    assert "unix:/run/relay/relay.sock" in result.stderr


def test_a_broken_file_is_configuration(tmp_path: Path) -> None:
    """A configuration that is not TOML exits 78 and points to `relay check-config`."""
    config = tmp_path / "config.toml"
    config.write_text("[server")
    result = run("status", "--config", str(config))
    assert result.exit_code == Exit.CONFIGURATION
    assert "check-config" in result.stderr


def test_no_daemon_exits_69_with_a_remedy(tmp_path: Path) -> None:
    """When nobody answers, every place that was tried is listed with its reason and what to do; exit 69."""
    result = run("status", "--socket", str(tmp_path / "none.sock"))
    assert result.exit_code == Exit.UNREACHABLE
    assert "none.sock: no such file or directory" in result.stderr
    assert "relay serve" in result.stderr
    assert result.stdout == ""


def test_a_connection_that_breaks_exits_69() -> None:
    """A daemon that hangs up without an answer is reported as such, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(
            [sys.executable, "-m", "relay", "status", "--url", f"http://127.0.0.1:{port}"],
            stderr=subprocess.PIPE,
            text=True,
        ) as verb:
            server.accept()[0].close()
            _, stderr = verb.communicate(timeout=30)
    assert verb.returncode == Exit.UNREACHABLE
    assert "broke off" in stderr
    assert "Traceback" not in stderr


def test_something_else_on_the_port(api: ApiStub) -> None:
    """An answer that is not JSON is no relay; exit 69 names --url."""
    api.answer("GET", "/v1/status", b"<html>")
    result = run("status", "--url", api.url)
    assert result.exit_code == Exit.UNREACHABLE
    assert "--url" in result.stderr


def test_unix_socket_works_like_tcp(tmp_path: Path) -> None:
    """The same verbs work through a Unix socket, named by flag or by $RELAY_URL."""
    stub = ApiStub(tmp_path / "s")
    try:
        stub.answer("POST", "/v1/events", EVENT, 202)
        assert run("send", "order.paid", "--socket", str(tmp_path / "s")).exit_code == Exit.FINE
        assert run("send", "order.paid", "--url", stub.url).exit_code == Exit.FINE
    finally:
        stub.close()


# -- tokens and refusals ------------------------------------------------------------------------------------------------


def test_token_from_flag_or_environment(api: ApiStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """--token wins over $RELAY_TOKEN; both go out as a bearer token; without one none is sent."""
    api.answer("POST", "/v1/events", EVENT, 202)
    run("send", "a", "--url", api.url)
    monkeypatch.setenv("RELAY_TOKEN", "from-environment")
    run("send", "a", "--url", api.url)
    run("send", "a", "--url", api.url, "--token", "from-flag")
    assert [asked.headers.get("Authorization") for asked in api.asked] == [
        None,
        "Bearer from-environment",
        "Bearer from-flag",
    ]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Exit.BAD_INPUT),
        (401, Exit.NO_PERMISSION),
        (403, Exit.NO_PERMISSION),
        (404, Exit.FAILED),
        (409, Exit.FAILED),
        (413, Exit.BAD_INPUT),
        (415, Exit.BAD_INPUT),
        (422, Exit.BAD_INPUT),
        (429, Exit.TEMPORARY),
        (500, Exit.FAILED),
        (503, Exit.TEMPORARY),
        (507, Exit.TEMPORARY),
    ],
)
def test_refusals_become_exit_codes(api: ApiStub, status: int, code: Exit) -> None:
    """Each kind of refusal has its documented exit code, its title and detail on stderr, and nothing on stdout."""
    api.problem("POST", "/v1/events", status, "The title", detail="Detail and remedy.")
    result = run("send", "a", "--url", api.url)
    assert result.exit_code == code
    assert "The title\nDetail and remedy.\n" in result.stderr
    assert result.stdout == ""


def test_every_mistake_is_printed_with_its_pointer(api: ApiStub) -> None:
    """A validation error shows each mistake with its JSON pointer; exit 65."""
    mistakes = [{"pointer": "/type", "message": "is wrong"}, {"pointer": "", "message": "is no object"}]
    api.problem("POST", "/v1/events", 422, "The request has mistakes", detail="/type: is wrong", errors=mistakes)
    result = run("send", "a", "--url", api.url)
    assert result.exit_code == Exit.BAD_INPUT
    assert result.stderr == "The request has mistakes\n  /type: is wrong\n  is no object\n"


def test_refused_with_json_prints_the_problem_object(api: ApiStub) -> None:
    """With --json the problem document itself goes to stderr; stdout stays empty (ecosystem §3.1)."""
    api.problem("POST", "/v1/events", 409, "Conflict", detail="differs")
    result = run("send", "a", "--json", "--url", api.url)
    assert (result.exit_code, result.stdout) == (Exit.FAILED, "")
    assert json.loads(result.stderr)["title"] == "Conflict"


def test_a_permission_problem_tells_about_tokens(api: ApiStub) -> None:
    """401 and 403 say how to give a token."""
    api.problem("GET", "/v1/status", 401, "A token is needed", detail="Send one.")
    result = run("status", "--url", api.url)
    assert result.exit_code == Exit.NO_PERMISSION
    assert "RELAY_TOKEN" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_closed_socket_is_a_permission_problem(tmp_path: Path) -> None:
    """A socket that this user may not open exits 77 and names the group."""
    stub = ApiStub(tmp_path / "s")
    try:
        (tmp_path / "s").chmod(0)
        result = run("status", "--socket", str(tmp_path / "s"))
    finally:
        stub.close()
    assert result.exit_code == Exit.NO_PERMISSION
    assert "group" in result.stderr


# -- output -------------------------------------------------------------------------------------------------------------


def test_tables_and_facts() -> None:
    """Columns line up, None is a dash in a table and left out of facts."""
    rows = [{"a": "wide one", "b": None}, {"a": 1, "b": True}]
    assert table({"A": "a", "LONG": lambda row: row["b"]}, rows) == "A         LONG\nwide one  –\n1         yes"
    assert facts({"a": 1, "none": None, "list": ["x", "y"]}) == "a     1\nlist  x, y"


def test_counted() -> None:
    """Numbers agree with their nouns."""
    assert [counted(0, "delivery"), counted(1, "delivery"), counted(2, "letter")] == [
        "0 deliveries",
        "1 delivery",
        "2 letters",
    ]


def test_failure_is_a_message_and_a_code() -> None:
    """A failure keeps its exit code as a plain number for the process."""
    assert Failure("x", Exit.TEMPORARY).exit_code == 75
