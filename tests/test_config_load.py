"""Reading a configuration: layers, origins, and problems that name file, line, key, value and remedy."""

import errno
import ipaddress
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from relay.config import (
    ApplicationConfig,
    Config,
    DeliveryConfig,
    EndpointConfig,
    TokenConfig,
    load,
    render_issues,
    source_and_line,
)
from relay.config.definitions import RetryOverride
from relay.core.units import Rate
from tests.support.config import CONTRACTS, HOME, WHSEC, endpoint, errors, read, sound

WRONG_IN_MANY_WAYS = """\
[server]
listen = ["sytemd", "127.0.0.1:1"]
max_dept = 3
[storage]
durability = "ful"
[delivery]
timeout = 15
retry.jitter = 2
concurrency = 16
[[token]]
name = "a"
role = "producr"
secret = "env:NOPE"
[[application]]
id = "acme"
drafts = true
[[application.endpoint]]
id = "p"
url = "https://user:hunter2@example.com/"
secret = "whsec_hunter2"
headers = { Host = "hunter2" }
concurrency = 9
event_types = [
  "fine.*",
  "not fine",
]
[[application.endpoint]]
urll = "https://example.com/?x=hunter2"
"""


def test_without_any_file_everything_has_a_default() -> None:
    """No file at all is a sound configuration with the application `default` on contract `standard`."""
    loaded = load(None, HOME, {}, contracts=CONTRACTS)
    config = sound(loaded)
    assert loaded.issues == ()
    assert [(application.id, application.contract) for application in config.applications] == [("default", "standard")]
    assert config.server.listen == ("127.0.0.1:8420", "unix:/home/x/.local/state/relay/relay.sock")
    assert config.storage.path == Path("/home/x/.local/state/relay/relay.db")
    assert set(loaded.origins.values()) == {"default"}


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types, bad values and misfits among them all come together, each on its line."""
    loaded = read(tmp_path, WRONG_IN_MANY_WAYS)
    assert loaded.config is None
    assert [(source_and_line(problem)[1], problem.path) for problem in loaded.errors] == [
        (2, "server.listen[0]"),
        (3, "server.max_dept"),
        (5, "storage.durability"),
        (7, "delivery.timeout"),
        (8, "delivery.retry.jitter"),
        (12, "token[a].role"),
        (13, "token[a].secret"),
        (16, "application[acme].drafts"),
        (19, "application[acme].endpoint[p].url"),
        (20, "application[acme].endpoint[p].secret"),
        (21, "application[acme].endpoint[p].headers.Host"),
        (22, "application[acme].endpoint[p].concurrency"),
        (25, "application[acme].endpoint[p].event_types[1]"),
        (27, "application[acme].endpoint[1].id"),
        (27, "application[acme].endpoint[1].url"),
        (27, "application[acme].endpoint[1].secret"),
        (28, "application[acme].endpoint[1].urll"),
    ]
    assert all(problem.message and problem.remedy and problem.place for problem in loaded.issues)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Secrets, header values, and credentials in URLs stay out of the report; references are shown (invariant 13)."""
    text = render_issues(read(tmp_path, WRONG_IN_MANY_WAYS).issues)
    assert "hunter2" not in text
    assert '"env:NOPE"' in text


@given(
    st.sampled_from(["secret", "secrets", "headers", "url", "urll", "token", "application", "id"]), st.integers(0, 4)
)
def test_a_misplaced_secret_is_not_shown(key: str, shape: int) -> None:
    """Whatever type of value stands where a secret might have been meant, the report does not repeat it."""
    value = ['"hunter2!"', '["hunter2!"]', '{ x = "hunter2!" }', '[["hunter2!"]]', '"env: hunter2!"'][shape]
    if key == "id" or shape == 4:
        value = "7"
    for text in (endpoint(**{key: value}), f"{key} = {value}\n"):
        with TemporaryDirectory() as folder:
            assert "hunter2!" not in render_issues(read(Path(folder), text).issues)


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[sever]\n", "sever", 'Did you mean "server"?'),
        ("[delivery]\ntimout = '5s'\n", "delivery.timout", 'Did you mean "timeout"?'),
        ("[delivery]\ntimeout_ms = 5\n", "delivery.timeout_ms", 'Did you mean "timeout"?'),
        ("[delivery]\ndurability = 'full'\n", "delivery.durability", "It belongs in [storage]."),
        ("[log]\nlevel = 'warn'\n", "log.level", 'Did you mean "warning"?'),
        ("[log]\nzzz = 1\n", "log.zzz", "Remove it; the keys here are deliveries, format, level."),
        ("[[application]]\nid = 'a'\ncontract = 'standrad'\n", "application[a].contract", 'Did you mean "standard"?'),
    ],
)
def test_typing_mistakes_get_a_proposal(tmp_path: Path, text: str, key: str, hint: str) -> None:
    """An unknown word comes with the known one that is closest, or with the place where it belongs."""
    (problem,) = read(tmp_path, text).errors
    assert problem.path == key
    assert problem.remedy.startswith(hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log = 5\n", "must be a table"),
        ("token = 'x'\n", "must be a list"),
        ("token = [5]\n", "must be a table"),
        ("[server]\nmax_depth = '4'\n", "must be a whole number"),
        ("[server]\nmax_depth = 0\n", "must be at least 1"),
        ("[server]\nlisten = []\n", "the list is empty"),
        ("[delivery]\nallow_http = 1\n", "must be true or false"),
        ("[delivery]\nallow_networks = ['10.0.0.1/8']\n", "not a network"),
        ("[delivery]\nallow_networks = [7]\n", "a network is written in quotes"),
        ("[delivery]\nown_addresses = ['10.0.0.0/8']\n", "not an IP address"),
        ("[delivery]\nown_addresses = [7]\n", "not an IP address"),
        ("[delivery]\nretry.jitter = nan\n", "must be a finite number"),
        ("[delivery]\nretry.jitter = 'x'\n", "must be a number"),
        ("[delivery]\nretry.schedule = '5s'\n", "must be a list"),
        ("[delivery]\ntimeout = '0s'\n", "must be between 1ms and 10m"),
        ("[storage]\npath = 'relay.db'\n", "the path must be absolute"),
        ("[storage]\npath = 5\n", "must be text"),
        ("application = []\n", "the list is empty"),
        ("[[application]]\nid = '-'\n", "an id begins with a letter or digit"),
        ("[[application]]\nid = 5\n", "must be text"),
    ],
)
def test_wrong_values_are_explained_in_plain_words(tmp_path: Path, text: str, message: str) -> None:
    """Each kind of wrong value has words of its own and a remedy; none is told in the library's terms."""
    (problem,) = read(tmp_path, text).errors
    assert problem.message.startswith(message)
    assert problem.remedy


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"[server\n", 1, "not TOML: expected"),
        (b"a = 1\na = 2\n", 2, "not TOML: cannot overwrite a value"),
        (b"[a]\nb = [1,\n", None, "not TOML: invalid value"),
        (b"# \xff\n", 1, "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_not_toml_is_located(tmp_path: Path, content: bytes, line: int | None, message: str) -> None:
    """A file that cannot be parsed yields one problem, with the line where the parser gave up."""
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    (problem,) = load(file, HOME, {}, contracts=CONTRACTS).issues
    assert source_and_line(problem) == (str(file), line)
    assert problem.message.startswith(message)


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file and a folder in its place are problems, not exceptions."""
    for path, reason in ((tmp_path / "none.toml", "no such file"), (tmp_path, "is a directory")):
        (problem,) = load(path, HOME, {}, contracts=CONTRACTS).issues
        assert reason in problem.message


def test_precedence_is_default_file_environment_flag(tmp_path: Path) -> None:
    """Each layer overrides the one below it, and every key says where its value comes from."""
    text = "[delivery]\nconcurrency = 8\ntimeout = '1s'\ndrain_timeout = '1s'\n"
    env = {"RELAY_DELIVERY__TIMEOUT": "2s", "RELAY_DELIVERY__DRAIN_TIMEOUT": "2s"}
    loaded = read(tmp_path, text, env, {"delivery.drain_timeout": "3s"})
    delivery = sound(loaded).delivery
    assert (delivery.concurrency, delivery.timeout_ms, delivery.drain_timeout_ms) == (8, 2000, 3000)
    assert loaded.origins["delivery.connect_timeout"] == "default"
    assert loaded.origins["delivery.concurrency"] == "file:2"
    assert loaded.origins["delivery.timeout"] == "env RELAY_DELIVERY__TIMEOUT"
    assert loaded.origins["delivery.drain_timeout"] == "flag --drain-timeout"


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("RELAY_SERVER__LISTEN", "127.0.0.1:1, unix:/x", "server.listen", ["127.0.0.1:1", "unix:/x"]),
        ("RELAY_SERVER__LISTEN", '["127.0.0.1:1"]', "server.listen", ["127.0.0.1:1"]),
        ("RELAY_SERVER__LISTEN", "127.0.0.1:1", "server.listen", ["127.0.0.1:1"]),
        ("RELAY_SERVER__MAX_DEPTH", "10", "server.max_depth", 10),
        ("RELAY_SERVER__MAX_BODY", "2MiB", "server.max_body", "2MiB"),
        ("RELAY_DELIVERY__ALLOW_HTTP", "true", "delivery.allow_http", True),
        ("RELAY_DELIVERY__ALLOW_NETWORKS", "", "delivery.allow_networks", []),
        ("RELAY_DELIVERY__RETRY__JITTER", "0.5", "delivery.retry.jitter", 0.5),
        ("RELAY_STORAGE__RETENTION__EVENTS", "10d", "storage.retention.events", "10d"),
        ("RELAY_LOG__LEVEL", "debug", "log.level", "debug"),
    ],
)
def test_the_environment_overrides_every_kind_of_value(name: str, value: str, key: str, expected: object) -> None:
    """`RELAY_SECTION__KEY` takes words, numbers, booleans and lists without quoting rituals."""
    loaded = load(None, {**HOME, name: value}, {}, contracts=CONTRACTS)
    sound(loaded)
    assert {setting.key: setting.value for setting in loaded.settings}[key] == expected


def test_a_wrong_variable_is_named_as_the_source(tmp_path: Path) -> None:
    """A mistake in a variable is reported under its name, though the file has that key too."""
    loaded = read(tmp_path, "[log]\nlevel = 'info'\n", {"RELAY_LOG__LEVEL": "inf"})
    (problem,) = loaded.errors
    assert (problem.place, problem.path, problem.value) == ("env RELAY_LOG__LEVEL", "log.level", '"inf"')


def test_unknown_variables_are_warned_about(tmp_path: Path) -> None:
    """A `RELAY_*` variable that is neither a setting, nor the client's, nor a secret's is a warning with a proposal."""
    env = {"RELAY_LOG__LEVL": "x", "RELAY_TOKEN": "x", "RELAY_CONFIG": "x", "RELAY_ACME": WHSEC, "RELAYS": "x"}
    loaded = read(tmp_path, endpoint(secret='"env:RELAY_ACME"'), env)
    (problem,) = loaded.issues
    assert problem.warning
    assert (problem.place, problem.remedy) == ("env RELAY_LOG__LEVL", 'Did you mean "RELAY_LOG__LEVEL"?')


def test_dev_allows_this_host_and_keeps_what_the_file_allows(tmp_path: Path) -> None:
    """`--dev` adds loopback networks and http to what is configured, without warnings about it."""
    text = "[delivery]\nallow_networks = ['10.0.0.0/8']\n" + endpoint(url='"http://localhost:9000/"', secret='"env:S"')
    loaded = read(tmp_path, text, {"S": WHSEC}, {"dev": True})
    assert loaded.issues == ()
    delivery = sound(loaded).delivery
    assert delivery.allow_http
    assert [str(network) for network in delivery.allow_networks] == ["10.0.0.0/8", "127.0.0.0/8", "::1/128"]
    assert loaded.origins["delivery.allow_http"] == "flag --dev"
    assert not sound(read(tmp_path, "", HOME, {"dev": False})).delivery.allow_http


@pytest.mark.parametrize("address", ["0.0.0.0:8420", "[::]:8420", "relay.example.com:8420", "192.0.2.1:1"])
def test_dev_is_refused_where_others_can_connect(tmp_path: Path, address: str) -> None:
    """`--dev` with a listener that is not loopback is an error; without --dev that listener is a warning."""
    text = f"[server]\nlisten = ['127.0.0.1:1', '{address}']\n"
    assert list(errors(read(tmp_path, text, HOME, {"dev": True}))) == ["server.listen[1]"]
    assert [problem.warning for problem in read(tmp_path, text).issues] == [True]


@pytest.mark.parametrize(
    ("mode", "words"), [(0o644, "everybody on this host can read"), (0o640, "the file holds secrets")]
)
def test_literal_secrets_are_warned_about(tmp_path: Path, mode: int, words: str) -> None:
    """Secrets in the file itself bring one warning, and another one when everybody can read the file."""
    (problem,) = read(tmp_path, endpoint(), mode=mode).issues
    assert problem.warning
    assert problem.message.startswith(words)
    assert "application[acme].endpoint[e].secret" in problem.message


def test_settings_in_effect_hide_secrets(tmp_path: Path) -> None:
    """`config show` has references but no literal secret, no header value, and no query values."""
    text = endpoint(url='"https://example.com/?t=hunter2"', headers='{ X-A = "hunter2" }')
    shown = {setting.key: setting.value for setting in read(tmp_path, text).settings}
    place = "application[acme].endpoint[e]"
    assert shown[f"{place}.secret"] == "********"
    assert shown[f"{place}.headers.X-A"] == "********"
    assert shown[f"{place}.url"] == "https://example.com/…"
    loaded = read(tmp_path, endpoint(secret='"env:S"'), {"S": WHSEC})
    assert {setting.key: setting.value for setting in loaded.settings}[f"{place}.secret"] == "env:S"


@given(st.text(max_size=60))
def test_nothing_is_raised_for_what_people_write(text: str) -> None:
    """Any text in the file is either a configuration or a list of problems, never an exception."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        loaded = load(file, HOME, {}, contracts=CONTRACTS)
    assert (loaded.config is None) == bool(loaded.errors)


values = st.recursive(
    st.sampled_from(["5", '"x"', "true", "0.5", '"5s"', "[]", "{}"]),
    lambda inner: st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=3,
)
places = st.sampled_from(
    [
        "server", "server.listen", "storage.path", "storage.retention", "storage.retention.events", "delivery.retry",
        "delivery.retry.schedule", "delivery.health.failures", "log", "token", "application", "application.id", "x.y",
    ]
)  # fmt: skip


@given(places, values)
def test_any_value_in_any_place_is_answered(place: str, value: str) -> None:
    """A value of any shape in the place of any other is a problem with a line, never an exception."""
    with TemporaryDirectory() as folder:
        loaded = read(Path(folder), f"{place} = {value}\n")
    assert (loaded.config is None) == bool(loaded.errors)
    assert all(source_and_line(problem)[1] == 1 for problem in loaded.errors)


def test_code_builds_models_with_plain_values() -> None:
    """Code names attributes and passes numbers and objects; what it built shows no secret (invariant 13)."""
    network = ipaddress.ip_network("10.0.0.0/8")
    config = Config(delivery=DeliveryConfig(allow_networks=(network,)))
    token = TokenConfig(name="a", role="admin", secret=SecretStr("hunter2-hunter2"))
    receiver = EndpointConfig(id="e", url="https://example.com/", timeout_ms=5, rate=Rate(5, 1000), secret="hunter2")
    application = ApplicationConfig(id="a", retry=RetryOverride(schedule_ms=(1, 2)), endpoints=(receiver,))
    assert config.delivery.allow_networks == (network,)
    assert (config.delivery.schedule_ms[0], config.delivery.jitter) == (5000, 0.2)
    assert (application.schedule_ms, application.jitter) == ((1, 2), None)
    assert (receiver.schedule_ms, receiver.secret_values) == (None, ("hunter2",))
    assert "hunter2" not in repr((token, application))
    assert "hunter2" not in str((token.model_dump(), application.model_dump()))


@pytest.mark.parametrize("depth", [100, 400, 450, 490, 5000])
def test_absurd_nesting_is_a_problem(tmp_path: Path, depth: int) -> None:
    """A value nested hundreds of levels deep is refused, not a crash."""
    assert read(tmp_path, f"[server]\nlisten = {'[' * depth}{']' * depth}\n").errors


def test_a_file_without_permission_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is named with the reason."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (problem,) = read(tmp_path, "").issues
    assert problem.message == "cannot be read: permission denied"


def test_a_sound_file_is_not_searched_for_lines(tmp_path: Path) -> None:
    """S5: where a value stands, and what is in effect, is found when somebody asks; a start with many endpoints does not."""
    loaded = read(tmp_path, "[delivery]\nconcurrency = 9\n")
    assert loaded.config is not None
    assert "lines" not in vars(loaded.layers)
    assert loaded.origins["delivery.concurrency"] == "file:2"
    assert "lines" in vars(loaded.layers)


def test_the_warning_about_secrets_names_some_and_counts_the_rest(tmp_path: Path) -> None:
    """S5: with thousands of secrets in the file, the warning about them stays a line that can be read."""
    tokens = "".join(
        f'[[token]]\nname = "t{number}"\nrole = "reader"\nsecret = "a-token-of-its-own-{number:04}"\n'
        for number in range(25)
    )
    (warning,) = [issue for issue in read(tmp_path, tokens).issues if "secrets" in issue.message]
    assert "token[t19].secret and 5 more" in warning.message
    assert "token[t20]" not in warning.message
