"""How tests wait: the loop says when a turn of it has ended, and a test looks then. Nothing polls and nothing sleeps.

What is true in this process changes in a turn of the loop; what a thread did becomes known in one. So a fact is looked at
after each turn, and a loop that has nothing to do blocks until something happens.
"""

import asyncio
import inspect
import time
from collections.abc import Callable

PATIENCE_S = 45.0
"""How long a fact may take; a test that waits in vain must end here, for its own time-out may hit another task's step."""

TURNS = 50
"""How many turns are taken with uvloop, which does not say when one has ended, nor when it has nothing to do."""

Fact = Callable[[], bool]


class TurnLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, which calls whoever watches after every turn."""

    def __init__(self) -> None:
        super().__init__()
        self.watchers: set[Callable[[], None]] = set()

    @property
    def quiet(self) -> bool:
        """Whether nothing can go on without news from outside: a thread, a socket, or time."""
        ready, selector = self._ready, self._selector  # type: ignore[attr-defined]  # asyncio has no public way to see a turn
        return not ready and not selector.select(0)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]  # likewise
        for watch in tuple(self.watchers):
            watch()


async def until(fact: Fact, patience_s: float = PATIENCE_S) -> None:
    """Return after the turn in which `fact` came true; AssertionError when it does not."""
    loop = asyncio.get_running_loop()
    if fact():
        return
    if isinstance(loop, TurnLoop):
        await _watch(loop, fact, patience_s)
        return
    deadline = time.monotonic() + patience_s
    while not fact():  # uvloop
        assert time.monotonic() < deadline, _never(fact)
        await asyncio.sleep(0)


async def quiet(also: Fact = lambda: True, patience_s: float = PATIENCE_S) -> None:
    """Let everything go on that can without time or news, and until `also` holds: then what has not begun will not."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, TurnLoop):
        await _watch(loop, lambda: loop.quiet and also(), patience_s)
        return
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _watch(loop: TurnLoop, fact: Fact, patience_s: float) -> None:
    came_true: asyncio.Future[None] = loop.create_future()

    def look() -> None:
        try:
            if not came_true.done() and fact():
                came_true.set_result(None)
        except Exception as error:
            came_true.set_exception(error)

    loop.watchers.add(look)
    try:
        async with asyncio.timeout(patience_s):
            await came_true
    except TimeoutError:
        raise AssertionError(_never(fact)) from None
    finally:
        loop.watchers.remove(look)


def _never(fact: Fact) -> str:
    return f"this never came true: {inspect.getsource(fact).strip()}"
