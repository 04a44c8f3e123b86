"""What tests of replays share: dead letters by the dozen, and a clock that is moved until a replay is over."""

from typing import Any

from tests.support.api import CONFIG, Answer, Api

ONE_ATTEMPT: dict[str, Any] = {
    **CONFIG,
    "delivery": {
        **CONFIG["delivery"],
        "retry": {"schedule": [], "jitter": 0.0},
        "health": {"failures": 10_000, "disable_after": "365d"},
    },
}
"""A delivery that fails once is dead, and however many die, nobody cools down."""

TICK_MS = 20.0
PATIENCE = 3_000


async def died(api: Api, count: int, type: str = "render.completed", **fields: Any) -> list[str]:
    """Let so many deliveries die, one after the other; return their ids."""
    dead = []
    for _ in range(count):
        api.courier.script.append(500)
        event_id = await api.post_event(type, **fields)
        dead.append(str((await api.delivery_of(event_id, "dead"))["id"]))
        api.clock.advance(1)
    return dead


async def replay(api: Api, mode: str = "failed", by: str = "root", **members: Any) -> Any:
    """Make a replay; it must be made."""
    answer = await api.call("POST", "/v1/replays", {"mode": mode, **members}, by=by)
    assert answer.status == 201, answer.text
    return answer.json


async def dry(api: Api, mode: str = "failed", by: str = "root", **members: Any) -> Any:
    """Ask what a replay would be about."""
    answer = await api.call("POST", "/v1/replays", {"mode": mode, "dry_run": True, **members}, by=by)
    assert answer.status == 200, answer.text
    return answer.json


async def refusal(api: Api, members: Any, by: str = "root") -> Answer:
    """Ask for a replay that is refused."""
    answer = await api.call("POST", "/v1/replays", members, by=by)
    assert answer.status >= 400, answer.text
    return answer


async def move(api: Api, ticks: int = 1) -> None:
    """Let time pass in which replays go on."""
    for _ in range(ticks):
        await api.quiet()
        api.clock.advance(TICK_MS)
    await api.quiet()


async def chosen(api: Api, replay_id: str) -> None:
    """Let time pass until a replay has noted what it will send."""
    for _ in range(PATIENCE):
        if (await api.get(f"/v1/replays/{replay_id}"))["state"] != "selecting":
            return
        await move(api)
    raise AssertionError(f"{replay_id} still selects")


async def over(api: Api, replay_id: str, state: str = "finished") -> Any:
    """Let time pass until a replay is over; return what it came to."""
    for _ in range(PATIENCE):
        shown = await api.get(f"/v1/replays/{replay_id}")
        if shown["finished_at"] is not None:
            await move(api)
            assert shown["state"] == state
            return shown
        await move(api)
    raise AssertionError(f"this replay did not end: {shown}")


def sent(api: Api) -> list[str]:
    """The event ids of all requests so far, in order."""
    return [request.headers["webhook-id"] for request in api.courier.requests]
