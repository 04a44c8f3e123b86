"""The command line and a real daemon together."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.sinks import open_sink
from relay.cli import main
from relay.cli.output import Exit
from relay.daemon.process import WARNINGS_MAX
from relay.telemetry import log
from tests.support.daemon import PRODUCER_TOKEN, TOKEN, Daemon, config_text

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with open_sink("python", tmp_path_factory.mktemp("sink")) as sink:
        yield sink.url


@pytest.fixture(scope="module")
def running(receiver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    with Daemon(folder, config_text(folder, endpoints={"primary": receiver})) as daemon:
        yield daemon


@pytest.fixture
def daemon(running: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """The daemon that the tests of this file share; each makes endpoints and events of its own."""
    monkeypatch.setenv("RELAY_SOCKET", str(running.socket_path))
    monkeypatch.delenv("RELAY_TOKEN", raising=False)
    monkeypatch.delenv("RELAY_URL", raising=False)
    return running


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def relay(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | env,
    )


def test_demo_shows_all_three(tmp_path: Path) -> None:
    """`relay demo --once` shows a verified delivery, one after a failure, one dead and replayed; exits 0; leaves nothing."""
    done = relay("demo", "--once", TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (Exit.FINE, "")
    words = [line.split()[1:3] for line in done.stdout.splitlines() if line[:6].strip()[:1].isdigit()]
    assert ["delivered", "demo.hello"] in words
    assert words.index(["failed", "demo.flaky"]) < words.index(["delivered", "demo.flaky"])
    broken = [word for word, event_type in words if event_type == "demo.broken" and word != "received"]
    assert list(dict.fromkeys(broken)) == ["posted", "failed", "dead", "replayed", "delivered"]
    assert "relay init" in done.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_demo_stays_until_interrupted(tmp_path: Path) -> None:
    """Without --once the demo prints a curl line and stays; Ctrl-C ends it with 0 and nothing is left behind."""
    command = [sys.executable, "-u", "-m", "relay", "demo"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as demo:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if line.startswith("Next:"):
                demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == Exit.FINE
    assert any(line.startswith("  curl -sS http://127.0.0.1:") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_send_and_follow(daemon: Daemon) -> None:
    """An event that was sent can be followed: event, deliveries, the delivery with its attempt."""
    sent = json.loads(run("send", "order.paid", '{"n": 1.10}', "--json").stdout)
    assert sent["deliveries"] == 1
    assert "order.paid" in run("events", "list").stdout
    shown = json.loads(run("events", "show", sent["id"], "--json").stdout)
    assert shown["payload"]["data"] == {"n": 1.1}
    delivery_id = shown["delivery_list"][0]["id"]
    assert run("deliveries", "show", delivery_id).stdout.startswith(f"id           {delivery_id}")
    assert delivery_id in run("deliveries", "list", "--endpoint", "primary").stdout


def test_endpoints_live_through_their_verbs(daemon: Daemon, receiver: str) -> None:
    """add, list, show, update, test, pause, resume, disable, enable, rotate-secret and delete work on a real daemon."""
    added = json.loads(run("endpoint", "add", f"{receiver}/x", "--type", "a.*", "--rate-limit", "5/s", "--json").stdout)
    name = added["id"]
    assert added["secret"].startswith("whsec_")
    assert name in run("endpoint", "list").stdout
    updated = json.loads(run("endpoint", "update", name, "--timeout", "3s", "--reset", "rate_limit", "--json").stdout)
    assert (updated["timeout"], updated["rate_limit"]) == ("3s", None)
    assert run("endpoint", "test", name).stdout.startswith("delivered: 204")
    for verb, state in (("pause", "paused"), ("resume", "enabled"), ("disable", "disabled"), ("enable", "enabled")):
        assert f"it is {state}" in run("endpoint", verb, name).stdout
    assert run("endpoint", "rotate-secret", name).stdout.startswith("secret: whsec_")
    assert "2" in run("endpoint", "show", name).stdout
    assert run("endpoint", "delete", name, "--yes").exit_code == Exit.FINE
    assert run("endpoint", "show", name).exit_code == Exit.FAILED


def test_a_receiver_is_asked_by_a_verb(daemon: Daemon, receiver: str) -> None:
    """`relay endpoint verify` exits 0 and says that it agreed, or 1 and says why it did not; show and list say it too."""
    words = ("endpoint", "add", f"{receiver}/v", "--type", "v.*", "--verification")
    agreed = json.loads(run(*words, "ping", "--json").stdout)["id"]
    assert f"{agreed} agreed; it is enabled now." in run("endpoint", "verify", agreed).stdout
    assert "by ping at" in run("endpoint", "show", agreed).stdout
    refused = json.loads(run(*words, "challenge", "--json").stdout)["id"]
    result = run("endpoint", "verify", refused)
    assert (result.exit_code, "without the challenge" in result.stdout) == (Exit.FAILED, True)
    assert f"{refused} did not agree: it answered" in result.stdout
    assert "What comes is held until it agrees; it is asked again at" in result.stdout
    assert "unverified" in run("endpoint", "list").stdout
    assert "without the challenge" in run("endpoint", "show", refused).stdout
    status = run("status")
    assert (status.exit_code, f"`relay endpoint verify {refused}`" in status.stdout) == (Exit.FAILED, True)
    for name in (agreed, refused):
        assert run("endpoint", "delete", name, "--yes").exit_code == Exit.FINE


def test_dead_letters_are_replayed(daemon: Daemon, receiver: str) -> None:
    """What died of an endpoint that refuses is listed, replayed, and then delivered."""
    words = ("endpoint", "add", "http://127.0.0.1:1/", "--type", "doomed", "--retry", "1ms", "--jitter", "0", "--json")
    name = json.loads(run(*words).stdout)["id"]
    sent = json.loads(run("send", "doomed", "--json").stdout)
    wait_for(lambda: json.loads(run("dead", "list", "--endpoint", name, "--json").stdout)["data"])
    counted = run("dead", "replay", "--endpoint", name, "--dry-run").stdout
    assert counted.splitlines()[-1] == "1 delivery selected, none sent."
    run("endpoint", "update", name, receiver)
    assert "finished: 1 selected, 1 sent again." in run("dead", "replay", "--endpoint", name, "--yes").stdout
    (done,) = json.loads(run("replay", "list", "--json").stdout)["data"]
    assert run("replay", "show", done["id"], "--json").exit_code == Exit.FINE
    wait_for(lambda: json.loads(run("events", "show", sent["id"], "--json").stdout)["deliveries"].get("delivered") == 2)


def test_status_of_a_healthy_daemon(daemon: Daemon) -> None:
    """`relay status` of a daemon that is well exits 0, through the socket and through TCP with a token."""
    assert run("status").exit_code == Exit.FINE
    assert json.loads(run("status", "--json", "--url", daemon.url, "--token", TOKEN).stdout)["ready"] is True


def test_permissions(daemon: Daemon) -> None:
    """Without a token on TCP, or with a producer's, operators' verbs exit 77 and say why."""
    assert run("status", "--url", daemon.url).exit_code == Exit.NO_PERMISSION
    result = run("status", "--url", daemon.url, "--token", PRODUCER_TOKEN)
    assert result.exit_code == Exit.NO_PERMISSION
    assert "RELAY_TOKEN" in result.stderr


def test_bad_input_is_65(daemon: Daemon) -> None:
    """What the daemon refuses as wrong exits 65 with each mistake's pointer."""
    result = run("endpoint", "add", "ftp://x", "--timeout", "never")
    assert result.exit_code == Exit.BAD_INPUT
    assert "/timeout:" in result.stderr
    assert run("send", "no spaces allowed").exit_code == Exit.BAD_INPUT


def test_serve_stops_cleanly_and_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """A second daemon on the same database exits 75; SIGTERM says STOPPING=1 and ends the first with 0 (invariant 12)."""
    with Daemon(tmp_path, config_text(tmp_path)) as daemon:
        second = relay("serve", "--config", str(daemon.config_path))
        assert second.returncode == Exit.TEMPORARY
        assert "Traceback" not in second.stderr
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_notification("STOPPING=1")
        assert daemon.wait() == Exit.FINE


def test_serve_reloads_on_hangup(tmp_path: Path) -> None:
    """SIGHUP takes a changed file over and tells the service manager when it began and when it was done."""
    with Daemon(tmp_path, config_text(tmp_path)) as daemon:
        daemon.notifications.clear()
        daemon.config_path.write_text(config_text(tmp_path, endpoints={"late": "http://127.0.0.1:9/"}))
        daemon.reload()
        daemon.wait_for_notification("READY=1")
        assert any(message.startswith("RELOADING=1\nMONOTONIC_USEC=") for message in daemon.notifications)
        assert daemon.api.get("/v1/webhook-endpoints/late")["origin"] == "file"


def test_serve_with_a_wrong_configuration(tmp_path: Path) -> None:
    """Every mistake is told, without a traceback; exit 78."""
    (tmp_path / "config.toml").write_text('[server]\nlisten = "nowhere"\n[delivery]\ntimeout = "soon"\nspeed = 1\n')
    done = relay("serve", "--config", str(tmp_path / "config.toml"))
    assert done.returncode == Exit.CONFIGURATION
    assert [name for name in ("listen", "timeout", "speed") if name not in done.stderr] == []
    assert "Traceback" not in done.stderr


def wait_for(fact: Callable[[], object]) -> None:
    """Ask until a fact holds; each question is a request to the daemon, so this is no busy loop."""
    for _ in range(2000):
        if fact():
            return
    raise AssertionError("it never came true")


def test_a_start_logs_the_first_warnings_and_counts_the_rest(tmp_path: Path) -> None:
    """S5: a file with thousands of things to think over does not hold up a start; `relay check-config` has them all."""
    endpoints = {f"e{number}": f"http://127.0.0.1:9/{number}" for number in range(WARNINGS_MAX + 10)}
    with Daemon(tmp_path, config_text(tmp_path, endpoints=endpoints)) as relay:
        said = [line["problem"] for line in relay.log_records() if line["event"] == log.CONFIG_WARNING]
    assert len(said) == WARNINGS_MAX + 1
    assert "more like these; `relay check-config` lists them all" in said[-1]
