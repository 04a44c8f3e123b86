"""Socket activation: sockets that systemd holds are taken over, and nobody is refused while one relay follows another."""

import collections
import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.cli.address import Address
from relay.cli.output import Exit
from relay.config import load
from relay.config.listening import Passed, taken_over
from relay.core.errors import CannotStart
from relay.daemon.passed import passed_sockets
from tests.support.activated import Holder
from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text

TCP = Passed("web", "0.0.0.0:8420")
UNIX = Passed("local", "unix:/run/relay/relay.sock")
SYSTEMD = 'listen = ["systemd"]'


def activated_text(folder: Path, listen: str = SYSTEMD, **settings: str) -> str:
    own = config_text(folder, **settings)  # type: ignore[arg-type]  # texts only
    return own.replace(f'listen = ["127.0.0.1:0", "unix:{folder}/relay.sock"]', listen)


# -- which sockets are meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (["systemd"], [TCP.address, UNIX.address]),
        (["systemd:local"], [UNIX.address]),
        (["systemd:local", "systemd"], [UNIX.address, TCP.address]),
        (["systemd", "systemd:web"], [UNIX.address, TCP.address]),
        (["systemd", "127.0.0.1:1"], [TCP.address, "127.0.0.1:1", UNIX.address]),
        (["systemd", UNIX.address], [TCP.address, UNIX.address]),
        (["systemd:other"], ["systemd:other"]),
        ([TCP.address, UNIX.address], [TCP.address, UNIX.address]),
    ],
)
def test_entries_stand_for_sockets(listen: list[str], expected: list[str]) -> None:
    """`systemd` is every socket that no other entry names, `systemd:NAME` those of that name, an address its own."""
    assert taken_over(listen, [TCP, UNIX]) == tuple(expected)


@pytest.mark.parametrize(
    ("listen", "passed", "said"),
    [
        (["systemd"], [], "systemd passed no socket for this entry"),
        (["systemd:other", "systemd"], [TCP], "systemd passed no socket for this entry"),
        (["127.0.0.1:1"], [UNIX], "systemd passed a socket at unix:/run/relay/relay.sock (local) that no entry takes"),
        (["systemd:web"], [TCP, UNIX], "that no entry takes"),
        (["systemd", "systemd"], [UNIX], "listed twice"),
    ],
)
def test_sockets_and_entries_that_do_not_meet(
    tmp_path: Path, listen: list[str], passed: list[Passed], said: str
) -> None:
    """An entry without a socket and a socket without an entry are mistakes with a line and a remedy."""
    file = tmp_path / "config.toml"
    file.write_text(f"[server]\nlisten = {json.dumps(listen)}\n")
    found = load(file, {}, {}, passed=passed).errors
    assert [issue for issue in found if said in issue.message and issue.remedy and ":2" in (issue.place)]


def test_what_is_passed_is_judged_like_what_is_listed(tmp_path: Path) -> None:
    """A passed socket that other hosts reach is warned of by its address, and refused under --dev."""
    file = tmp_path / "config.toml"
    file.write_text('[server]\nlisten = "systemd"\n')
    warned = load(file, {}, {}, passed=[TCP]).warnings
    assert [issue for issue in warned if TCP.address in issue.message]
    assert [issue for issue in load(file, {}, {"dev": True}, passed=[TCP]).errors if TCP.address in issue.message]
    assert load(file, {}, {}).config is not None, "`relay check-config` cannot know what will be passed"


# -- what is taken over ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def descriptor(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Let a socket be the first descriptor that is passed; yields the environment that says so."""
    first = os.dup(sock.fileno())
    monkeypatch.setattr("relay.daemon.passed.FIRST_DESCRIPTOR", first)
    with sock:
        yield {"LISTEN_PID": "7", "LISTEN_FDS": "1"}
    with contextlib.suppress(OSError):  # it was taken, and closed
        os.close(first)


@pytest.mark.parametrize(
    ("env", "pid"),
    [({}, 7), ({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, 7), ({"LISTEN_PID": "7", "LISTEN_FDS": "x"}, 7)],
)
def test_what_is_passed_to_another_process_is_left_alone(env: dict[str, str], pid: int) -> None:
    """Without `LISTEN_FDS`, or with another process's `LISTEN_PID`, nothing was passed."""
    assert passed_sockets(env, pid) == {}


def test_a_passed_socket_has_its_name_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listening socket comes with its name, or without one, and no child process inherits it."""
    with descriptor(socket.create_server(("::1", 0), family=socket.AF_INET6), monkeypatch) as env:
        ((address, (name, sock)),) = passed_sockets(env, 7).items()
        assert (address, name) == (f"[::1]:{sock.getsockname()[1]}", "unknown")
        assert not sock.get_inheritable()
        sock.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [(socket.SOCK_DGRAM, "no stream socket"), (socket.SOCK_STREAM, "does not listen")],
    ids=["datagram", "connection"],
)
def test_other_descriptors_are_refused(kind: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A datagram socket, and one that does not listen (`Accept=yes`), are refused with the directive that mends it."""
    with descriptor(socket.socket(socket.AF_INET, kind), monkeypatch) as env:
        with pytest.raises(CannotStart, match=said) as refused:
            passed_sockets(env, 7)
        assert "systemd.socket(5)" in refused.value.remedy


# -- one relay after another ------------------------------------------------------------------------------------------


class Producers:
    """Post events from threads, each over a connection of its own, and note what became of them."""

    def __init__(self, addresses: list[Address]) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.accepted: set[str] = set()
        self._news = threading.Condition()
        self._enough = False
        self._threads = [
            threading.Thread(target=self._post, args=(address, f"{kind}-{number}"))
            for kind, address in enumerate(addresses)
            for number in range(2)
        ]

    def __enter__(self) -> "Producers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough = True
        for thread in self._threads:
            thread.join(60)

    def wait(self, fact: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(fact, 45), self.outcomes

    def _post(self, address: Address, name: str) -> None:
        number = 0
        while not self._enough:
            number += 1
            event_id = f"e-{name}-{number}"
            outcome = self._post_one(address, event_id)
            with self._news:
                self.outcomes[outcome] += 1
                if outcome == "202":
                    self.accepted.add(event_id)
                self._news.notify_all()

    def _post_one(self, address: Address, event_id: str) -> str:
        connection = address.connection()
        headers = {"Authorization": f"Bearer {PRODUCER_TOKEN}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/events", json.dumps({"type": "a.b", "data": 1, "id": event_id}), headers)
            answer = connection.getresponse()
            return str(answer.status) if answer.status != 503 else str(json.loads(answer.read())["type"])
        except (ConnectionError, FileNotFoundError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()


def restart(daemon: Daemon, addresses: list[Address]) -> Producers:
    """Restart a relay twice while events come in; returns what the producers saw."""
    with Producers(addresses) as producers:
        for _ in range(2):
            before = len(producers.accepted)
            producers.wait(lambda before=before: len(producers.accepted) > before + 20)  # type: ignore[misc]
            assert daemon.stop() == Exit.FINE
            daemon.start()
        before = len(producers.accepted)
        producers.wait(lambda: len(producers.accepted) > before + 20)
    assert daemon.stop() == Exit.FINE
    return producers


@pytest.mark.slow
def test_a_restart_refuses_nobody(tmp_path: Path) -> None:
    """Two restarts under load over TCP and Unix: no connection is refused or broken off, and every 202 is stored."""
    with Holder(tmp_path, "tcp", "relay.sock") as holder, holder.daemon(tmp_path, activated_text(tmp_path)) as daemon:
        port = holder.sockets["tcp"].getsockname()[1]
        producers = restart(daemon, [Address(host="127.0.0.1", port=port), Address(socket=str(daemon.socket_path))])
    assert set(producers.outcomes) <= {"202", "draining"}
    stored = sqlite3.connect(tmp_path / "relay.db")
    assert producers.accepted == {row[0] for row in stored.execute("SELECT id FROM event")}
    stored.close()


@pytest.mark.slow
def test_a_restart_without_activation_refuses_some(tmp_path: Path) -> None:
    """Control: the same restarts of a relay that binds its own socket refuse connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = activated_text(tmp_path, f'listen = ["127.0.0.1:{port}"]')
    with Daemon(tmp_path, text) as daemon:
        producers = restart(daemon, [Address(host="127.0.0.1", port=port)])
    assert producers.outcomes["ConnectionRefusedError"] > 0


@pytest.mark.slow
def test_a_passed_socket_stays_where_it_is(tmp_path: Path) -> None:
    """The path of a passed Unix socket is still there after the stop, and is told where relay says where it listens."""
    with Holder(tmp_path, "relay.sock") as holder, holder.daemon(tmp_path, activated_text(tmp_path)) as daemon:
        ready = next(record for record in daemon.log_records() if record["event"] == "service.ready")
        assert ready["addresses"] == [f"unix:{daemon.socket_path}"]
        assert daemon.api.get("/v1/status")["ready"]
        assert daemon.stop() == Exit.FINE
        assert daemon.socket_path.is_socket()


@pytest.mark.slow
def test_a_socket_that_nobody_takes_is_refused_at_start(tmp_path: Path) -> None:
    """A start that would leave the clients of a passed socket waiting ends with one mistake and 78."""
    text = activated_text(tmp_path, 'listen = ["127.0.0.1:0"]')
    with Holder(tmp_path, "relay.sock") as holder:
        daemon = holder.daemon(tmp_path, text)
        daemon.launch()
        assert daemon.wait() == Exit.CONFIGURATION
    assert f"systemd passed a socket at unix:{daemon.socket_path} (relay.sock) that no entry takes" in daemon.log()
    assert "Traceback" not in daemon.log()


@pytest.mark.slow
def test_who_was_taken_before_the_stop_still_gets_an_answer(tmp_path: Path) -> None:
    """A connection that was taken, and whose request comes when relay stops already, hears 503 and is not broken off."""
    with Holder(tmp_path, "relay.sock") as holder, holder.daemon(tmp_path, activated_text(tmp_path)) as daemon:
        early = Address(socket=str(daemon.socket_path)).connection()
        early.connect()
        assert daemon.api.get("/v1/status")["ready"], "who came later was served, so the earlier one was taken"
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_notification("STOPPING=1")
        early.request("GET", "/v1/status")
        assert early.getresponse().status == 503
        early.close()
        assert daemon.wait() == Exit.FINE
