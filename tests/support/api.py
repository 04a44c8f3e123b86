"""The API on a real store, registry, dispatch and HTTP server; only receivers and the rest of the daemon are played."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import aiohttp
import orjson

from relay.api.auth import Authenticator
from relay.api.routes import management_routes
from relay.api.server import ServerLimits, build_app, serve
from relay.api.services import Reload, Services
from relay.config import Config
from relay.contracts import ContractCatalogue, Payload, Rendering
from relay.core.access import Role, Token
from relay.core.clock import ClockWatch, Now
from relay.core.ids import IdFactory
from relay.core.model import Accepted, NewEvent, Outcome
from relay.delivery.courier import Request
from relay.dispatch.loop import Dispatch
from relay.queue import Lanes
from relay.registry import Registrar, Registry, TokenTable
from relay.store.sqlite import SqliteStore, StoreSettings
from relay.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.stack import until

CONFIG: dict[str, Any] = {
    "delivery": {"allow_http": True, "allow_networks": ["127.0.0.0/8"], "retry": {"schedule": ["5s"], "jitter": 0.0}},
    "application": [
        {
            "id": "acme",
            "endpoint": [
                {
                    "id": "primary",
                    "url": "https://acme.example/hooks",
                    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                }
            ],
        },
        {"id": "globex"},
    ],
}

TOKENS = (
    Token("root", Role.ADMIN, None, "admin-token-0123456789"),
    Token("auditor", Role.READER, None, "reader-token-0123456789"),
    Token("acme-app", Role.APPLICATION, "acme", "acme-token-0123456789"),
    Token("globex-app", Role.APPLICATION, "globex", "globex-token-0123456789"),
    Token("acme-producer", Role.PRODUCER, "acme", "producer-token-0123456789"),
)
SECRETS = {token.name: token.secret for token in TOKENS}

CONTRACTS = ContractCatalogue.load()


@dataclass
class PlayedCourier:
    """Answers each attempt from `answers`, and with 204 when it is empty."""

    answers: list[Outcome] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    async def attempt(self, request: Request) -> Outcome:
        self.requests.append(request)
        return self.answers.pop(0) if self.answers else Outcome(started_at_ms=0, duration_ms=7, status=204)


@dataclass
class PlayedDaemon:
    """What the service tells the API about itself."""

    config: Config
    started: Now
    config_path: Path | None = Path("/etc/relay/config.toml")
    stopping: bool = False
    disk_low: bool = False
    disk_free_bytes: int = 10 << 30
    log_lines_dropped: int = 0
    loop_lag_ms: float = 0.0
    clock_watch: ClockWatch = field(default_factory=lambda: ClockWatch(FakeClock(), None))
    next_reload: Reload = field(default_factory=lambda: Reload(applied=True))

    async def reload(self) -> Reload:
        return self.next_reload


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    text: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)


class Api:
    """A served API. Leaving the context closes everything."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self.config = Config.model_validate(CONFIG if config is None else config)
        self.clock = FakeClock()
        self.courier = PlayedCourier()
        self.errors: list[BaseException] = []  # what nobody foresaw; must stay empty
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            self.store = await SqliteStore.open(StoreSettings(self._folder / "relay.db"), self.clock)
            opened.push_async_callback(self.store.close)
            await self._open_dispatch(opened)
            await self._open_server(opened)
            self.http = await opened.enter_async_context(aiohttp.ClientSession())
            self._exit = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()
        assert not self.errors, self.errors

    async def _open_dispatch(self, opened: AsyncExitStack) -> None:
        self.ids = IdFactory(self.clock.wall_ms, Random(1).getrandbits)
        self.metrics = Metrics("0.0.0")
        self.tokens = TokenTable(TOKENS, self.clock.wall_ms)
        self.registrar = Registrar(self.store, CONTRACTS, self.tokens, self.clock, self.ids, Random(2).randbytes)
        self.dispatch = Dispatch(
            store=self.store,
            registrar=self.registrar,
            courier=self.courier,
            lanes=Lanes(self.config.delivery.concurrency, Random(3)),
            clock=self.clock,
            clock_watch=ClockWatch(self.clock, None),
            rng=Random(4),
            metrics=self.metrics,
            on_fatal=self.errors.append,
        )
        await self.registrar.apply(self.config)
        running = asyncio.create_task(self.dispatch.run())

        async def end() -> None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.dispatch.drain(0)

        opened.push_async_callback(end)

    async def _open_server(self, opened: AsyncExitStack) -> None:
        self.daemon = PlayedDaemon(self.config, self.clock.now())
        services = Services(
            clock=self.clock,
            ids=self.ids,
            store=self.store,
            registrar=self.registrar,
            dispatch=self.dispatch,
            metrics=self.metrics,
            daemon=self.daemon,
        )
        authenticator = Authenticator(self.tokens, own_uid=0)
        self.routes = management_routes(services)
        app = build_app(self.routes, authenticator, lambda: None, ServerLimits(), self._unforeseen)
        listeners = await serve(app, ["127.0.0.1:0"], ServerLimits(), self._unforeseen)
        opened.push_async_callback(listeners.close)
        self.url = f"http://{listeners.addresses[0]}"

    def _unforeseen(self, *facts: Any) -> None:
        self.errors += [fact for fact in facts if isinstance(fact, BaseException)]

    @property
    def registry(self) -> Registry:
        return self.registrar.current

    # -- acting ----------------------------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str | None = "root",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call the API with the token named `by`, or with `by` itself, such as the token of a key."""
        sent = dict(headers or {})
        if by is not None:
            sent["Authorization"] = f"Bearer {SECRETS.get(by, by)}"
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        if data is not None:
            sent["Content-Type"] = "application/json"
        async with self.http.request(method, self.url + path, data=data, headers=sent) as response:
            return Answer(response.status, dict(response.headers), await response.read())

    async def get(self, path: str, *, by: str = "root") -> Any:
        """Read something; it must be there."""
        answer = await self.call("GET", path, by=by)
        assert answer.status == 200, answer.text
        return answer.json

    async def post_event(
        self, type: str = "render.completed", application: str = "acme", data: bytes = b'{"n":1}', **fields: Any
    ) -> str:
        """Put an event into the store as intake does, hand it over, and return its id."""
        owner = self.registry.application(application).application
        match = self.registry.match(owner, type)
        event_id, now_ms = self.ids.new("evt"), self.clock.wall_ms()
        body = self.registry.contract(owner).render(Rendering(event_id, type, now_ms, now_ms, Payload(data)))
        (accepted,) = await self.store.accept(
            [
                NewEvent(
                    id=event_id,
                    id_given=False,
                    application=owner.ref,
                    type=type,
                    body=body,
                    created_at_ms=now_ms,
                    timestamp_ms=now_ms,
                    targets=match.targets,
                    reason=match.reason,
                    reason_detail=match.detail,
                    **fields,
                )
            ]
        )
        assert isinstance(accepted, Accepted)
        assert accepted.event.checksum == crc32(body)
        self.dispatch.hand_over(accepted)
        return event_id

    async def delivery_of(self, event_id: str, state: str | None = None, attempts: int = 0) -> dict[str, Any]:
        """Wait until the only delivery of an event is in `state` with that many attempts; return its detail."""
        found: list[Any] = []

        async def there() -> bool:
            (view,) = await self.store.deliveries_of(event_id)
            found[:] = [view.id]
            return view.state == (state or view.state) and view.attempts >= attempts

        await until(there)
        detail = await self.get(f"/v1/deliveries/{found[0]}")
        assert isinstance(detail, dict)
        return detail
