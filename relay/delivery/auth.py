"""Access tokens of OAuth 2.0 client credentials: fetched as deliveries are sent, and kept until shortly before they end.

One task fetches a token, however many attempts wait for it, and begins while the one before is still good. What a token
server does is an outcome of its own, never taken for the receiver's. A token goes into one header and nowhere else.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import orjson

from relay.core.auth import Auth, Grant, bearer
from relay.core.clock import Clock
from relay.core.model import Failure, HeaderPair, Outcome, shown_without
from relay.core.netguard import Reach
from relay.delivery.answer import EXCERPT_BYTES
from relay.delivery.courier import Request

FETCH_MS = 10_000
"""How long a token server may take to answer."""
LIFETIME_UNSAID_MS = 5 * 60_000
"""How long a token is good whose answer does not say it."""
LIFETIME_MAX_MS = 24 * 3_600_000
"""How long a token is used at most."""
AHEAD_MS = 60_000
"""How long before its end a token is fetched anew; half of its time, for one that is good for less than two minutes."""
FAILURE_STANDS_MS = 5_000
FAILURE_STANDS_MAX_MS = 60_000
"""How long a token server that gave none is not asked again, and at most where it says so itself (`Retry-After`)."""
DISTRUST_MS = 10_000
"""A receiver's 401 ends a token before its time once in so long."""
TOKEN_CHARACTERS_MAX = 8_192
GRANTS_MAX = 10_000
"""Grants whose tokens are kept, those used last."""

_SENDABLE = re.compile(rf"[!-~]{{1,{TOKEN_CHARACTERS_MAX}}}")

REPEATED = "the token was fetched anew and the request repeated at once"

_BEHIND_A_NAME = frozenset({Failure.DNS, Failure.BLOCKED_NAME, Failure.BLOCKED_ADDRESS})
_CREDENTIALS = "check client_id and client_secret, and whether it wants them in a header or in the form (client_auth)"
_ADDRESS = "check token_url"
_ERRORS: Mapping[
    str, str
] = {  # RFC 6749 §5.2, RFC 8707; an answer may repeat what it was sent, so no other word is shown
    "invalid_client": _CREDENTIALS,
    "invalid_grant": _CREDENTIALS,
    "invalid_request": "check scope, audience and client_auth: something is missing, or not known there",
    "invalid_scope": "check scope",
    "invalid_target": "check audience",
    "unauthorized_client": "this client may not ask for client credentials; ask the token server's operator",
    "unsupported_grant_type": "client credentials are not offered at this token_url; check it",
}
_STATUSES: Mapping[int, str] = {401: _CREDENTIALS, 403: _CREDENTIALS, 404: _ADDRESS, 405: _ADDRESS, 410: _ADDRESS}
_FAMILIES: Mapping[int, str] = {
    3: f"redirects are not followed; {_ADDRESS}",
    4: "check everything in auth",
    5: "it is asked again at the next attempt",
}


class Token(NamedTuple):
    """An access token. Times are those of the monotonic clock."""

    value: str
    refresh_ms: float  # from then on another one is fetched
    ends_ms: float

    def __repr__(self) -> str:
        return shown_without(self, "value")


class NoToken(ValueError):
    """What a token server answered is no token that can be used; the text says why, and repeats nothing of it."""


class Account:
    """What is kept of one grant: its token, what came of the latest fetch, and the task that fetches now."""

    __slots__ = ("asks_again_ms", "distrusts_again_ms", "failure", "fetching", "grant", "reach", "token")

    def __init__(self, grant: Grant, reach: Reach) -> None:
        self.grant = grant
        self.reach = reach
        self.token: Token | None = None
        self.failure: Outcome | None = None  # of the latest fetch; None: it brought a token
        self.asks_again_ms = 0.0  # no fetch begins before, after one that failed
        self.distrusts_again_ms = 0.0  # no token is given up for a 401 before
        self.fetching: asyncio.Task[Token | Outcome] | None = None


class Tokens:
    """Owner of the tokens and of the tasks that fetch them. Each operation is O(1) but for the network."""

    def __init__(self, clock: Clock, exchange: Callable[[Request], Awaitable[Outcome]]) -> None:
        """Take what makes one exchange, with the guard, TLS and limits of every other."""
        self._clock = clock
        self._exchange = exchange
        self._accounts: OrderedDict[tuple[Grant, Reach], Account] = OrderedDict()
        self._fetches: set[asyncio.Task[Token | Outcome]] = set()
        self._is_closed = False

    async def attempt(self, request: Request, auth: Auth) -> Outcome:
        """Make an attempt, with a token where one is needed.

        One that was kept and meets a 401 is fetched anew, and the request repeated, once.
        """
        if auth.grant is None:
            return await self._exchange(request)
        began = self._clock.now()
        account = self._account(auth.grant, request.reach)
        kept, token = account.token, await self._usable(account)
        outcome = await self._send(request, auth, token)
        if outcome.status == 401 and token is kept and self._gives_up(account, token):
            outcome = await self._send(request, auth, await self._usable(account))
            if outcome.status is not None:
                detail = f"{outcome.detail} ({REPEATED})" if outcome.detail else REPEATED
                outcome = outcome._replace(detail=detail)
        duration_ms = self._clock.mono_ms() - began.mono_ms
        return outcome._replace(started_at_ms=began.wall_ms, duration_ms=duration_ms)

    async def close(self) -> None:
        """End the fetches that run, and begin no more. Safe twice."""
        self._is_closed = True
        fetches = tuple(self._fetches)
        for task in fetches:
            task.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    async def _send(self, request: Request, auth: Auth, token: Token | Outcome) -> Outcome:
        if isinstance(token, Outcome):
            return token
        headers = {**request.headers, auth.header: bearer(token.value)}
        return _without(await self._exchange(request._replace(headers=headers)), token)

    def _account(self, grant: Grant, reach: Reach) -> Account:
        """Return what is kept for a grant; who cannot reach the token server gets nothing from those who can."""
        account = self._accounts.get((grant, reach))
        if account is None:
            account = self._accounts[grant, reach] = Account(grant, reach)
        self._accounts.move_to_end((grant, reach))
        if len(self._accounts) > GRANTS_MAX:
            self._accounts.popitem(last=False)
        return account

    async def _usable(self, account: Account) -> Token | Outcome:
        """Return a token that is good, or what an attempt without one comes to."""
        now_ms, token = self._clock.mono_ms(), account.token
        may_ask = account.fetching is None and now_ms >= account.asks_again_ms
        if token is not None and now_ms < token.ends_ms:
            if may_ask and now_ms >= token.refresh_ms:
                self._begin(account)
            return token
        if account.failure is not None and account.fetching is None and not may_ask:
            return account.failure
        return await asyncio.shield(account.fetching or self._begin(account))

    def _gives_up(self, account: Account, token: Token | None) -> bool:
        """Give up a token that a receiver refused, if nobody did before; False where that was of no use a moment ago."""
        if account.token is token:
            if self._clock.mono_ms() < account.distrusts_again_ms:
                return False
            account.distrusts_again_ms = self._clock.mono_ms() + DISTRUST_MS
            account.token, account.asks_again_ms = None, 0.0
        return True

    def _begin(self, account: Account) -> asyncio.Task[Token | Outcome]:
        task = account.fetching = asyncio.create_task(self._fetch(account))
        self._fetches.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Token | Outcome]) -> None:
        self._fetches.discard(task)
        if not task.cancelled():
            task.exception()  # a mistake of our own is raised to whoever waits, and to the next who asks

    async def _fetch(self, account: Account) -> Token | Outcome:
        account.asks_again_ms = self._clock.mono_ms() + FAILURE_STANDS_MS
        try:
            began_ms = self._clock.mono_ms()
            outcome = await self._ask(account)
            try:
                account.token, account.failure = token_of(outcome, began_ms), None
            except NoToken as fault:
                account.failure = failed(outcome, str(fault))
                wait_ms = min(outcome.retry_after_ms or 0, FAILURE_STANDS_MAX_MS)
                account.asks_again_ms = self._clock.mono_ms() + max(FAILURE_STANDS_MS, wait_ms)
                return account.failure
            account.asks_again_ms = 0.0
            return account.token
        finally:
            account.fetching = None

    async def _ask(self, account: Account) -> Outcome:
        if self._is_closed:
            return self._stopping()
        grant = account.grant
        asked = Request(grant.token_url, grant.headers(), grant.form(), FETCH_MS, excerpt=True, reach=account.reach)
        try:
            return await self._exchange(asked)
        except asyncio.CancelledError:  # by `close`; whoever still waits is answered
            return self._stopping()

    def _stopping(self) -> Outcome:
        return Outcome(self._clock.wall_ms(), 0, failure=Failure.CONNECT, detail="relay is stopping")


def token_of(outcome: Outcome, began_ms: float) -> Token:
    """Read what a token server answered to a request that began then; NoToken for anything that is no token."""
    answer = _object(outcome.response_body)
    if outcome.status is None or not 200 <= outcome.status < 300 or _known_error(answer):
        raise NoToken(_refusal(outcome, answer))
    fault = _fault(outcome.response_body, answer)
    if answer is None or fault:
        raise NoToken(f"the token server answered {outcome.status}, but {fault}")
    lifetime_ms = _lifetime_ms(answer.get("expires_in"))
    ahead_ms = min(AHEAD_MS, lifetime_ms / 2)
    return Token(str(answer["access_token"]), began_ms + lifetime_ms - ahead_ms, began_ms + lifetime_ms)


def failed(outcome: Outcome, detail: str) -> Outcome:
    """Return what an attempt comes to for which the token server gave no token: nothing of it is the receiver's."""
    if outcome.failure is Failure.NO_DESCRIPTORS:
        return outcome
    failure = Failure.TOKEN_UNREACHABLE if outcome.failure in _BEHIND_A_NAME else Failure.NO_TOKEN
    return Outcome(outcome.started_at_ms, outcome.duration_ms, failure=failure, detail=detail, ours=outcome.ours)


def _refusal(outcome: Outcome, answer: Mapping[str, object] | None) -> str:
    if outcome.status is None:
        return f"the token server gave no token: {outcome.detail}; this is about auth.token_url"
    error = _known_error(answer)
    remedy = _ERRORS.get(error) or _STATUSES.get(outcome.status) or _FAMILIES.get(outcome.status // 100, _ADDRESS)
    return f"the token server answered {outcome.status}{error and f' ({error})'}; {remedy}"


def _known_error(answer: Mapping[str, object] | None) -> str:
    """Return the error that an answer names, where it is one of the standard; "" otherwise."""
    error = (answer or {}).get("error")
    return error if isinstance(error, str) and error in _ERRORS else ""


def _fault(body: bytes, answer: Mapping[str, object] | None) -> str:
    """Say why an answer holds no token that can be used; "" for one that does."""
    if len(body) >= EXCERPT_BYTES:
        return f"its answer has {EXCERPT_BYTES} bytes or more, which no token has; {_ADDRESS}"
    if answer is None:
        return f"its answer is no JSON object, or did not come whole within a second; {_ADDRESS}"
    token, kind = answer.get("access_token"), answer.get("token_type") or "Bearer"
    if not isinstance(token, str) or not token:
        return f"its answer has no access_token; {_ADDRESS}"
    if not _SENDABLE.fullmatch(token):
        return f"its access_token is more than {TOKEN_CHARACTERS_MAX} characters of visible ASCII; ask its operator"
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return "its token is of a type other than Bearer; ask its operator for bearer tokens"
    return ""


def _object(body: bytes) -> Mapping[str, object] | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _lifetime_ms(said: object) -> float:
    """Return how long a token is good: what is no number is taken for not said, and a token that has ended is used once."""
    if isinstance(said, str) and said.isascii() and said.isdecimal() and len(said) < 20:
        said = int(said)
    if isinstance(said, bool) or not isinstance(said, int | float):
        return LIFETIME_UNSAID_MS
    return min(max(said, 0) * 1000, LIFETIME_MAX_MS)


def _without(outcome: Outcome, token: Token) -> Outcome:
    """Take a token out of an answer that repeats it."""
    body = outcome.response_body.replace(token.value.encode(), b"***")
    fields = tuple(HeaderPair(name, value.replace(token.value, "***")) for name, value in outcome.response_headers)
    return outcome._replace(response_body=body, response_headers=fields)
