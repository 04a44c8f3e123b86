"""What holds for every test: nothing is left behind.

Warnings are errors (pyproject.toml), so a file, socket or session that nobody closed fails the run. A task that nobody
awaited would be cancelled in silence when the loop closes; it fails its test here.
"""

import asyncio
import inspect
import json
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from hypothesis import settings

from relay.delivery.courier import Courier
from tests.support.couriers import running_courier, serving, trusting
from tests.support.node_receivers import NODE
from tests.support.stores import ENGINES, Engine
from tests.support.waiting import TurnLoop, quiet

MEMORY = Path("/dev/shm")
"""Where temporary folders stand when there is room: no test here cuts the power, so none needs the disk's fsyncs."""

ROOM_BYTES = 2 << 30


settings.register_profile("hostile", max_examples=20_000)  # for `make hostile`


def pytest_configure() -> None:
    """Choose where temporary folders stand; whoever sets TMPDIR has chosen."""
    if "TMPDIR" not in os.environ and MEMORY.is_dir():
        disk = os.statvfs(MEMORY)
        if disk.f_bavail * disk.f_frsize >= ROOM_BYTES:
            os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # pytest has asked `tempfile` already


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine that stands behind the interface of the store."""
    chosen: Engine = request.param
    return chosen


@pytest.fixture(scope="session")
def node_modules() -> None:
    """The verifiers of npm, installed once from the lock file."""
    if shutil.which("npm") is None:
        pytest.skip("needs Node: the JavaScript verifier is the independent half of this test")
    wanted = json.loads((NODE / "package.json").read_bytes())["dependencies"]
    if not all((NODE / "node_modules" / name).is_dir() for name in wanted):
        install = ["npm", "ci", "--no-audit", "--no-fund", "--fetch-retries=1"]
        if subprocess.run(install, cwd=NODE, check=False, capture_output=True).returncode != 0:
            pytest.skip("npm could not install the JavaScript verifiers: is its registry in reach?")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The one authority that couriers of these tests trust."""
    return trustme.CA()


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    """What a receiver speaks: tests that ask for it run over TCP and over TLS."""
    return serving(authority.issue_cert("localhost")) if request.param == "tls" else None


@pytest.fixture
async def courier(authority: trustme.CA) -> AsyncIterator[Courier]:
    """A courier that may dial loopback and trusts `authority`."""
    async with running_courier(tls=trusting(authority)) as courier:
        yield courier


LINGERING = ("RequestHandler.start", "Connection.start")  # aiohttp's, and ours around it
"""The task of a connection whose client left in the middle of a refused body: it ends by itself within a second."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each async test in asyncio's loop, and those that their module's `BOTH_LOOPS` names in uvloop's as well.

    `BOTH_LOOPS` is True for all tests of a module, or a set of their names.
    """
    both = getattr(getattr(item, "module", None), "BOTH_LOOPS", frozenset())
    chosen = both is True or getattr(item, "originalname", "") in (both or ())
    return {"asyncio": TurnLoop} | ({"uvloop": uvloop.new_event_loop} if chosen else {})


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> None:
    """Look at every async test's loop when the test and all its fixtures are done."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_left_behind")


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail when a task is still there at the end."""
    yield
    if left_behind():
        await quiet()  # what was cancelled ends
    if left := left_behind():
        pytest.fail(f"left behind: {', '.join(map(repr, left))}")


def left_behind() -> list[asyncio.Task[Any]]:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return [task for task in tasks if getattr(task.get_coro(), "__qualname__", "") not in LINGERING]
