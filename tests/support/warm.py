"""Daemons that start fast: one process imports relay once, and forks a daemon off whenever one is asked for.

A fork is a process of its own, with descriptors and a memory of its own, and dies of SIGKILL like any other; what it
saves is the second of imports. Run as `python -m tests.support.warm`: a line of JSON on stdin is a daemon to start, or one
to reap; a line on stdout is its pid, or its exit status.
"""

import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class Warm:
    """The test's end of the process that forks. Leaving the context ends it; its daemons end by their own owners."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=10)

    def start(self, module: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> "Forked":
        """Start `python -m module` with these arguments, as a fork."""
        return Forked(self, self.ask(module=module, arguments=list(arguments), env=dict(env), log=str(log)))

    def ask(self, **wish: Any) -> int:
        """Ask for something; return the number that is answered."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Forked:
    """A daemon that was forked off, with what tests use of `subprocess.Popen`."""

    def __init__(self, warm: Warm, pid: int) -> None:
        self.pid = pid
        self._warm = warm
        self._descriptor = os.pidfd_open(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        if self._code is None and select.select([self._descriptor], [], [], 0)[0]:
            self._code = self._warm.ask(reap=self.pid)
            os.close(self._descriptor)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        if self._code is None:
            select.select([self._descriptor], [], [], timeout)
        code = self.poll()
        assert code is not None, f"{self.pid} did not end within {timeout} s"
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve() -> None:
    """Fork and reap, until stdin ends."""
    import relay.daemon.process
    import relay.daemon.service  # noqa: F401 - what a daemon imports: its fork has it

    for line in sys.stdin:
        wish = json.loads(line)
        answer = reap(wish["reap"]) if "reap" in wish else fork(**wish)
        print(answer, flush=True)  # noqa: T201 - the pipe to the test


def reap(pid: int) -> int:
    """Take the exit code of a daemon that has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork(module: str, arguments: Sequence[str], env: Mapping[str, str], log: str) -> int:
    """Fork a daemon off and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    os.environ.clear()
    os.environ.update(env)
    stdin, stderr = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stdin, 0)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    serve()
