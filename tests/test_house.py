"""The house rules, run: floors, lengths, bans, and documents that stay in step with the code."""

import ast
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import relay
from relay.core.model import TRANSITIONS, Failure, Outcome
from relay.queue.retry import Action, HealthEffect, classify

ROOT = Path(relay.__file__).parent.parent
PACKAGE = ROOT / "relay"

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"core"}),
    frozenset({"config", "contracts", "queue"}),
    frozenset({"store", "delivery", "telemetry", "diagnosis"}),
    frozenset({"intake", "registry", "dispatch", "replay", "housekeeping"}),
    frozenset({"api"}),
    frozenset({"daemon"}),
    frozenset({"cli", "__main__"}),
)
"""Rooms from the ground up. A room imports from lower floors, and from the neighbours named in `NEIGHBOURS`."""

NEIGHBOURS: dict[str, frozenset[str]] = {
    "config": frozenset({"contracts"}),
    "dispatch": frozenset({"registry"}),
    "housekeeping": frozenset({"registry", "dispatch"}),
    "intake": frozenset({"registry"}),
    "replay": frozenset({"registry", "dispatch"}),
    "__main__": frozenset({"cli"}),
}
"""The few imports between rooms of one floor; each is part of the design (docs/ARCHITECTURE.md)."""

OUTSIDE: dict[str, frozenset[str]] = {
    "sqlite3": frozenset({"store"}),
    "aiosqlite": frozenset({"store"}),
    "aiohttp": frozenset({"api", "cli"}),
    "httptools": frozenset({"delivery"}),
    "idna": frozenset({"core"}),
    "pydantic": frozenset({"config", "contracts", "api"}),
    "click": frozenset({"cli"}),
    "prometheus_client": frozenset({"telemetry"}),
    "cryptography": frozenset({"contracts", "config", "store"}),
    "jsonschema_rs": frozenset({"contracts"}),
}
"""Which rooms may know an outside technology."""

LINES_MAX = 60
FILE_LINES_MAX = 450
FILE_LINES_MIN = 40

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if name in rooms:
            return number
    raise AssertionError(f"relay/{name} stands on no floor: add it to FLOORS in tests/test_house.py")


def imports(path: Path) -> set[str]:
    """Every module name that a file imports, wherever in the file, except for type checking only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: import from the package by its full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def label(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


ROOMS = [(path, room(path)) for path in MODULES if room(path) != "__init__"]
"""Every module with its room; the package's own `__init__` stands in none."""


def test_imports_point_down() -> None:
    """A room imports only from lower floors and from the neighbours that the design names."""
    wrong = [
        f"{label(path)} (floor {floor(own)}) must not import relay.{other} (floor {floor(other)})"
        for path, own in ROOMS
        for other in {name.split(".")[1] for name in imports(path) if name.startswith("relay.")}
        if other not in ("__version__", own)
        if floor(other) >= floor(own) and other not in NEIGHBOURS.get(own, frozenset())
    ]
    assert not wrong, "\n".join(wrong)


def test_each_technology_has_its_rooms() -> None:
    """Nothing outside `store` knows SQLite, and so on for every outside library with an owner."""
    wrong = [
        f"{label(path)} must not import {name}"
        for path, own in ROOMS
        for name in imports(path)
        if own not in OUTSIDE.get(name.split(".")[0], frozenset({own}))
    ]
    assert not wrong, "\n".join(wrong)


def test_functions_and_files_stay_short() -> None:
    """No function is longer than 60 lines and no file longer than 450."""
    wrong = []
    for path in MODULES:
        text = path.read_text()
        if text.count("\n") > FILE_LINES_MAX:
            wrong.append(f"{label(path)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LINES_MAX:
                    wrong.append(f"{label(path)}:{node.lineno} {node.name} has {lines} lines")
    assert not wrong, "\n".join(wrong)


SMALL: Mapping[str, str] = {
    "__main__.py": "the interpreter asks for it by this name",
}
"""Files under 40 lines, each with its reason; the `__init__` of a package may be short."""


def test_no_file_is_too_small_for_an_idea() -> None:
    """A file under 40 lines is usually part of another; those that stand are named with their reason."""
    small = {
        label(path) for path in MODULES if path.name != "__init__.py" and path.read_text().count("\n") < FILE_LINES_MIN
    }
    assert small == set(SMALL)


BANNED = re.compile(
    r"\btime\.(time|time_ns|monotonic|monotonic_ns|perf_counter)\(|\bdatetime\.(now|utcnow|today)\(|\bdate\.today\("
    r"|\brandom\.(random|uniform|randint|choice|getrandbits|randbytes|seed)\(|\buuid4\(|\bsecrets\.\w+\(|\bos\.urandom\("
    r"|\bos\.(environ|getenv)\b"
)


def test_no_clock_randomness_or_environment_below_the_daemon() -> None:
    """Nothing below the daemon reads the system's clock, its randomness or the environment."""
    wrong = [
        f"{label(path)}: {found.group()} must come in by the constructor"
        for path, own in ROOMS
        if own not in ("daemon", "cli", "__main__") and label(path) != "core/clock.py"
        if (found := BANNED.search(path.read_text())) is not None
    ]
    assert not wrong, "\n".join(wrong)


DIALECT = frozenset(
    [
        "bury",
        "buried",
        "shed",
        "stir",
        "stirred",
        "hungry",
        "hunger",
        "appetite",
        "told",
        "heard",
        "neighbours",
        "suspicion",
        "suspicions",
        "suspect",
        "suspects",
    ]
) | {"sentences"}
"""Words of a private dialect, for which the field has its own: evict, refill, reserve, doubtful, schema error."""


def test_names_are_the_words_of_the_field() -> None:
    """No name of a file, function, class or variable is in a private dialect."""
    wrong = [
        f"{label(path)}: {name}"
        for path in MODULES
        for name in sorted(names(path))
        if not DIALECT.isdisjoint(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower()))
    ]
    assert not wrong, "\n".join(wrong)


def names(path: Path) -> set[str]:
    """Every name that a file gives, and its own."""
    found = {path.stem}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


ELSEWHERE = re.compile(
    r"\bDESIGN\b|\b(?:reliability|store|style|peers|ecosystem|findings)(?:\.md)? §|\b(?:style|peers|ecosystem|findings|reliability)\.md\b"
)


def test_nothing_outside_the_repository_is_cited() -> None:
    """A rule stands where it acts and in docs/; no text refers to documents that a reader does not have."""
    texts = [*MODULES, *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "config.example.toml"]
    wrong = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in texts
        if (found := ELSEWHERE.search(path.read_text())) is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints_or_exits() -> None:
    """`print` and `sys.exit` stand in `relay/cli` alone."""
    for path in MODULES:
        if room(path) in ("cli", "__main__"):
            continue
        assert not re.search(r"^\s*print\(|sys\.exit\(", path.read_text(), re.MULTILINE), label(path)


def test_the_version_has_one_source() -> None:
    """`pyproject.toml` takes the version from `relay/__init__.py`, and the changelog knows it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert f"## {relay.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_top_level_holds_nothing_unplanned() -> None:
    """The top level is fixed: a new entry there needs a reason and a line here."""
    planned = {"pyproject.toml", "README.md", "CHANGELOG.md", "Makefile", "config.example.toml", "relay", "tests"}
    planned |= {"systemd", "docs", "bench", ".ci", ".git", ".gitignore", "requirements.lock", "requirements-dev.lock"}
    produced = {".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".coverage", "dist", "build"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".venv-")}  # of `make pythons` and such
    assert found <= planned | produced


def test_the_unit_waits_longer_than_the_drain() -> None:
    """systemd's `TimeoutStopSec` is above the default `drain_timeout`, or it would kill a draining relay."""
    from relay.config import Config

    unit = (ROOT / "systemd" / "relay.service").read_text()
    match = re.search(r"^TimeoutStopSec=(\d+)", unit, re.MULTILINE)
    assert match is not None
    assert int(match[1]) * 1000 > Config().delivery.drain_timeout_ms + 5_000


def test_every_log_event_is_documented() -> None:
    """Each log event name in `relay/log.py` stands in docs/OPERATING.md."""
    from relay.telemetry import log

    documented = (ROOT / "docs" / "OPERATING.md").read_text()
    for name in log.EVENTS:
        assert f"`{name}`" in documented, name


def test_every_function_named_in_the_delivery_document_exists() -> None:
    """The pseudocode of docs/DELIVERY.md names functions of the code; each one is there."""
    source = "\n".join(path.read_text() for path in MODULES)
    named = set(re.findall(r"`(?:[a-z_]+\.)+([a-z_]+)\(\)`", (ROOT / "docs" / "DELIVERY.md").read_text()))
    assert named, "docs/DELIVERY.md names no function"
    for name in named:
        assert re.search(rf"def {name}\(", source), f"docs/DELIVERY.md names {name}(), which does not exist"


def test_every_transition_is_documented() -> None:
    """docs/DELIVERY.md lists every transition of `model.TRANSITIONS`, and no other."""
    document = (ROOT / "docs" / "DELIVERY.md").read_text()
    written = {(before, after) for before, after in re.findall(r"`([a-z]+)` → `([a-z]+)`", document)}
    assert written == {(before.value, after.value) for before, afters in TRANSITIONS.items() for after in afters}


Row = tuple[str, str]  # what becomes of the delivery, and of the endpoint, in the words of the table


def outcome_table() -> dict[tuple[str, str], Row]:
    """Read the table of docs/DELIVERY.md: (status, family or failure; the header beside it) → its row."""
    document = (ROOT / "docs" / "DELIVERY.md").read_text()
    rows = re.findall(
        r"^\| (`.+) \| (.+) \| (.+) \|$", document.partition("## 3.")[2].partition("## 4.")[0], re.MULTILINE
    )
    table = {}
    for cell, delivery, endpoint in rows:
        for outcomes, _, header in re.findall(r"((?:`[^`:-]+`(?:, )?)+)( with `([^`]+)`)?", cell):
            *plain, last = re.findall(r"`([^`]+)`", outcomes)
            together = len(re.findall(" with ", cell)) == 1
            table |= {(outcome, header if together else ""): (delivery, endpoint) for outcome in plain}
            table[last, header] = (delivery, endpoint)
    return table


EFFECTS = {
    HealthEffect.SUCCESS: "health success",
    HealthEffect.FAILURE: "health failure",
    HealthEffect.REFUSED: "refusal",
    HealthEffect.THROTTLED: "asked to wait",
    HealthEffect.NONE: "",
}


def described(outcome: Outcome) -> Row:
    """Say what the code makes of an outcome in the words of the table."""
    verdict = classify(outcome)
    delivery = {
        Action.DELIVERED: "delivered",
        Action.RETRY: "retry",
        Action.DEAD: f"dead `{verdict.reason}`",
        Action.NONE: "stays due, no attempt counted",
    }[verdict.action]
    effects = [EFFECTS[verdict.health], "disabled" if verdict.disable else ""]
    return delivery, ", ".join(filter(None, effects)) or "unchanged"


def test_the_outcome_table_of_the_document_is_the_code() -> None:
    """For every status, failure and control header the table of docs/DELIVERY.md says what `classify` does."""
    table = outcome_table()

    def documented(name: str, header: str) -> Row:
        family = f"{name[0]}xx"
        return next(table[key] for key in ((name, header), (family, header), (name, ""), (family, "")) if key in table)

    headers: dict[str, dict[str, object]] = {
        "": {},
        "Retry-After": {"retry_after_ms": 7_000},
        "webhook-delivery: disable": {"control": "disable"},
        "webhook-delivery: abort-message": {"control": "abort-message"},
    }
    for header, values in headers.items():
        for status in range(200, 600):
            found = described(Outcome(0, 1, status=status, **values))  # type: ignore[arg-type]
            assert found == documented(str(status), header), (status, header)
    for failure in Failure:
        assert described(Outcome(0, 1, failure=failure)) == documented(failure.value, ""), failure
