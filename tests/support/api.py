"""The API of a relay whose clock stands still and whose courier is played, called by tokens of every role."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from relay.config import Config, Loaded
from relay.config.layers import Layers
from relay.contracts import Payload, Rendering
from relay.core.access import Role, Token
from relay.core.model import Accepted, NewEvent
from relay.daemon.service import Relay
from relay.registry import Registry
from tests.support.clock import FakeClock
from tests.support.config import CONTRACTS
from tests.support.house import House
from tests.support.played import PlayedCourier

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
    Token("on-call", Role.OPERATOR, None, "operator-token-0123456789"),
    Token("acme-app", Role.APPLICATION, "acme", "acme-token-0123456789"),
    Token("globex-app", Role.APPLICATION, "globex", "globex-token-0123456789"),
    Token("acme-producer", Role.PRODUCER, "acme", "producer-token-0123456789"),
)
SECRETS = {token.name: token.secret for token in TOKENS}


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    text: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)


class Api(House):
    """A relay of `config`. Leaving the context stops it."""

    tokens = TOKENS

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        clock = FakeClock()
        self.courier: PlayedCourier = PlayedCourier(clock)
        super().__init__(folder, clock, courier=self.courier)
        self.clock: FakeClock = clock
        self.errors: list[BaseException] = []
        self.config = self._configured(CONFIG if config is None else config)

    def _configured(self, config: Mapping[str, Any]) -> Config:
        server = {"listen": ["127.0.0.1:0"]}
        storage = {"path": str(self.folder / "relay.db"), "min_free_disk": "1MiB"}
        return Config.model_validate({"server": server, "storage": storage, **config})

    async def apply(self, config: Mapping[str, Any]) -> None:
        """Put another configuration in force, as a reload does."""
        await self.registrar.apply(self._configured(config))

    def read(self) -> Loaded:
        """Take the configuration as it is: there is no file."""
        return Loaded(self.config, (), Layers(), self.config_path, CONTRACTS)

    def wire(self) -> Relay:
        """Put the relay together so that what nobody foresaw fails the test."""
        relay = super().wire()
        relay._unexpected = lambda request, error: self.errors.append(error)  # type: ignore[method-assign]  # noted, not logged
        return relay

    async def start(self) -> None:
        """Start the relay, and name the rooms that tests look into."""
        await super().start()
        self.store, self.registrar, self.dispatch = self.relay.store, self.relay.registrar, self.relay.dispatch

    async def stop(self) -> None:
        """Stop it without waiting for attempts that a test left open."""
        await self.dispatch.drain(0)
        await super().stop()
        assert not self.errors, self.errors

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
        event_id, now_ms = self.relay._ids.new("evt"), self.clock.wall_ms()
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
        self.dispatch.hand_over(accepted)
        return event_id

    async def delivery_of(self, event_id: str, state: str | None = None, attempts: int = 0) -> dict[str, Any]:
        """Wait until the only delivery of an event is in `state` with that many attempts; return its detail."""
        found: list[Any] = []

        async def there() -> bool:
            (view,) = await self.store.deliveries_of(event_id)
            found[:] = [view.id]
            return view.state == (state or view.state) and view.attempts >= attempts

        await self.until(there)
        detail = await self.get(f"/v1/deliveries/{found[0]}")
        assert isinstance(detail, dict)
        return detail
