"""What comes with relay for the programs around it: written out, in step with the code, and right by those programs' own word."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families as parse_text

from relay.cli import SECTIONS, main
from relay.cli.assets import ASSETS, SHELLS
from relay.cli.manual import manual_pages
from relay.cli.output import Exit
from relay.core.model import DeadReason, Outcome, Trace
from relay.telemetry.metrics import Metrics, Readings

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "relay" / "assets" / "prometheus"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def needs(program: str, package: str) -> str:
    """The program's path; a test that needs it is skipped where it is not installed."""
    return shutil.which(program) or pytest.skip(f"{program} is not installed (Debian package {package})")


def test_all_sets_are_written_below_a_folder_once(tmp_path: Path) -> None:
    """Each set gets a folder of its name; a second time nothing changes; a file that somebody changed is not lost."""
    assert run("assets", "export", str(tmp_path)).exit_code == Exit.FINE
    assert {path.name for path in tmp_path.iterdir()} == set(ASSETS)
    unit = tmp_path / "systemd" / "relay.service"
    assert unit.read_text() == (ROOT / "systemd" / "relay.service").read_text()
    assert run("assets", "export", str(tmp_path)).exit_code == Exit.FINE
    unit.write_text("mine\n")
    (tmp_path / "man" / "relay.1").unlink()
    refused = run("assets", "export", str(tmp_path))
    assert refused.exit_code == Exit.FAILED
    assert str(unit) in refused.stderr
    assert unit.read_text() == "mine\n"
    assert not (tmp_path / "man" / "relay.1").exists()
    assert run("assets", "export", str(tmp_path), "--force").exit_code == Exit.FINE
    assert unit.read_text() != "mine\n"


def test_some_sets_are_written_alone(tmp_path: Path) -> None:
    """`--only` names sets, and a set that there is not is wrong use."""
    assert run("assets", "export", str(tmp_path), "--only", "grafana", "--only", "config").exit_code == Exit.FINE
    assert {path.name for path in tmp_path.iterdir()} == {"grafana", "config"}
    assert run("assets", "export", str(tmp_path), "--only", "nagios").exit_code == Exit.USAGE


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A file in the way ends with the code for what cannot be created, and names the path."""
    (tmp_path / "systemd").write_text("in the way")
    refused = run("assets", "export", str(tmp_path), "--only", "systemd")
    assert refused.exit_code == Exit.CANNOT_CREATE
    assert str(tmp_path / "systemd") in refused.stderr


def test_the_sets_are_listed() -> None:
    """The list is for people and, by `--json`, for programs."""
    assert set(re.findall(r"^(\w+)", run("assets", "list").output, re.MULTILINE)) == {"NAME", *ASSETS}
    assert [one["name"] for one in json.loads(run("assets", "list", "--json").output)] == list(ASSETS)


def test_the_wheel_carries_what_stands_at_the_top_of_a_checkout() -> None:
    """Each shipped file is package data already, or the build puts it there."""
    built = (ROOT / "pyproject.toml").read_text()
    for path in ("config.example.toml", "systemd"):
        assert f'"{path}" = "relay/assets/{path}"' in built
        assert (ROOT / path).exists()


def exposed() -> set[str]:
    """The names of all samples that the relay can expose, each metric having something to say."""
    metrics = Metrics("1", owner=lambda endpoint: "a")
    metrics.attempt("e", Outcome(started_at_ms=0, duration_ms=1, status=204, failure=None, trace=Trace(1, 1, 1, 1)))
    metrics.delivered("e", 1.0)
    metrics.dead("e", DeadReason.EXHAUSTED)
    metrics.rejected("reason")
    metrics.crowded_out("a")
    metrics.committed(1.0)
    seen = Readings(
        1, 1, 1, True, 1, 1, 1, 1.0, oldest_due_s=1.0, loop_lag_s=0.1, endpoints={"enabled": 1},
        applications={"a": (1, 1)}, certificates_end_s=[("e", "receiver", 1.0)],
    )  # fmt: skip
    text, _ = metrics.exposition(seen, "text/plain")
    return {sample.name for family in parse_text(text.decode()) for sample in family.samples}


def named(text: str) -> set[str]:
    """The metrics that a rule or a panel asks for."""
    return set(re.findall(r"\b(?:relay|process)_[a-z_]+[a-z]\b", text)) - {"relay_assets"}


def expressions(dashboard: Any) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


@pytest.mark.parametrize("file", ["prometheus/alerts.yml", "prometheus/alerts.test.yml", "grafana/relay.json"])
def test_rules_and_panels_ask_for_metrics_that_there_are(file: str) -> None:
    """A metric that is renamed is renamed in every rule and panel, too."""
    asked = named((ROOT / "relay" / "assets" / file).read_text())
    assert asked
    assert not asked - exposed()


def test_a_metric_that_there_is_not_would_be_seen() -> None:
    """The look at names finds a wrong one (negative control)."""
    assert named("rate(relay_evnts_total[5m])") - exposed() == {"relay_evnts_total"}


def test_the_dashboard_has_panels_with_something_to_show() -> None:
    """Each panel but the headings has a query, and no two share an id."""
    dashboard = json.loads((ROOT / "relay/assets/grafana/relay.json").read_text())
    shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] for panel in shown)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert len(list(expressions(dashboard))) >= len(shown)


def test_every_alert_is_seen_firing() -> None:
    """The tests for promtool name every rule; one without a test is found here."""
    rules = set(re.findall(r"alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text()))
    seen = set(re.findall(r'alertname="(\w+)"', (PROMETHEUS / "alerts.test.yml").read_text()))
    assert rules == seen


def test_promtool_takes_the_rules_and_sees_each_fire() -> None:
    """Prometheus's own program runs the tests that come with the rules."""
    promtool = needs("promtool", "prometheus")
    for words in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        ended = subprocess.run([promtool, *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_finds_a_rule_that_does_not_fire(tmp_path: Path) -> None:
    """A rule with another limit fails its test (negative control)."""
    promtool = needs("promtool", "prometheus")
    shutil.copy(PROMETHEUS / "alerts.test.yml", tmp_path)
    text = (PROMETHEUS / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(
        text.replace("relay_oldest_due_seconds > 300", "relay_oldest_due_seconds > 302")
    )
    words = [promtool, "test", "rules", "alerts.test.yml"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def leaves(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            verb = command.get_command(context, name)
            assert verb is not None
            yield from leaves(verb, *path, name)


def test_each_verb_has_a_page_with_all_its_options() -> None:
    """The pages are made of the command tree, so no option is without its line."""
    pages = dict(manual_pages(main))
    assert {verb for verbs in SECTIONS.values() for verb in verbs} <= {name[6:-2] for name in pages}
    for path, command in leaves(main, "relay"):
        page = pages[f"{'-'.join(path)}.1"].replace("\\-", "-")
        for option in command.params:
            if isinstance(option, click.Option):
                assert all(name in page for name in option.opts), (path, option.name)


def test_the_page_of_the_program_has_the_exit_codes() -> None:
    """What a script needs stands in relay(1)."""
    page = dict(manual_pages(main))["relay.1"]
    assert ".SH EXIT CODES" in page
    assert re.search(r"^78 +wrong configuration", page, re.MULTILINE)


def test_the_pages_are_right_by_mandoc(tmp_path: Path) -> None:
    """mandoc has nothing against any page but that it has no date, which would change with each build."""
    mandoc = needs("mandoc", "mandoc")
    for name, page in manual_pages(main):
        (tmp_path / name).write_text(page)
    words = [mandoc, "-T", "lint", "-W", "warning", *map(str, sorted(tmp_path.iterdir()))]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    assert [line for line in said.splitlines() if "missing date" not in line] == []


def test_no_text_of_a_verb_is_taken_for_a_request() -> None:
    """A line that begins with a dot or a quote, and backslashes, are text."""

    @click.command(help=".SH not a heading\n\n\b\n.nf\n'quoted' \\fBbold\\fR", short_help=".short")
    def odd() -> None: ...

    root = click.Group("relay", commands={"odd": odd}, help="x")
    page = dict(manual_pages(root))["relay-odd.1"]
    requests = [
        line for line in page.splitlines() if line.startswith(".") and not line.startswith((".TH", ".SH", ".B"))
    ]
    assert requests == [".PP", ".nf", ".fi", ".TP"]
    assert page.count("\n.SH") == 5  # name, synopsis, description, options, see also
    assert "\\efBbold" in page


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_made_for_each_shell(shell: str) -> None:
    """The script names the program and asks it by the variable that click looks at."""
    printed = run("completion", shell)
    assert printed.exit_code == Exit.FINE
    assert f"_RELAY_COMPLETE={shell}_complete" in printed.output


def completed(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    told = {
        "COMP_WORDS": " ".join(("relay", *words)),
        "COMP_CWORD": str(len(words)),
        "_RELAY_COMPLETE": "bash_complete",
    }
    result = CliRunner().invoke(main, env=told, prog_name="relay")
    return [line.partition(",")[2] for line in result.output.splitlines()]


def test_verbs_and_options_are_completed() -> None:
    """A verb by its first letters, one below it, an option of that, and a choice."""
    assert completed("end") == ["endpoint"]
    assert "add" in completed("endpoint", "a")
    assert "--only" in completed("assets", "export", "--o")
    assert completed("completion", "z") == ["zsh"]


def test_a_verb_is_completed_without_its_module() -> None:
    """Pressing tab after `relay` reads no module of a verb, so it is quick."""
    program = "import sys; from relay.cli import main; import click; c = click.Context(main)\n"
    program += (
        "print([i.value for i in main.shell_complete(c, 'se')], [m for m in sys.modules if m.startswith('relay.cli.')])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert printed.stdout.strip() in {"['serve', 'send'] ['relay.cli.output']"}, printed
