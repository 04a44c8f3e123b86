"""A relay that acknowledges before the commit: the negative control of the crash tests. Never part of the program.

Run as `python -m tests.support.early_ack serve --config FILE`. The answer leaves at once; the commit comes when the next
events come, as it would in a store that trusts its memory.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from relay.cli import main
from relay.core.frozen import FrozenEvent
from relay.core.model import Accepted, NewEvent
from relay.dispatch.loop import Dispatch
from relay.store import AcceptResult
from relay.store.sqlite import SqliteStore

commit = SqliteStore.accept
build = Dispatch.__init__
dispatches: list[Dispatch] = []
trusted: list[Sequence[NewEvent]] = []  # to memory
commits: set[asyncio.Task[None]] = set()


def remember(dispatch: Dispatch, **parts: Any) -> None:
    """Build a dispatch and know it: what is committed late is handed over late."""
    build(dispatch, **parts)
    dispatches.append(dispatch)


def answer_early(
    store: SqliteStore, events: Sequence[NewEvent], follow: Callable[[list[AcceptResult]], Any] = list
) -> asyncio.Future[Any]:
    """Answer as if the events were committed; commit those before them."""
    for earlier in trusted:
        task = asyncio.create_task(commit_late(store, earlier))
        commits.add(task)
        task.add_done_callback(commits.discard)
    trusted[:] = [events]
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    answer.set_result(follow([unproven(event) for event in events]))
    return answer


async def commit_late(store: SqliteStore, events: Sequence[NewEvent]) -> None:
    for result in await commit(store, events):
        if isinstance(result, Accepted):
            dispatches[-1].hand_over(result)


def unproven(event: NewEvent) -> Accepted:
    frozen = FrozenEvent(0, event.id, event.type, event.application, event.created_at_ms, None, event.body)
    return Accepted(frozen, (), len(event.targets))


if __name__ == "__main__":
    SqliteStore.accept = answer_early  # type: ignore[method-assign,assignment]  # the mistake that is planted
    Dispatch.__init__ = remember  # type: ignore[method-assign]  # to reach what serve builds
    main()
