"""What holds for every test: nothing is left behind.

Warnings are errors (pyproject.toml), so a file, socket or session that nobody closed fails the run. A task that nobody
awaited would be cancelled in silence when the loop closes; it fails its test here.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator

import pytest

TURNS = 20
"""Turns of the loop that what was cancelled gets to end."""


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> None:
    """Look at every async test's loop when the test and all its fixtures are done."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_left_behind")


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail when a task is still there at the end."""
    yield
    for _ in range(TURNS):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail(f"left behind: {', '.join(sorted(map(repr, left)))}")
