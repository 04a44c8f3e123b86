"""A relay that acknowledges before the commit: the negative control of the crash tests. Never part of the program.

Run as `python -m tests.support.early_ack serve --config FILE`. The answer leaves at once; the commit comes a little later,
as it would in a store that trusts its memory.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from relay.cli import main
from relay.intake import Intake
from relay.model import Accepted, FrozenEvent, NewEvent

COMMIT_DELAY_S = 0.2


async def commit_later(intake: Any, events: Sequence[NewEvent]) -> Sequence[Any]:
    """Answer as if the events were committed, and commit them afterwards."""

    async def later() -> None:
        await asyncio.sleep(COMMIT_DELAY_S)
        committed: Awaitable[Sequence[Any]] = intake._store.accept(events)
        for result in await committed:
            if isinstance(result, Accepted):
                intake._on_accepted(result)

    task = asyncio.create_task(later())
    PENDING.add(task)
    task.add_done_callback(PENDING.discard)
    return [Accepted(FrozenEvent(0, e.id, e.type, e.application, e.created_at_ms, None, e.body), (), 1) for e in events]


PENDING: set[asyncio.Task[None]] = set()

if __name__ == "__main__":
    Intake._commit = commit_later  # type: ignore[method-assign]
    main()
