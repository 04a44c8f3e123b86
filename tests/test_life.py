"""How the daemon starts, reloads and stops: a tested contract (invariant 12)."""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from relay.api.readiness import admission
from relay.config import load
from relay.core.errors import CannotStart, StoreDamaged
from relay.daemon.service import Relay, exit_code
from relay.delivery.courier import Courier
from relay.store.sqlite.writer import Writer
from relay.telemetry import log
from tests.support.clock import FakeClock
from tests.support.daemon import PRODUCER_TOKEN, ROOT, Daemon, config_text, refused
from tests.support.receiver import Answer, Receiver
from tests.support.stack import Stack
from tests.support.stores import sqlite_error
from tests.support.waiting import until

EVENT = {"type": "render.completed", "data": {"n": 1}}
DRAIN_MS = 25_000


def built(folder: Path, **config: Any) -> Relay:
    """Build a relay that was never started."""
    path = folder / "config.toml"
    path.write_text(config_text(folder, **config))
    path.chmod(0o600)
    loaded = load(path, {}, {})
    return Relay(loaded, reread=lambda: loaded)


# -- stopping, inside one process --------------------------------------------------------------------------------------


async def test_stop_is_safe_before_start_and_twice(tmp_path: Path) -> None:
    """Stopping what never started does nothing; stopping twice does it once (invariant 12)."""
    relay = built(tmp_path)
    await relay.stop()
    await relay.start()
    await relay.stop()
    await relay.stop()
    assert relay.fatal is None


async def test_a_second_stop_returns_when_the_first_is_done(tmp_path: Path) -> None:
    """H9: a stop during a stop waits for the same end; neither returns while an attempt is being waited for."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: answer) as receiver:
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url})
        await stack.start()
        await stack.post()
        await receiver.wait_for(1)
        await stack.http.close()
        first = asyncio.create_task(stack.relay.stop())
        await until(lambda: stack.relay.stopping)
        second = asyncio.create_task(stack.relay.stop())
        await stack.quiet()
        assert (first.done(), second.done()) == (False, False)
        answer.set_result(Answer(204))
        await second
        assert stack.relay.store.backlog == 0
        assert not (tmp_path / "relay.sock").exists()
        await first


async def test_a_replaced_courier_closes_after_its_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H9: a courier that a reload has replaced ends with its last attempt, not with the relay."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    closed: list[Courier] = []
    close = Courier.close

    async def noted(courier: Courier) -> None:
        await close(courier)
        closed.append(courier)

    monkeypatch.setattr(Courier, "close", noted)
    async with (
        Receiver(lambda _: answer) as receiver,
        Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url}) as stack,
    ):
        event = await stack.post()
        await receiver.wait_for(1)
        old = stack.relay.dispatch.attempts.courier
        stack.write_config(endpoints={"primary": receiver.url}, delivery='connect_timeout = "4s"')
        assert (await stack.call("POST", "/v1/reload"))[0] == 200
        assert stack.relay.dispatch.attempts.courier is not old
        await stack.quiet()
        assert closed == [], "its attempt is under way"
        answer.set_result(Answer(204))
        await stack.settled(event["id"], "delivered")
        await until(lambda: closed == [old])


async def test_a_start_that_failed_holds_nothing(tmp_path: Path) -> None:
    """When a port is taken the lock is free again, stopping is harmless, and the next start works."""
    relay = built(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = relay.config.server.model_copy(update={"listen": (f"127.0.0.1:{taken.getsockname()[1]}",)})
        relay.config = relay.config.model_copy(update={"server": server})
        with pytest.raises(CannotStart, match="Cannot listen"):
            await relay.start()
        await relay.stop()
    again = built(tmp_path)
    await again.start()
    await again.stop()


async def test_a_drain_waits_for_what_runs(tmp_path: Path) -> None:
    """Stopping closes intake and starts nothing, waits for the attempt under way, and records its outcome (invariant 12)."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: answer) as receiver:
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url})
        await stack.start()
        event = await stack.post()
        waiting = await stack.post(deliver_at="2027-01-15T08:01:00Z")
        await receiver.wait_for(1)
        stopping = asyncio.create_task(stack.stop())
        await until(lambda: stack.relay.stopping)
        await stack.quiet()
        stack.fake.advance(DRAIN_MS - 1)
        await stack.quiet()
        assert not stopping.done()
        answer.set_result(Answer(204))
        await stopping

        async with stack:
            delivered = await stack.settled(event["id"], "delivered")
            assert delivered["attempts"] == 1
            assert (await stack.deliveries(waiting["id"]))[0]["attempts"] == 0
        assert len(receiver.received) == 1


async def test_a_drain_says_so_until_it_ends(tmp_path: Path) -> None:
    """W8: old and new connections hear 503 `draining` while attempts end; liveness holds, readiness does not."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: answer) as receiver:
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url})
        await stack.start()
        event = await stack.post()
        await receiver.wait_for(1)
        stopping = asyncio.create_task(stack.relay.stop())
        await until(lambda: stack.relay.stopping)
        await stack.quiet()
        for method, path, body in (("POST", "/v1/events", EVENT), ("GET", "/v1/status", None)):
            async with stack.http.request(method, stack.url + path, json=body) as refused:
                problem = await refused.json(content_type=None)
                assert (refused.status, problem["type"]) == (503, "draining")
                assert refused.headers["Connection"] == "close"
                assert "Retry-After" in refused.headers
        assert (await stack.call("GET", "/healthz"))[0] == 200
        assert (await stack.call("GET", "/readyz"))[0] == 503
        answer.set_result(Answer(204))
        await stopping
        with pytest.raises(aiohttp.ClientConnectionError):
            await stack.call("GET", "/healthz")
        await stack.stop()

        async with stack:
            await stack.settled(event["id"], "delivered")


async def test_what_is_cut_off_stays_due_and_costs_no_attempt(tmp_path: Path) -> None:
    """At the end of `drain_timeout` attempts under way are cut off; the next run makes them, as their first (invariant 12)."""
    never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: never) as receiver:
        settings = 'timeout = "5m"'
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url}, endpoint_settings=settings)
        await stack.start()
        event = await stack.post()
        await receiver.wait_for(1)
        with capture_logs() as lines:
            stopping = asyncio.create_task(stack.stop())
            await until(lambda: stack.relay.dispatch._starting is False)
            await stack.quiet()
            stack.fake.advance(DRAIN_MS)
            await stopping
        assert [line["attempts"] for line in lines if line["event"] == log.DRAIN_CUT] == [1]

        async with stack:
            delivered = await stack.settled(event["id"], "delivered")
        never.cancel()
    assert (delivered["attempts"], len(delivered["timeline"])) == (1, 1)
    assert {request.headers["webhook-id"] for request in receiver.received} == {event["id"]}


async def test_events_that_come_while_it_stops_are_refused(tmp_path: Path) -> None:
    """From the moment it stops nothing is accepted, and the answer says when to try again."""
    relay = built(tmp_path)
    await relay.start()
    relay.stopping = True
    problem = admission(relay.services)
    relay.stopping = False
    await relay.stop()
    assert problem is not None
    assert (problem.status, problem.type) == (503, "draining")
    assert "Retry-After" in problem.headers


async def test_after_something_fatal_nothing_is_taken(tmp_path: Path) -> None:
    """H14: from the moment that the relay has to end events are refused, not only from its stop."""
    async with Stack(tmp_path) as stack:
        stack.relay._fail(RuntimeError("ours"))
        status, problem = await stack.call("POST", "/v1/events", EVENT, token=PRODUCER_TOKEN)
        ready = await stack.call("GET", "/readyz")
        stack.relay._ended = asyncio.get_running_loop().create_future()
    assert (status, problem["type"]) == (503, "draining")
    assert ready[0] == 503


async def test_a_reload_while_it_stops_is_refused(tmp_path: Path) -> None:
    """What is on its way down takes over nothing."""
    relay = built(tmp_path)
    await relay.start()
    await relay.stop()
    with pytest.raises(Exception, match="stopping"):
        await relay.reload()


async def test_a_dead_background_task_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A background task that dies, or ends by itself, is what `wait` returns; the exit code is not 0 (invariant 12)."""

    async def die(self: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("relay.housekeeping.Housekeeping.summarise", die)
    relay = built(tmp_path)
    await relay.start()
    error = await relay.wait()
    await relay.stop()
    assert str(error) == "ours"
    assert exit_code(error) == 1


async def test_a_damaged_database_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error at a commit is fatal, and stopping does not wait out the drain for what cannot be recorded (invariant 5)."""
    answers = [asyncio.get_running_loop().create_future() for _ in range(2)]
    async with Receiver(*(lambda _, answer=answer: answer for answer in answers)) as receiver:
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url})
        await stack.start()
        event = await stack.post()
        await stack.post()
        await receiver.wait_for(2)

        def broken(self: Writer, connection: sqlite3.Connection) -> None:
            raise sqlite_error(sqlite3.SQLITE_IOERR)

        monkeypatch.setattr(Writer, "commit", broken)
        answers[0].set_result(Answer(204))
        error = await stack.relay.wait()
        await stack.http.close()
        await stack.relay.stop()  # the clock stands still: were it to wait, it would wait for ever
        monkeypatch.undo()
        assert isinstance(error, StoreDamaged)
        assert exit_code(error) == 1

        answers[1].cancel()
        async with stack:
            await stack.settled(event["id"], "delivered")


# -- signals and the service manager -----------------------------------------------------------------------------------


def records(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    return [record for record in daemon.log_records() if record["event"] == event]


def logged(daemon: Daemon, event: str) -> dict[str, Any]:
    """Return the one record of an event; the log is written by a thread of its own, a little later."""
    for _ in range(2_000):
        found = records(daemon, event)
        if found:
            assert len(found) == 1
            return found[0]
        daemon.api.get("/healthz")
    raise AssertionError(f"{event} was never logged")


@pytest.mark.slow
async def test_a_termination_drains_and_exits_zero(tmp_path: Path) -> None:
    """SIGTERM under load: STOPPING=1 and more time asked for, what runs is recorded, exit 0."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: answer) as receiver:
        with Daemon(tmp_path, config_text(tmp_path, endpoints={"primary": receiver.url})) as daemon:
            await asyncio.to_thread(daemon.api.post, "/v1/events", {"application": "acme", **EVENT})
            await receiver.wait_for(1)
            daemon.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(daemon.wait_for_notification, "EXTEND_TIMEOUT_USEC=35000000")
            answer.set_result(Answer(204))
            assert await asyncio.to_thread(daemon.wait) == 0
            assert [message.split("\n")[0] for message in daemon.notifications][:2] == ["READY=1", "STOPPING=1"]
            (stopped,) = records(daemon, log.SERVICE_STOPPED)
            assert stopped["due"] == 0


@pytest.mark.slow
async def test_a_second_termination_ends_at_once(tmp_path: Path) -> None:
    """A second SIGTERM does not wait for the drain; it exits 1, and the next run delivers what was cut off."""
    never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: never) as receiver:
        with Daemon(tmp_path, config_text(tmp_path, endpoints={"primary": receiver.url})) as daemon:
            sent = await asyncio.to_thread(daemon.api.post, "/v1/events", {"application": "acme", **EVENT})
            await receiver.wait_for(1)
            daemon.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(daemon.wait_for_notification, "STOPPING=1")
            daemon.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(daemon.wait) == 1

            await asyncio.to_thread(daemon.start)
            again = (await receiver.wait_for(2))[1]
            assert again.headers["webhook-id"] == sent["id"]
        never.cancel()


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers", [[signal.SIGHUP, signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM]], ids=["hang-up", "int", "term"]
)
def test_a_signal_while_it_reads_its_configuration(tmp_path: Path, numbers: list[signal.Signals]) -> None:
    """H8: before the loop listens a hang-up is ignored, and a request to stop is an exit with 0 and without a word."""
    daemon = Daemon(tmp_path, "")
    daemon.config_path.unlink()
    os.mkfifo(daemon.config_path)
    daemon.launch()
    try:
        with daemon.config_path.open("w") as pipe:  # opens when the daemon has opened its end
            for number in numbers:
                daemon.process.send_signal(number)
            pipe.write(config_text(tmp_path))
        assert (daemon.wait(), daemon.log()) == (0, "")
    finally:
        daemon.kill()


@pytest.mark.slow
def test_signals_are_heard_before_anything_is_imported(tmp_path: Path) -> None:
    """H8: when the first library of the command line is imported `serve` hears signals already; other verbs do not."""
    library = "import signal\nraise SystemExit(repr(signal.getsignal(signal.SIGTERM)))\n"
    (tmp_path / "click.py").write_text(library)
    heard = {
        verb: subprocess.run(
            [sys.executable, "-m", "relay", verb],
            env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        ).stderr
        for verb in ("serve", "status")
    }
    assert "Signals._early" in heard["serve"]
    assert "SIG_DFL" in heard["status"]


@pytest.mark.slow
def test_a_second_signal_while_it_starts_ends_at_once(tmp_path: Path) -> None:
    """H8: whoever asks twice is not kept waiting for a start that takes long; exit 1, as later."""
    daemon = Daemon(tmp_path, "")
    daemon.config_path.unlink()
    os.mkfifo(daemon.config_path)
    daemon.launch()
    try:
        with daemon.config_path.open("w"):
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.send_signal(signal.SIGINT)
            assert daemon.wait() == 1
    finally:
        daemon.kill()


@pytest.mark.slow
def test_a_watchdog_that_dies_ends_the_process(tmp_path: Path) -> None:
    """H9: the task that feeds the service manager's watchdog is supervised like every other: exit 1 when it dies."""
    with Daemon(tmp_path, config_text(tmp_path), module="tests.support.dead_task", env={"DEAD": "watchdog"}) as daemon:
        assert daemon.wait() == 1
        assert records(daemon, log.TASK_FAILED)
        assert "relay stops: injected" in daemon.log()


@pytest.mark.slow
def test_a_hang_up_with_mistakes_changes_nothing(tmp_path: Path) -> None:
    """SIGHUP with a wrong file: READY again, the old endpoints, and every mistake in the log."""
    with Daemon(tmp_path, config_text(tmp_path, endpoints={"kept": "http://127.0.0.1:9/"})) as daemon:
        daemon.config_path.write_text(config_text(tmp_path, endpoints={"bad": "ftp://x"}, delivery='timeout = "soon"'))
        refuse_reload(daemon)
        assert [endpoint["id"] for endpoint in daemon.api.get("/v1/webhook-endpoints")["data"]] == ["kept"]
        refused = logged(daemon, log.CONFIG_REFUSED)
        assert "ftp" in refused["problems"]
        assert "soon" in refused["problems"]
        assert "relay_config_last_reload_successful 0" in metrics(daemon)

        daemon.config_path.write_text(config_text(tmp_path, endpoints={"other": "http://127.0.0.1:9/"}))
        daemon.notifications.clear()
        daemon.reload()
        daemon.wait_for_notification("READY=1")
        assert {endpoint["id"] for endpoint in daemon.api.get("/v1/webhook-endpoints")["data"]} == {"kept", "other"}
        assert "relay_config_last_reload_successful 1" in metrics(daemon)
        assert daemon.stop() == 0


@pytest.mark.slow
def test_a_hang_up_with_a_taken_id_changes_nothing(tmp_path: Path) -> None:
    """What only the database knows, an id made through the API, is refused by a reload too, and the daemon goes on."""
    with Daemon(tmp_path, config_text(tmp_path, endpoints={"kept": "http://127.0.0.1:9/"})) as daemon:
        made = daemon.api.post("/v1/webhook-endpoints", {"url": "http://127.0.0.1:9/", "application": "acme"})
        daemon.config_path.write_text(config_text(tmp_path, endpoints={made["id"]: "http://127.0.0.1:9/"}))
        refuse_reload(daemon)
        refused = logged(daemon, log.CONFIG_REFUSED)
        assert "made through the API" in refused["problems"]
        assert len(daemon.api.get("/v1/webhook-endpoints")["data"]) == 2
        assert "relay_config_last_reload_successful 0" in metrics(daemon)
        assert daemon.stop() == 0


def refuse_reload(daemon: Daemon) -> None:
    """Ask for a reload, and wait until the service manager was told that it began, ended, and was refused."""
    daemon.notifications.clear()
    daemon.reload()
    daemon.wait_for_notification("READY=1")
    assert any(message.startswith("RELOADING=1\nMONOTONIC_USEC=") for message in daemon.notifications)
    assert "reload refused" in daemon.notifications[-1]


def metrics(daemon: Daemon) -> str:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    connection.request("GET", "/metrics", headers={"Authorization": "Bearer test-admin-token-0123456789"})
    try:
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.mark.slow
def test_a_background_task_that_dies_ends_the_process(tmp_path: Path) -> None:
    """The process of a relay whose background task dies says so and exits 1, for systemd to restart it (invariant 12)."""
    with Daemon(tmp_path, config_text(tmp_path), module="tests.support.dead_task") as daemon:
        assert daemon.wait() == 1
        assert records(daemon, log.TASK_FAILED)
        assert "relay stops: injected" in daemon.log()


@pytest.mark.slow
def test_a_database_that_was_moved_ends_the_process(tmp_path: Path) -> None:
    """H14: a file that is not the one that was opened any more closes intake, is named, and ends the process with 78.

    Started again by itself it would begin with an empty one.
    """
    with Daemon(tmp_path, config_text(tmp_path)) as daemon:
        daemon.api.post("/v1/events", {"application": "acme", **EVENT})
        (tmp_path / "relay.db").rename(tmp_path / "elsewhere.db")
        assert daemon.wait() == 78
        assert "relay stops: " in daemon.log()
        assert "was removed, renamed or replaced" in daemon.log()
    assert not (tmp_path / "relay.db").exists(), "nothing was begun in its place"


# -- starts that are refused -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_daemon_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    """A second daemon on one database exits 75 and names the first, which notices nothing."""
    config = config_text(tmp_path, endpoints={"primary": "http://127.0.0.1:9/"})
    with Daemon(tmp_path, config) as first:
        (tmp_path / "second").mkdir()
        said = refused(tmp_path / "second", config, code=75)
        assert f"process {first.pid}" in said
        assert "storage.path" in said
        assert first.api_as(PRODUCER_TOKEN).post("/v1/events", EVENT)["deliveries"] == 1
        assert first.stop() == 0


@pytest.mark.slow
def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """H18: a port that somebody has is named, with how to find out who; exit 75, after which systemd tries again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(tmp_path, config_text(tmp_path).replace("127.0.0.1:0", f"127.0.0.1:{port}"), code=75)
    assert f"127.0.0.1:{port}" in said
    assert "server.listen" in said


@pytest.mark.slow
def test_an_address_that_is_not_there_yet_is_refused(tmp_path: Path) -> None:
    """H18: an address that this host has not got, as during a boot, is a reason to try again: exit 75."""
    said = refused(tmp_path, config_text(tmp_path).replace("127.0.0.1:0", "192.0.2.1:8420"), code=75)
    assert "192.0.2.1:8420" in said
    assert "server.listen" in said


@pytest.mark.slow
def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file of something else is left alone and named, with what to do."""
    (tmp_path / "relay.db").write_bytes(b"no database at all " * 1_000)
    said = refused(tmp_path, config_text(tmp_path), code=1)
    assert str(tmp_path / "relay.db") in said
    assert "restore a backup" in said
    assert (tmp_path / "relay.db").read_bytes().startswith(b"no database")


@pytest.mark.slow
def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    """Damage found after an unclean stop keeps the daemon down, and the file as it is."""
    config = config_text(tmp_path, endpoints={"primary": "http://127.0.0.1:9/"})
    with Daemon(tmp_path, config) as daemon:
        batch = [{"application": "acme", "type": "a.b", "data": {"text": "x" * 500}} for _ in range(200)]
        daemon.api.post("/v1/events/batch", batch)
        assert daemon.stop() == 0
    with sqlite3.connect(tmp_path / "relay.db") as database:
        database.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    data = bytearray((tmp_path / "relay.db").read_bytes())
    for page in range(8, len(data) // 4096, 2):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    (tmp_path / "relay.db").write_bytes(data)

    said = refused(tmp_path, config, code=1)
    assert "damaged" in said
    assert "restore a backup" in said
    assert (tmp_path / "relay.db").stat().st_size == len(data)


@pytest.mark.slow
def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database that a later relay has written is not touched; exit 78."""
    with Daemon(tmp_path, config_text(tmp_path)) as daemon:
        assert daemon.stop() == 0
    with sqlite3.connect(tmp_path / "relay.db") as database:
        database.execute("PRAGMA user_version = 9999")
    database.close()
    assert "newer" in refused(tmp_path, config_text(tmp_path), code=78)


@pytest.mark.slow
def test_a_socket_path_that_is_taken_is_refused(tmp_path: Path) -> None:
    """A file where the Unix socket should be is left alone; exit 78."""
    (tmp_path / "relay.sock").write_text("mine")
    assert "relay.sock" in refused(tmp_path, config_text(tmp_path), code=78)
    assert (tmp_path / "relay.sock").read_text() == "mine"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, which those of pytest are not, with a copy of the program.

    H23: the checkout itself may lie in a folder that only root may enter.
    """
    with tempfile.TemporaryDirectory(prefix="relay-test-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(ROOT / "relay", folder / "code" / "relay", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "tests" / "support" / "as_nobody.py", folder / "code")
        subprocess.run(["chmod", "-R", "a+rX", folder / "code"], check=True)
        yield folder


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_files_of_another_user_are_refused(open_folder: Path) -> None:
    """H18: a database, its folder or a configuration of somebody else is named, with the `chown` to run; exit 77."""
    config, database = open_folder / "config.toml", open_folder / "relay.db"
    config.write_text(config_text(open_folder))
    config.chmod(0o644)
    folder = serve_as_nobody(open_folder)
    database.touch(0o600)
    (open_folder / "relay.db.lock").touch(0o666)
    (open_folder / "relay.db.lock").chmod(0o666)
    unwritable = serve_as_nobody(open_folder)
    config.chmod(0o600)
    unreadable = serve_as_nobody(open_folder)
    checked = serve_as_nobody(open_folder, "check-config")

    for done, path in ((folder, open_folder), (unwritable, database), (unreadable, config), (checked, config)):
        assert done.returncode == 77, done.stderr
        assert "Traceback" not in done.stderr
        assert f"Run as root: chown nobody {path}\n" in done.stderr + done.stdout


def serve_as_nobody(folder: Path, verb: str = "serve") -> subprocess.CompletedProcess[str]:
    """Run `relay serve`, or another verb, as another user, until it ends."""
    return subprocess.run(
        [sys.executable, str(folder / "code" / "as_nobody.py"), verb, "--config", str(folder / "config.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"XDG_STATE_HOME": str(folder), "HOME": "/nonexistent"},
    )


# -- the admin token ---------------------------------------------------------------------------------------------------


WITHOUT_TOKENS = '[server]\nlisten = ["127.0.0.1:0"]\n[storage]\npath = "{folder}/relay.db"\nmin_free_disk = "1MiB"\n'


@pytest.mark.slow
def test_without_tokens_one_is_made_and_kept(tmp_path: Path) -> None:
    """With no token configured one for an admin is written (0600), shown by path only, and used again by later runs."""
    daemon = Daemon(tmp_path, WITHOUT_TOKENS.format(folder=tmp_path))
    path = tmp_path / "relay" / "admin-token"
    path.parent.mkdir()
    path.touch()  # what a crash in the middle of writing would have left
    with daemon:
        token = path.read_text().strip()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(token) >= 32
        assert daemon.api_as(token).get("/v1/status")["ready"] is True
        assert str(path) in daemon.log()
        assert "curl" in daemon.log()
        assert token not in daemon.log()
        assert daemon.stop() == 0
    with daemon:
        assert path.read_text().strip() == token
        assert daemon.api_as(token).get("/v1/status")["ready"] is True
    assert sorted(file.name for file in path.parent.iterdir()) == ["admin-token"]


BUFFERS = """
import ctypes, sys
from relay.daemon import process

class Facts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Facts
if sys.argv[1] == "returned":
    process.return_large_buffers()
for _ in range(3):
    bytes(30_000_000)  # after which glibc would take anything smaller from its heap
before = mallinfo().hblkhd
body = bytes(900_000)
print(mallinfo().hblkhd - before >= 900_000)
"""
"""Says whether a body of 900 kB has a mapping of its own, which goes when the body goes."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc can say what it mapped")
@pytest.mark.parametrize("how", ["returned", "kept"])
def test_memory_of_large_bodies_is_given_back(how: str) -> None:
    """S7: a large body is mapped by itself, whatever was freed before; negative control: glibc alone takes its heap."""
    done = subprocess.run(
        [sys.executable, "-c", BUFFERS, how], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == str(how == "returned")
