"""What settings ask of each other."""

from pathlib import Path

import pytest

from tests.support.config import HOME, WHSEC, endpoint, errors, read

TOKEN = "0123456789abcdef"


def token(name: str = "t", role: str = "producer", secret: str = TOKEN, application: str = "") -> str:
    bound = f'application = "{application}"\n' if application else ""
    return f'[[token]]\nname = "{name}"\nrole = "{role}"\nsecret = "{secret}"\n{bound}'


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("[storage]\nretention = { events = '3d' }\n", "storage.retention.events", "shorter than delivery.max_age, 5d"),
        ("[delivery]\nmax_age = '31d'\n", "delivery.max_age", "longer than storage.retention.events, 30d"),
        (endpoint(max_age="'31d'"), "application[acme].endpoint[e].max_age", "longer than storage.retention.events"),
        ("[storage]\nretention = { events = '91d' }\n", "storage.retention.events", "retention.idempotency, 90d: a request"),
        ("[storage]\nretention = { idempotency = '1d' }\n", "storage.retention.idempotency", "retention.events, 30d"),
        ("[delivery]\nhealth = { cool_down = '1h' }\n", "delivery.health.cool_down", "health.cool_down_max, 15m"),
        ("[delivery]\nhealth = { cool_down_max = '1s' }\n", "delivery.health.cool_down_max", "delivery.health.cool_down, 5s"),
        ("[server]\nlisten = ['unix:/a', 'unix:/a']\n", "server.listen[1]", "listed twice"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other(tmp_path: Path, text: str, key: str, words: str) -> None:
    """Of two settings that do not fit, the one that somebody wrote is blamed (Q14, Q8, Q5)."""
    loaded = read(tmp_path, text)
    assert list(errors(loaded)) == [key]
    assert words in errors(loaded)[key]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (token() + token(secret=TOKEN[::-1]), "token[t].name", "another token has this name"),
        (token() + token("u"), "token[u].secret", "another token has the same secret"),
        (token(secret="short"), "token[t].secret", "at least 16 visible ASCII characters"),
        (token(secret="0123456789 abcdef"), "token[t].secret", "at least 16 visible ASCII characters"),
        (token(secret="0123456789äabcdef"), "token[t].secret", "at least 16 visible ASCII characters"),
        (token(role="application"), "token[t].application", "is missing"),
        (token(role="admin", application="default"), "token[t].application", "sees every application"),
        (token(application="defualt"), "token[t].application", "no such application"),
    ],
)
def test_tokens(tmp_path: Path, text: str, key: str, words: str) -> None:
    """Tokens have names and secrets of their own, are long enough, and are bound as their role asks."""
    assert words in errors(read(tmp_path, text))[key]


def test_sound_tokens_are_taken(tmp_path: Path) -> None:
    """A bound and an unbound producer, an application's token and an admin's are all fine."""
    text = token("a", application="default") + token("b", secret="b" * 16)
    text += token("c", "application", "c" * 16, "default") + token("d", "admin", "d" * 16)
    assert errors(read(tmp_path, text)) == {}


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"url": "'http://example.com/'"}, "url", "http would send payloads unprotected"),
        ({"url": "'https://10.0.0.1/'"}, "url", "10.0.0.1 is not a public address"),
        ({"url": "'https://localhost/'"}, "url", "names something on this network"),
        ({"url": "'https://[x/'"}, "url", "cannot be read as a URL"),
        ({"headers": "{ 'webhook-id' = 'x' }"}, "headers.webhook-id", "are reserved"),
        ({"headers": "{ X-A = 'x', x-a = 'y' }"}, "headers.x-a", "there twice"),
        ({"event_types": "['a.*', 'a b']"}, "event_types[1]", "is not an event type here"),
        ({"event_types": "[]"}, "event_types", "the list is empty"),
        ({"secret": ""}, "secret", "is missing: the contract standard signs"),
        ({"secret": "'whsec_AAAA'"}, "secret", "24 to 64"),
        ({"secret": "'plain text'"}, "secret", "whsec_"),
        ({"secrets": f"['{WHSEC}']"}, "secret", "both secret and secrets"),
        ({"secret": "", "secrets": f"['{WHSEC}', '{WHSEC}']"}, "secrets[1]", "listed twice"),
        ({"secret": "", "secrets": "[]"}, "secrets", "the list is empty"),
        ({"concurrency": "65"}, "concurrency", "a quarter of delivery.concurrency at most, which is 64"),
        ({"rate_limit": "'0/s'"}, "rate_limit", "a rate is a whole number above 0"),
        ({"filters": "'x'"}, "filters", "unknown key"),
        ({"filter": "'x'"}, "filter", "must be an object of conditions"),
    ],
)
def test_endpoints(tmp_path: Path, settings: dict[str, str], key: str, words: str) -> None:
    """URL, headers, subscriptions, secrets and limits of an endpoint are judged, each on its own line (Q4)."""
    loaded = read(tmp_path, endpoint(**settings))
    place = f"application[acme].endpoint[e].{key}"
    assert list(errors(loaded)) == [place]
    assert words in errors(loaded)[place]


def test_ids_are_unique(tmp_path: Path) -> None:
    """Application ids are unique, and endpoint ids in the whole relay."""
    other = endpoint().replace('"acme"', '"other"')
    assert errors(read(tmp_path, endpoint() + other)) == {
        "application[other].endpoint[e].id": "another endpoint has this id"
    }
    assert set(errors(read(tmp_path, endpoint() + "[[application]]\nid = 'acme'\n"))) == {"application[acme].id"}


def test_features_belong_to_the_contract(tmp_path: Path) -> None:
    """A feature that the contract does not declare is refused, not ignored."""
    loaded = read(tmp_path, "[[application]]\nid = 'a'\nfeatures = { drafts = true }\n")
    assert errors(loaded) == {"application[a].features.drafts": "the contract standard has no such feature"}


@pytest.mark.parametrize(
    ("networks", "url", "is_taken"),
    [
        ("['10.0.0.0/8']", "https://10.1.2.3/", True),
        ("['10.0.0.0/8']", "https://192.168.0.1/", False),
        ("['10.0.0.0/8']", "https://intranet/", True),
        ("['fd00::/8']", "https://[fd00::1]/", True),
        ("['0.0.0.0/0']", "https://[::1]/", False),
    ],
)
def test_allowed_networks_let_their_own_addresses_through(
    tmp_path: Path, networks: str, url: str, is_taken: bool
) -> None:
    """An address passes within a listed network only; any name passes, for the guard judges what it resolves to."""
    loaded = read(tmp_path, f"[delivery]\nallow_networks = {networks}\n" + endpoint(url=f"'{url}'"))
    assert (loaded.config is not None) == is_taken


def test_http_is_warned_about_where_it_is_allowed(tmp_path: Path) -> None:
    """An http endpoint under `allow_http` is a warning."""
    text = "[delivery]\nallow_http = true\n" + endpoint(url="'http://example.com/'", secret="'env:S'")
    (problem,) = read(tmp_path, text, {**HOME, "S": WHSEC}).issues
    assert (problem.warning, problem.path) == (True, "application[acme].endpoint[e].url")


@pytest.mark.parametrize(
    "text",
    [
        "[storage]\nretention = { events = '3 days' }\n" + endpoint(max_age="'31d'"),
        "[delivery]\nallow_networks = ['x']\n" + endpoint(url="'https://10.0.0.1/'"),
        "[delivery]\nconcurrency = 'many'\n" + endpoint(concurrency="100"),
        endpoint(secret="'env:NOPE'"),
        "[[application]]\nid = 7\n" + token(application="acme"),
        "token = [{ name = 'a', role = 'admin', secret = '0123456789abcdef' }, 5]\n",
    ],
)
def test_a_mistake_does_not_breed_others(tmp_path: Path, text: str) -> None:
    """What rests on a value that was refused is not judged by a default that nobody chose."""
    assert len(read(tmp_path, text).errors) == 1


def test_a_mistake_does_not_hide_what_is_wrong_anyway(tmp_path: Path) -> None:
    """A URL that no setting could make right is reported beside a mistake in those settings (negative control)."""
    text = "[delivery]\nallow_networks = ['x']\n" + endpoint(url="'https://user@10.0.0.1/'")
    assert len(read(tmp_path, text).errors) == 2
