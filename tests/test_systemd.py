"""The notify protocol against a socket that plays the service manager, and the unit file."""

import configparser
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config import DeliveryConfig, load
from relay.core.errors import Busy, ConfigError, NotPermitted
from relay.daemon.systemd import Notifier, watchdog_interval_ms
from tests.support.manager import Manager

UNIT = Path(__file__).parents[1] / "systemd" / "relay.service"
SOCKET = UNIT.with_name("relay.socket")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else f"@relay-notify-{os.getpid()}")
    yield manager
    manager.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    notifier = Notifier(manager.name)
    yield notifier
    notifier.close()


def test_ready_carries_the_status(manager: Manager, notifier: Notifier) -> None:
    """READY=1 and STATUS travel in one datagram, to a path and to an abstract name alike."""
    assert notifier.ready("3 due")
    assert manager.heard() == ["READY=1", "STATUS=3 due"]


def test_reloading_carries_the_monotonic_time(manager: Manager, notifier: Notifier) -> None:
    """RELOADING=1 never goes without MONOTONIC_USEC: systemd would wait for the reload until its time-out."""
    assert notifier.reloading(1_234.5678)
    assert manager.heard() == ["RELOADING=1", "MONOTONIC_USEC=1234568"]


def test_every_other_message(manager: Manager, notifier: Notifier) -> None:
    """STOPPING, STATUS, WATCHDOG and EXTEND_TIMEOUT_USEC (in microseconds) are said as sd_notify(3) writes them."""
    assert notifier.stopping()
    assert notifier.status("draining")
    assert notifier.watchdog()
    assert notifier.extend_timeout(1_500)
    assert [manager.heard() for _ in range(4)] == [
        ["STOPPING=1"],
        ["STATUS=draining"],
        ["WATCHDOG=1"],
        ["EXTEND_TIMEOUT_USEC=1500000"],
    ]


def test_a_status_cannot_smuggle_an_assignment(manager: Manager, notifier: Notifier) -> None:
    """A line break in a status becomes a blank, so no text can say READY=1."""
    notifier.status("waiting\nREADY=1")
    assert manager.heard() == ["STATUS=waiting READY=1"]


@pytest.mark.parametrize("path", [None, "", "relative/path", "vsock:2:1234"])
def test_nobody_listens(path: str | None) -> None:
    """Without a socket that can be spoken to, every message says False and nothing fails."""
    notifier = Notifier(path)
    assert not notifier.enabled
    assert not notifier.ready("up")


@pytest.mark.parametrize("path", ["/nonexistent/notify", "/" + "x" * 200])
def test_an_unreachable_manager_is_no_error(path: str) -> None:
    """A message that cannot be sent is dropped: the daemon goes on."""
    notifier = Notifier(path)
    assert notifier.enabled
    assert not notifier.ready()
    notifier.close()


def test_a_full_manager_does_not_block(manager: Manager, notifier: Notifier) -> None:
    """When the manager's queue is full a message is dropped at once; the event loop never waits for it."""
    sent = 0
    while notifier.watchdog():
        sent += 1
        assert sent < 100_000, "the queue never filled up"
    assert manager.heard() == ["WATCHDOG=1"]


def test_close_is_safe_twice_and_opens_again(manager: Manager, notifier: Notifier) -> None:
    """`close` may come twice, and a message after it still arrives."""
    notifier.ready()
    notifier.close()
    notifier.close()
    assert notifier.stopping()
    assert [manager.heard(), manager.heard()] == [["READY=1"], ["STOPPING=1"]]


@pytest.mark.parametrize(
    ("env", "interval_ms"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(env: dict[str, str], interval_ms: float | None) -> None:
    """The watchdog is fed twice as often as systemd asks, and only when it watches this very process."""
    assert watchdog_interval_ms(env, pid=7) == interval_ms


def read_unit() -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)  # systemd takes a key twice
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    unit.read(UNIT)
    return unit


def test_unit_outlives_the_drain() -> None:
    """H18: systemd waits longer than the drain takes, reloads by SIGHUP, and restarts on all but what needs a person."""
    service = read_unit()["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["RestartPreventExitStatus"].split() == [str(NotPermitted.exit_code), str(ConfigError.exit_code)]
    assert str(Busy.exit_code) not in service["RestartPreventExitStatus"]
    assert read_unit()["Unit"]["StartLimitIntervalSec"] == "0", "a busy address is tried for as long as it takes"
    assert int(service["TimeoutStopSec"]) * 1000 > DeliveryConfig().drain_timeout_ms + 10_000


def test_unit_gives_the_folders_that_the_daemon_looks_for() -> None:
    """State and runtime folders come from systemd, and the configuration from /etc/relay/config.toml."""
    service = read_unit()["Service"]
    assert (service["StateDirectory"], service["RuntimeDirectory"]) == ("relay", "relay")
    assert service["ExecStart"].endswith("relay serve --config /etc/relay/config.toml")


def analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Let systemd look at the units. It looks for the program and the user, too, which are not there where tests run."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in (UNIT, SOCKET):
        text = unit.read_text().replace("/opt/relay/bin/relay", "/bin/true")
        (folder / unit.name).write_text(
            text.replace("User=relay", "User=daemon").replace("Group=relay", "Group=daemon")
        )
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=50, check=False, cwd=folder
    )


def test_units_pass_systemd_analyze(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about the units."""
    done = analyze(tmp_path, "verify", "--man=no", f"./{UNIT.name}", f"./{SOCKET.name}")
    complaints = [line for line in done.stderr.splitlines() if "relay." in line]
    assert (done.returncode, complaints) == (0, [])


def test_unit_is_exposed_no_more_than_it_must(tmp_path: Path) -> None:
    """`systemd-analyze security` gives 1.2 at most: what remains is the network, which a sender of webhooks needs."""
    done = analyze(tmp_path, "security", "--offline=yes", "--threshold=12", f"./{UNIT.name}")
    assert done.returncode == 0, done.stdout
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert analyze(tmp_path, "security", "--offline=yes", "--threshold=12", "./bare.service").returncode != 0, "control"


def test_sockets_are_those_of_the_default(tmp_path: Path) -> None:
    """A relay with `server.listen` left at its default takes over exactly what relay.socket holds; nobody else may open it."""
    lines = [line.partition("=") for line in SOCKET.read_text().splitlines()]
    held = [value for key, _, value in lines if key == "ListenStream"]
    config = load(None, {"RUNTIME_DIRECTORY": "/run/relay", "HOME": str(tmp_path)}, {}).config
    assert config is not None
    assert [address if ":" in address else f"unix:{address}" for address in held] == list(config.server.listen)
    assert ("SocketMode", "=", "0660") in lines


def test_the_unit_names_the_user_that_sysusers_makes() -> None:
    """The line for systemd-sysusers makes the user and the folder that the unit runs with."""
    kind, name, *_, home = UNIT.with_name("relay.sysusers").read_text().splitlines()[-1].split()
    service = read_unit()["Service"]
    assert (kind, name, home) == ("u", service["User"], f"/var/lib/{service['StateDirectory']}")
