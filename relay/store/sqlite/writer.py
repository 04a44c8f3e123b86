"""The one thread that writes: what has queued up while the last commit ran forms the next transaction.

A group runs accepts, then settles, then edits, inside one BEGIN IMMEDIATE … COMMIT; nobody is answered before the
commit has returned. What is submitted in one turn of the loop goes to the thread together, so a lone write waits for
the end of its turn and for nothing else. One connection does all writes and all checkpoints (SQLite
3.7.0–3.51.2 can lose commits when two connections do). What can go wrong, and what the callers then get:

- an item that the database refuses: the group is rolled back and run again by halves, down to the guilty one, which
  fails alone;
- the machine refuses (disk full, locked): nothing was kept, every item fails with StoreUnavailable;
- COMMIT fails: nobody knows, every item fails with CommitUnknown;
- an I/O error or corruption: likewise, and the writer stops for good and calls `on_fatal`;
- what follows a commit in memory (`done`) raises: that is a bug which would leave memory behind the file, so `on_fatal` is
  called and the process stops;
- a job of very many rows waits behind those of a few, with the edits that were submitted after it; each group takes some;
- more than `queue_bytes` of events wait: further ones fail at once with StoreUnavailable. Settles and edits are always
  taken, for they are small and bounded elsewhere (Q7).

A submitted job is never recalled: cancelling the future only stops somebody from hearing the answer.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, NamedTuple, TypeVar

from relay.core.errors import CommitUnknown, RelayError, StoreDamaged, StoreUnavailable
from relay.store.sqlite.opening import Trouble, judge

T = TypeVar("T")

GROUP_BYTES = 8 << 20
"""A group ends when it is about this large, so that one transaction cannot take seconds."""

GROUP_JOBS = 1_024

GROUP_ROWS = 300
"""A group takes large jobs up to so many rows, at least one: 10,000 would keep whoever writes one row waiting for 200 ms."""

LARGE_ROWS = 50
"""A job of more rows than this is large."""


class Stage(IntEnum):
    """When a job's turn comes within its group."""

    ACCEPT = 0
    SETTLE = 1
    EDIT = 2
    OUTSIDE = 3  # after the commit and in no transaction: checkpoints, giving space back


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """One write under way. `done` and `failed` run in the event loop, whatever became of the future."""

    stage: Stage
    work: Any  # what the stage's function takes; for EDIT and OUTSIDE a function of the connection
    size: int = 500  # bytes it adds to a group, roughly
    rows: int = 1  # that it writes, roughly
    done: Callable[[Any], T] | None = None  # turns the work's result into the answer
    failed: Callable[[], None] | None = None  # frees what was set aside for it
    future: asyncio.Future[T] | None = None  # None: nobody waits


class Answer(NamedTuple):
    """What became of a job, on its way back to the event loop."""

    job: Job[Any]
    result: Any
    error: Exception | None


class CommitFailed(Exception):
    """COMMIT raised: whether the group was kept is unknown."""


Batch = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
"""Runs all accepts, or all settles, of a group; one result for each, in order."""


class Writer:
    """Owner of the writing connection. Everything public is called from the event loop."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        accept: Batch,
        settle: Batch,
        before_commit: Callable[[sqlite3.Connection], None],
        on_recovered: Callable[[], None],
        on_fatal: Callable[[Exception], None],
        queue_bytes: int,
    ) -> None:
        """`before_commit` runs in the transaction of each group that changed something; the others in the event loop."""
        self._connect = connect
        self._before_commit = before_commit
        self._batches = {Stage.ACCEPT: accept, Stage.SETTLE: settle}
        self._on_recovered = on_recovered
        self._on_fatal = on_fatal
        self._queue_bytes = queue_bytes
        self._queued_bytes = 0  # owned by the loop: of jobs submitted and not answered
        self.waiting: Counter[Stage] = Counter()  # owned by the loop: so many of them are submitted and not answered
        self._loop = asyncio.get_running_loop()
        self._submitted: list[Job[Any]] = []  # owned by the loop: in this turn of it
        self._queue: queue.SimpleQueue[Sequence[Job[Any] | None]] = queue.SimpleQueue()  # None: there will be no more
        self._thread = threading.Thread(target=self._run, name="relay-writer", daemon=True)
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._closing = False  # owned by the loop: no more jobs are taken
        self._abandoned = False  # set by the loop, read by the thread
        self._broken: StoreDamaged | None = None  # set once, before anything is answered of it
        self._troubled = False  # owned by the thread: something but an item failed in this group
        self._taken: deque[Job[Any] | None] = deque()  # owned by the thread: out of the queue, and in no group yet
        self._large: deque[Job[Any] | None] = deque()  # owned by the thread: the same, what waits behind small jobs
        self._group_jobs: list[Job[Any]] = []  # owned by the thread: taken and not yet answered
        self._wrote = False  # owned by the thread: a commit of this group changed something
        self.healthy = True  # owned by the loop: False from a failed commit to the next that wrote something
        self.unknown = False  # owned by the loop: a commit failed since this was cleared, and may have been kept

    async def start(self) -> None:
        """Open the connection in the thread; what `connect` raises is raised here."""
        self._thread.start()
        await self._started

    def submit(self, job: Job[Any]) -> None:
        """Queue a job for the next group; a writer that is closed, broken or full fails it at once. O(1)"""
        refusal = self._refusal() if self._closing or self._broken is not None else self._overflow(job)
        if refusal is not None:
            self._conclude(Answer(job, None, refusal))
            return
        self._queued_bytes += job.size
        self.waiting[job.stage] += 1
        if not self._submitted:
            self._loop.call_soon(self._pass_on)
        self._submitted.append(job)

    def break_off(self, error: StoreDamaged) -> None:
        """Write nothing more: the database can no longer be relied on."""
        self._broken, self.healthy = error, False
        self._on_fatal(error)

    async def close(self) -> None:
        """Finish what was submitted, then close the connection. Safe twice."""
        if not self._closing:
            self._closing = True
            self._pass_on()
            self._queue.put((None,))
        await asyncio.shield(self._stopped)

    async def abandon(self) -> None:
        """Stop as a crash would: what is not committed is lost, nobody is answered, nothing is tidied up."""
        self._abandoned = True
        await self.close()

    # -- in the event loop -------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        """Give the thread what was submitted in this turn: woken for each job, it would fight for the interpreter."""
        if self._submitted:
            self._queue.put(self._submitted)
            self._submitted = []

    def _refuse_rest(self) -> None:
        """Answer what no thread is left to take: whoever waits for one of these would wait for ever."""
        self._pass_on()
        while not self._queue.empty():
            self._taken += self._queue.get_nowait()
        left = [job for job in (*self._large, *self._taken) if job is not None]
        self._large.clear()
        self._taken.clear()
        self._answer(_fail(left, self._refusal()), healthy=False)

    def _answer(self, answers: Sequence[Answer], healthy: bool | None) -> None:
        was, broken = self.healthy, self._broken is not None
        if healthy is not None:
            self.healthy = healthy and not broken
        for answer in answers:
            job, _, error = answer
            self._queued_bytes -= job.size
            self.waiting[job.stage] -= 1
            if error is not None and isinstance(error, CommitUnknown):
                self.unknown = True
            self._conclude(answer)
        if self.healthy and not was:
            self._on_recovered()

    def _conclude(self, answer: Answer) -> None:
        """Let memory follow what became of a job, then answer whoever waits."""
        job, result, error = answer
        value = None
        try:
            if error is not None and job.failed is not None:
                job.failed()
            elif error is None:
                value = result if job.done is None else job.done(result)
        except Exception as bug:
            self._on_fatal(bug)
            error = bug
        if job.future is None or job.future.done():
            return
        if error is None:
            job.future.set_result(value)
        else:
            job.future.set_exception(error)

    def _overflow(self, job: Job[Any]) -> StoreUnavailable | None:
        if job.stage is not Stage.ACCEPT or not self._queued_bytes:
            return None
        if self._queued_bytes + job.size <= self._queue_bytes:
            return None
        return StoreUnavailable(
            f"{self._queued_bytes >> 20} MiB wait to be written, as much as may.",
            remedy="Try again in a moment, with fewer requests at once; if it goes on, look at the disk's speed.",
        )

    def _refusal(self) -> StoreUnavailable:
        if self._broken is not None:
            return StoreUnavailable("The database has failed and relay is stopping.", remedy="See the log.")
        return StoreUnavailable("The database is closed.", remedy="Try again when relay is up.")

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            connection = self._connect()
        except BaseException as error:
            self._in_loop(_settle_future, self._started, error)
            self._in_loop(_settle_future, self._stopped, None)
            return
        self._in_loop(_settle_future, self._started, None)
        try:
            self._work_through(connection)
        except BaseException as error:  # a bug of ours: without this thread nothing can be promised any more
            self._broken = StoreDamaged(f"The writer has stopped: {error!r}.", remedy="This is a bug; restart relay.")
            self._in_loop(self._on_fatal, self._broken)
            self._in_loop(self._answer, _fail(self._group_jobs, self._unknown(error)), False)
            self._in_loop(self._refuse_rest)
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            self._in_loop(_settle_future, self._stopped, None)

    def _work_through(self, connection: sqlite3.Connection) -> None:
        open_for_more = True
        while open_for_more and not self._abandoned:
            jobs, open_for_more = self._take()
            if self._abandoned:
                return
            self._group_jobs = jobs
            answers, healthy = self._perform(connection, jobs)
            self._group_jobs = []
            if answers and not self._abandoned:
                self._in_loop(self._answer, answers, healthy)

    def _take(self) -> tuple[list[Job[Any]], bool]:
        """Wait for a job, then take what else is there, up to a group's size; False when the end was queued."""
        jobs: list[Job[Any]] = []
        size = 0
        while (
            size < GROUP_BYTES
            and len(jobs) < GROUP_JOBS
            and (self._taken or self._fetch(wait=not jobs and not self._large))
        ):
            job = self._taken.popleft()
            if self._is_behind(job):
                self._large.append(job)
                continue
            if job is None:
                return jobs, False
            jobs.append(job)
            size += job.size
        return jobs, self._take_large(jobs)

    def _is_behind(self, job: Job[Any] | None) -> bool:
        """Whether a job waits in the second row: a large one, and behind it all that must not come before it."""
        if job is not None and job.rows > LARGE_ROWS:
            return True
        return bool(self._large) and (job is None or job.stage > Stage.SETTLE)

    def _take_large(self, jobs: list[Job[Any]]) -> bool:
        """Add large jobs to a group, at least one; False when the end was queued behind them."""
        rows = 0
        while self._large and (job := self._large[0]) is not None and (not rows or rows + job.rows <= GROUP_ROWS):
            jobs.append(job)
            rows += job.rows
            self._large.popleft()
        return not (self._large and self._large[0] is None)

    def _fetch(self, *, wait: bool) -> bool:
        """Take the jobs of one turn of the loop out of the queue; False when there are none."""
        try:
            self._taken += self._queue.get(wait)
        except queue.Empty:
            return False
        return True

    def _perform(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> tuple[list[Answer], bool | None]:
        """Run a group and then what stands outside of it; the second value is what is known of the health now."""
        inside = [job for job in jobs if job.stage is not Stage.OUTSIDE]
        self._troubled = self._wrote = False
        answers = self._group(connection, inside) if inside else []
        answers += [self._outside(connection, job) for job in jobs if job.stage is Stage.OUTSIDE]
        return answers, False if self._troubled else self._wrote or None

    def _group(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Answer]:
        if self._broken is not None:
            return _fail(jobs, self._refusal())
        try:
            return self._transaction(connection, jobs)
        except CommitFailed as error:
            _roll_back(connection)
            return _fail(jobs, self._unknown(error.__cause__))
        except Exception as error:
            _roll_back(connection)
            return self._after_failure(connection, jobs, error)

    def _transaction(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Answer]:
        before = connection.total_changes
        connection.execute("BEGIN IMMEDIATE")
        answers = self._run_jobs(connection, jobs)
        if self._abandoned:
            raise CommitFailed
        if connection.total_changes > before:
            self._before_commit(connection)
        try:
            self.commit(connection)
        except sqlite3.Error as error:
            raise CommitFailed from error
        self._wrote |= connection.total_changes > before
        return answers

    def _run_jobs(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Answer]:
        answers: list[Answer] = []
        for stage, run in self._batches.items():
            chosen = [job for job in jobs if job.stage is stage]
            if chosen:
                results = run(connection, [job.work for job in chosen])
                answers += [Answer(job, result, None) for job, result in zip(chosen, results, strict=True)]
        return answers + [_edit(connection, job) for job in jobs if job.stage is Stage.EDIT]

    def commit(self, connection: sqlite3.Connection) -> None:
        """Make the group durable; a test may stand in the way."""
        connection.execute("COMMIT")

    def _after_failure(
        self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]], error: Exception
    ) -> list[Answer]:
        trouble = judge(error)
        if trouble is Trouble.DAMAGE:
            return _fail(jobs, self._unknown(error))
        if trouble is Trouble.MACHINE:
            self._troubled = True
            return _fail(jobs, _unavailable(error))
        if len(jobs) > 1:  # by halves: one guilty item among a thousand costs twenty commits, not a thousand
            half = len(jobs) // 2
            return self._group(connection, jobs[:half]) + self._group(connection, jobs[half:])
        return _fail(jobs, _refused(error) if isinstance(error, sqlite3.Error) else error)

    def _unknown(self, error: BaseException | None) -> CommitUnknown:
        self._troubled = True
        if error is not None and judge(error) is Trouble.DAMAGE:
            self._broken = StoreDamaged(
                f"The database reports {error}.",
                remedy="Check the disk; relay stops so that the service manager starts it on what the disk really holds.",
            )
            self._in_loop(self._on_fatal, self._broken)
        return CommitUnknown(
            f"The database could not confirm the write: {error}.", remedy="Repeat it with the same idempotency key."
        )

    def _outside(self, connection: sqlite3.Connection, job: Job[Any]) -> Answer:
        if self._broken is not None:
            return Answer(job, None, self._refusal())
        try:
            return Answer(job, job.work(connection), None)
        except Exception as error:
            _roll_back(connection)
            return Answer(job, None, error)

    def _in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            self._loop.call_soon_threadsafe(function, *arguments)


def _edit(connection: sqlite3.Connection, job: Job[Any]) -> Answer:
    """Run one edit so that its failure undoes it alone."""
    connection.execute("SAVEPOINT edit")
    try:
        result = job.work(connection)
    except RelayError as error:
        connection.execute("ROLLBACK TO edit")
        connection.execute("RELEASE edit")
        return Answer(job, None, error)
    connection.execute("RELEASE edit")
    return Answer(job, result, None)


def _fail(jobs: Sequence[Job[Any]], error: Exception) -> list[Answer]:
    return [Answer(job, None, error) for job in jobs]


def _roll_back(connection: sqlite3.Connection) -> None:
    # After SQLITE_FULL and I/O errors SQLite has rolled back by itself and says so; it advises to try all the same.
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(
        f"The database takes no writes now: {error}.", remedy="Check free disk space and permissions; try again."
    )


def _refused(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"The database refused this write: {error}.", remedy="This is a bug; nothing was stored.")


def _settle_future(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
