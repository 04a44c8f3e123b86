"""What a reload would change."""

from pathlib import Path

import pytest

from relay.config import Config, reload_changes
from tests.support.config import WHSEC, endpoint, read, sound


def changes(folder: Path, before: str, after: str) -> tuple[list[str], list[str]]:
    plan = reload_changes(sound(read(folder, before)), sound(read(folder, after)))
    return plan.changed, plan.needs_restart


def test_nothing_changed() -> None:
    """Equal configurations differ in nothing."""
    assert reload_changes(Config(), Config()) == ([], [])


@pytest.mark.parametrize(
    ("after", "changed"),
    [
        ("[delivery]\ntimeout = '3s'\nretry.jitter = 0.1\n", ["delivery.timeout", "delivery.retry.jitter"]),
        ("[storage]\nretention.events = '20d'\n", ["storage.retention.events"]),
        ("[[token]]\nname = 'a'\nrole = 'admin'\nsecret = '0123456789abcdef'\n", ["token[a]"]),
        ("[[application]]\nid = 'default'\ntimeout = '1s'\n", ["application[default]"]),
    ],
)
def test_what_a_reload_takes_over(tmp_path: Path, after: str, changed: list[str]) -> None:
    """Deliveries, retention, tokens, applications and endpoints reload, each under its name."""
    assert changes(tmp_path, "", after) == (changed, [])


@pytest.mark.parametrize(
    ("after", "fixed"),
    [
        ("[server]\nmax_depth = 5\n", "server.max_depth"),
        ("[storage]\npath = '/x/y.db'\n", "storage.path"),
        ("[log]\nlevel = 'debug'\n", "log.level"),
    ],
)
def test_what_needs_a_restart(tmp_path: Path, after: str, fixed: str) -> None:
    """A changed `[server]`, `[storage]` or `[log]` is reported as needing a restart."""
    assert changes(tmp_path, "", after) == ([], [fixed])


def test_endpoints_are_named_one_by_one(tmp_path: Path) -> None:
    """A changed, an added and a removed endpoint are each named; their application is not."""
    other = "[[application.endpoint]]\nid = 'f'\nurl = 'https://example.com/'\nsecret = '" + WHSEC + "'\n"
    place = "application[acme].endpoint"
    assert changes(tmp_path, endpoint(), endpoint(timeout="'1s'") + other) == ([f"{place}[e]", f"{place}[f]"], [])
    assert changes(tmp_path, endpoint() + other, endpoint()) == ([f"{place}[f]"], [])


def test_a_new_secret_behind_the_same_reference_is_a_change(tmp_path: Path) -> None:
    """Secrets are compared by what they resolve to, not by how they are shown."""
    text = endpoint(secret="'env:S'")
    old = sound(read(tmp_path, text, {"S": WHSEC}))
    new = sound(read(tmp_path, text, {"S": WHSEC.replace("M", "N")}))
    assert reload_changes(old, new).changed == ["application[acme].endpoint[e]"]
