"""`relay sign` and `relay verify`: what they print, and how they end."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli import main

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = "1614265330"
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = f"webhook-id: {ID}\nwebhook-timestamp: {AT}\n\nwebhook-signature: {SIGNATURE}\n"


def relay(*arguments: str, body: bytes = BODY, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=body, env=env)


@pytest.fixture
def header_file(tmp_path: Path) -> str:
    path = tmp_path / "headers.txt"
    path.write_text(HEADERS)
    return str(path)


def test_sign_prints_the_headers_of_the_published_vector(tmp_path: Path) -> None:
    """The first vector, from a file; the output is what `curl -H @-` takes."""
    (tmp_path / "body").write_bytes(BODY)

    result = relay("sign", "--secret", SECRET, "--id", ID, "--at", AT, str(tmp_path / "body"))

    assert result.exit_code == 0
    assert result.stdout == "Content-Type: application/json\n" + HEADERS.replace("\n\n", "\n")
    assert result.stderr == ""


def test_sign_makes_an_id_and_takes_the_time() -> None:
    """Without --id and --at it signs a fresh message, now."""
    before = int(time.time())

    result = relay("sign", "--secret", SECRET, "--json")

    headers = json.loads(result.stdout)["headers"]
    assert headers["webhook-id"].startswith("evt_")
    assert before <= int(headers["webhook-timestamp"]) <= time.time()


def test_sign_and_verify_agree_over_standard_input(tmp_path: Path) -> None:
    """What `sign` prints, `verify` takes, with a secret from the environment and one from a file."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    printed = relay("sign", "--secret", "env:HOOK_SECRET", env={"HOOK_SECRET": SECRET}).stdout
    (tmp_path / "headers").write_text(printed)

    result = relay("verify", "--secret", f"file:{tmp_path}/secret", "--headers", str(tmp_path / "headers"))

    assert (result.exit_code, result.stdout) == (0, "Verified: The signature is right.\n")


def test_sign_warns_of_a_secret_that_the_configuration_refuses() -> None:
    """The signer takes the 18-byte key of a published vector; the warning says that `relay serve` would not."""
    result = relay("sign", "--secret", "whsec_plJ3nmyCDGBKInavdOK15jsl")

    assert result.exit_code == 0
    assert "Warning: the secret has 18 bytes" in result.stderr


@pytest.mark.parametrize("at", [AT, "2021-02-25T15:02:10Z", "2021-02-25T16:02:10.000+01:00"])
def test_verify_takes_times_in_both_forms(header_file: str, at: str) -> None:
    """Unix seconds, or RFC 3339 with a zone."""
    assert relay("verify", "--secret", SECRET, "--headers", header_file, "--at", at).exit_code == 0


def test_verify_says_why_not(header_file: str) -> None:
    """A stale timestamp ends with 1, as text and as JSON."""
    arguments = ("verify", "--secret", SECRET, "--headers", header_file)

    text, data = relay(*arguments), relay(*arguments, "--json")

    assert (text.exit_code, data.exit_code) == (1, 1)
    assert text.stdout.startswith("Not verified: The signature is right, but its timestamp is ")
    told = json.loads(data.stdout)
    assert (told["verified"], told["verdict"]) == (False, "stale")


def test_verify_takes_headers_one_by_one() -> None:
    """-H repeats; a changed body is explained."""
    headers = [part for line in HEADERS.split("\n") if line for part in ("-H", line)]

    result = relay("verify", "--secret", SECRET, *headers, "--at", AT, body=b'{"test":2432232314}')

    assert result.exit_code == 1
    assert "parsed and serialised again" in result.stdout


def test_a_tolerance_may_be_wider(header_file: str) -> None:
    """--tolerance takes a duration."""
    assert relay("verify", "--secret", SECRET, "--headers", header_file, "--tolerance", "36500d").exit_code == 0


def test_contracts_of_ones_own(tmp_path: Path) -> None:
    """--contracts names a folder; url, endpoint, type and attempt are there for contracts that use them."""
    (tmp_path / "own.toml").write_text(
        'description = ""\nbody.members = [{ name = "d", value = "{data}" }]\n'
        '[headers]\nx = "{url} {endpoint_id} {type} {attempt}"\n[[signature]]\nheader = "s"\ncontent = "{url}{body}"\n'
    )
    where = ("--contracts", str(tmp_path), "--contract", "own", "--secret", "k", "--url", "https://a.example/b")

    signed = relay("sign", *where, "--endpoint", "ep_1", "--type", "cut.done", "--attempt", "3")
    found = relay("verify", *where, "-H", signed.stdout.splitlines()[-1])

    assert "x: https://a.example/b ep_1 cut.done 3\n" in signed.stdout
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("sign",), 2, "Missing option '--secret'"),
        (("sign", "--secret", SECRET, "no-such-file"), 2, "No such file"),
        (("sign", "--secret", SECRET, "--contract", "stendard"), 2, "There is no contract 'stendard'"),
        (("sign", "--secret", SECRET, "--contracts", "nowhere"), 78, "nowhere: cannot be read"),
        (("sign", "--secret", "whsec_!"), 65, "secret 1 is not base64"),
        (("sign", "--secret", "env:NOT_THERE"), 65, "The environment has no NOT_THERE"),
        (("sign", "--secret", "file:not-there"), 65, "The secret file not-there cannot be read"),
        (("sign", "--secret", SECRET, "--at", "noon"), 65, "'noon' is no time"),
        (("sign", "--secret", SECRET, "--at", "2026-11-22T08:30:00"), 65, "lacks its zone"),
        (("verify", "--secret", "whsec_!"), 65, "secret 1 is not base64"),
        (("verify", "--secret", SECRET, "-H", "webhook-id evt_1"), 65, "'webhook-id evt_1' is no header"),
        (("verify", "--secret", SECRET, "--tolerance", "5 parrots"), 65, "--tolerance '5 parrots'"),
    ],
)
def test_wrong_input_gets_one_message_and_the_documented_code(
    arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    """2 for wrong use, 65 for input that cannot be read, 78 for contract files; never a traceback."""
    result = relay(*arguments)

    assert result.exit_code == exit_code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert SECRET not in result.output


def test_any_bytes_can_be_signed() -> None:
    """A body need be neither JSON nor text."""
    assert relay("sign", "--secret", SECRET, body=b"\xff\x00").exit_code == 0


def test_parts_of_the_event_are_given(tmp_path: Path) -> None:
    """K14: what a contract shows and signs of an event comes with --fact; what is no part of one is wrong use."""
    (tmp_path / "own.toml").write_text(
        'description = "x"\n[body]\nkind = "data"\n[headers]\nX-Who = "{data.who}"\n'
        '[[signature]]\nheader = "s"\ncontent = "{data.who}.{metadata.n}.{body}"\n'
    )
    own = ("--contract", "own", "--contracts", str(tmp_path), "--secret", "k" * 32)
    facts = ("--fact", "data.who=Ada L", "--fact", "metadata.n=7")
    signed = json.loads(relay("sign", *own, *facts, "--json", "-").stdout)["headers"]
    assert signed["X-Who"] == "Ada%20L"
    shown = [part for name, value in signed.items() for part in ("-H", f"{name}: {value}")]
    assert relay("verify", *own, *shown, "--fact", "metadata.n=7", "--fact", "data.who=Ada L", "-").exit_code == 0
    assert "covers the metadata.n" in relay("verify", *own, *shown, "--fact", "data.who=Ada L", "-").stdout
    wrong = relay("sign", *own, "--fact", "who=Ada", "-")
    assert (wrong.exit_code, "Write it as data.id=7" in wrong.stderr) == (2, True)
