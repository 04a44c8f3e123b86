"""What people write about applications, endpoints and keys: read as JSON, checked whole, every mistake with a pointer.

A change is a JSON merge patch (RFC 7396) of the present definition: null takes a setting back to its default. What a
patch does not touch is not judged again, for a rule that became stricter since must not block another edit.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from relay.api.body import foreign
from relay.api.secrets import Brought, brought_mistakes, lasting
from relay.config import SECRETS_MAX, ApplicationDefinition, Config, EndpointDefinition, Section
from relay.config.admission import Rules, check_application, check_choice, check_endpoint, check_sources
from relay.config.fields import Id, at_most
from relay.config.model import fields, nested
from relay.config.secrets import Wrong
from relay.contracts import Contract, ContractCatalogue
from relay.core.issues import MISTAKES_MAX, Invalid, Issue, pointer
from relay.core.model import Application, DisabledBy, EndpointState, Limits
from relay.core.netguard import Address, Guard
from relay.core.units import format_size, parse_time_ms
from relay.registry import ApplicationDraft, EndpointDraft, KeyDraft, WantedEndpoint

M = TypeVar("M", bound=BaseModel)
A = TypeVar("A", bound=ApplicationDefinition)

E = TypeVar("E", bound=EndpointDefinition)
N = TypeVar("N", bound="NewEndpoint")


def _read_true(value: Any) -> Any:
    """`"key": true` asks for a key without a name that does not expire."""
    return {} if value is True else value


class NewApplication(ApplicationDefinition):
    """An application that is to be made; what comes with it is read on its own and is no part of the definition."""

    id: Id | None = None
    endpoint: Mapping[str, Any] | None = Field(None, repr=False)
    key: Annotated[Mapping[str, Any] | None, BeforeValidator(_read_true)] = None


class NewEndpoint(EndpointDefinition):
    """An endpoint that is to be made, with the id and the secrets that an admin brings along."""

    id: Id | None = None
    secret: Brought | None = None
    secrets: Annotated[tuple[Brought, ...], at_most(SECRETS_MAX)] | None = None

    def draft(self, now_ms: int) -> EndpointDraft:
        """Return the endpoint to be made; secrets that have come to their end are left out."""
        brought = (self.secret,) if self.secret is not None else self.secrets
        return EndpointDraft(self, self.id, None if brought is None else lasting(brought, now_ms))


class ImportedApplication(ApplicationDefinition):
    """An application as a line of an import has it."""

    id: Id


class ImportedEndpoint(NewEndpoint):
    """An endpoint as a line of an import has it: with its id, whose it is, and its state."""

    id: Id
    application: Id
    state: Literal["enabled", "paused", "disabled"] | None = None
    disabled_by: Literal["manual", "gone", "receiver", "failing"] | None = None
    verified: Annotated[bool, Field(strict=True)] = False

    def wanted(self, now_ms: int) -> WantedEndpoint:
        """Return what the line asks for; who disabled it is an operator, unless the line says otherwise."""
        state = None if self.state is None else EndpointState(self.state)
        by = DisabledBy(self.disabled_by or "manual") if state is EndpointState.DISABLED else None
        return WantedEndpoint(self.application, self.draft(now_ms), state, by, self.verified)


class NewKey(Section):
    """The fields of a key."""

    name: Annotated[str, Field(max_length=200)] = ""
    expires_at: str | None = None


@dataclass(frozen=True, slots=True)
class Read(Generic[M]):
    """One thing as it was read: with mistakes of form, what is left of it, so that all its other mistakes are found too."""

    sound: M | None  # never to be used while there are issues; None where nothing can be made of it
    issues: list[Issue]

    def is_wrong(self, path: str) -> bool:
        """Whether what stands at a pointer, within it or around it has a mistake of form."""
        return self._touches()(path)

    def including(self, others: Iterable[Issue]) -> list[Issue]:
        """Return the mistakes of form and those of `others` that do not rest on them. O(all of them)"""
        touches = self._touches()
        return [*self.issues, *(issue for issue in others if not touches(issue.path))]

    def _touches(self) -> Callable[[str], bool]:
        wrong = {issue.path for issue in self.issues}
        around = {place for path in wrong for place in _around(path)}
        return lambda path: path in around or not wrong.isdisjoint(_around(path))


def _around(path: str) -> Iterator[str]:
    """Yield a pointer, and those of everything that it stands in."""
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path


_FILLERS: Mapping[str, Any] = {"url": "https://example.com/", "event_types": "*", "id": "id", "application": "id"}
"""What stands where something is missing or wrong while the rest is looked at: nothing is wrong with these."""


_WHOLE = frozenset({"filter", "auth"})
"""Members that a patch replaces rather than merges: parts of two filters, or of two kinds of credentials, make no third."""


def _repaired(written: Mapping[str, Any], places: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    """Take what is wrong out of its object; in a list it is replaced or the list goes, for pointers count places.

    O(what was written), however much of it is wrong.
    """
    wrong: dict[str, set[int | str | None]] = {}
    for name, *inner in places:
        wrong.setdefault(str(name), set()).add(inner[0] if inner else None)
    repaired = dict(written)
    for name, within in wrong.items():
        value = repaired.pop(name, None)
        if None not in within and isinstance(value, Mapping) and name != "filter":  # a part of one may be none
            repaired[name] = {key: each for key, each in value.items() if key not in within}
        elif None not in within and isinstance(value, list) and name in _FILLERS:
            repaired[name] = [_FILLERS[name] if place in within else each for place, each in enumerate(value)]
    return repaired


class Form(Generic[M]):
    """Reads one kind of thing."""

    def __init__(self, model: type[M], noun: str) -> None:
        self._model = model
        self._names = list(fields(model))
        required = [name for name, field in model.model_fields.items() if field.is_required() and name in _FILLERS]
        self._filled = {name: _FILLERS[name] for name in required}
        self._unknown = f"is not a field of {noun}; it has {', '.join(self._names)}"

    def read(self, written: Mapping[str, Any]) -> "Read[M]":
        """Return what was written, or as much of it as is sound, with everything that is wrong with its form.

        Of very many unknown members only the first are looked at; the others are mistakes all the same.
        """
        unknown = [name for name in written if name not in self._names]
        others = foreign(unknown[MISTAKES_MAX:], self._unknown)
        if others:
            known = (*self._names, *unknown[:MISTAKES_MAX])
            written = {name: written[name] for name in known if name in written}
        try:
            return Read(self._validate(written), others)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
        issues = [self._issue(one) for one in found]
        try:
            sound = self._validate(self._filled | _repaired(written, [one["loc"] for one in found]))
        except ValidationError:
            sound = None
        return Read(sound, issues + others)

    def _validate(self, written: Mapping[str, Any]) -> M:
        return self._model.model_validate(written, by_alias=True, by_name=False, context="written by a person")

    def touched(self, patch: Mapping[str, Any], issues: Iterable[Issue], before: Container[Issue]) -> list[Issue]:
        """Return the mistakes that a merge patch answers for: in its members, not there before, or of no known member."""
        unknown = [name for name, value in patch.items() if value is None and name not in self._names]
        places = {pointer(name) for name in patch}
        own = [one for one in issues if f"/{one.path[1:].partition('/')[0]}" in places or one not in before]
        return [Issue(pointer(name), self._unknown) for name in unknown] + own

    def _issue(self, found: ErrorDetails) -> Issue:
        wrong = found.get("ctx", {}).get("error")
        if isinstance(wrong, Wrong):
            message = f"{wrong.message}. {wrong.remedy}".strip()
        else:
            say = _WORDS.get(found["type"])
            message = say(found.get("ctx", {})) if say else found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            message = self._unknown_in(found["loc"][:-1])
        return Issue(pointer(*found["loc"]), message)

    def _unknown_in(self, path: tuple[int | str, ...]) -> str:
        """Say what there is at a place, where something unknown stands."""
        table: type[BaseModel] | None = self._model
        for key in path:
            field = fields(table).get(str(key)) if table else None
            table = None if field is None else nested(field.annotation)
        if not path or table is None:
            return self._unknown
        return f"is not a field of {path[-1]}; it has {', '.join(fields(table))}"


def _plain(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda facts: words.format_map(facts)


_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": _plain("is missing"),
    "string_type": _plain("must be text"),
    "int_type": _plain("must be a whole number"),
    "float_type": _plain("must be a number"),
    "bool_type": _plain("must be true or false"),
    "tuple_type": _plain("must be a list"),
    "dict_type": _plain("must be an object"),
    "model_type": _plain("must be an object"),
    "literal_error": _plain("must be {expected}"),
    "greater_than_equal": _plain("must be at least {ge}"),
    "less_than_equal": _plain("must be at most {le}"),
    "string_too_long": _plain("must have at most {max_length} characters"),
}
"""What pydantic's kinds of mistakes are called here."""


_ENDPOINT = Form(EndpointDefinition, "an endpoint")
_NEW_ENDPOINT = Form(NewEndpoint, "an endpoint")
_APPLICATION = Form(ApplicationDefinition, "an application")
_IMPORTED_ENDPOINT = Form(ImportedEndpoint, "an endpoint")
_IMPORTED_APPLICATION = Form(ImportedApplication, "an application")
_NEW_APPLICATION = Form(NewApplication, "an application")
_KEY = Form(NewKey, "a key")


Owner = Application | ApplicationDefinition
"""Whose endpoint it is, or will be."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what is written, against the configuration and the contracts in force; Invalid with every mistake."""

    config: Config
    contracts: ContractCatalogue
    now_ms: int
    own: Container[Address]  # the addresses of this host
    guard: Guard
    for_tenant: bool = False  # who reads the mistakes, and hears nothing of our network
    brings: bool = False  # whether endpoints may be made with ids and secrets that are there already

    # -- endpoints -------------------------------------------------------------------------------------------------

    def endpoint(self, written: Mapping[str, Any], owner: Owner) -> EndpointDraft:
        """Read a new endpoint of an application."""
        return _sound(*self._new_endpoint(written, owner))

    def endpoint_mistakes(self, written: Mapping[str, Any]) -> list[Issue]:
        """List what is wrong with a new endpoint whoever owns it."""
        return self._new_endpoint(written, None)[1]

    def revised_endpoint(
        self, present: EndpointDefinition, patch: Mapping[str, Any], owner: Application
    ) -> EndpointDefinition:
        """Apply a merge patch to an endpoint."""
        whole = merged(present.to_json(), patch)
        _refuse_grown(whole, owner.limits)
        endpoint, issues = self._endpoint(_ENDPOINT.read(whole), owner)
        wrong = self._endpoint(_ENDPOINT.read(present.to_json()), owner)[1] if issues else []
        before = frozenset(wrong)
        return _sound(endpoint, _ENDPOINT.touched(patch, issues, before) or ([] if endpoint else issues))

    def _new_endpoint(
        self, written: Mapping[str, Any], owner: Owner | None
    ) -> tuple[EndpointDraft | None, list[Issue]]:
        if not self.brings:
            plain, issues = self._endpoint(_ENDPOINT.read(written), owner)
            return None if plain is None else EndpointDraft(plain), issues
        found, issues = self._brought(_NEW_ENDPOINT.read(written), owner)
        return None if found is None else found.draft(self.now_ms), issues

    def _brought(self, read: Read[N], owner: Owner | None) -> tuple[N | None, list[Issue]]:
        """Judge an endpoint that may come with its secrets."""
        found, issues = self._endpoint(read, owner)
        if read.sound is not None:
            wrong = brought_mistakes(read.sound.secret, read.sound.secrets, self._contract_of(read.sound, owner))
            issues = [*issues, *(issue for issue in wrong if not read.is_wrong(issue.path))]
        return found, issues

    def _endpoint(self, read: Read[E], owner: Owner | None) -> tuple[E | None, list[Issue]]:
        if read.sound is None:
            return None, read.issues
        found, networks = read.sound, () if owner is None else owner.allow_networks
        contract = self._contract_of(found, owner)
        catalogue = None if owner is None else self.contracts.get(owner.contract)
        rules = Rules(contract, self.config, self.guard, networks, for_tenant=self.for_tenant, catalogue=catalogue)
        wrong = list(check_choice(found.contract, self.contracts, for_tenant=self.for_tenant))
        return None if read.issues else found, read.including([*wrong, *check_endpoint(found, rules)])

    def _contract_of(self, endpoint: EndpointDefinition, owner: Owner | None) -> Contract | None:
        """Return what writes an endpoint's requests; None where it is not known."""
        name = endpoint.contract or (None if owner is None else owner.contract)
        return None if name is None else self.contracts.get(name)

    # -- lines of an import ----------------------------------------------------------------------------------------

    def imported_application(self, written: Mapping[str, Any]) -> tuple[ApplicationDraft | None, list[Issue]]:
        """Read an application with its id, and everything that is wrong with it."""
        read = _IMPORTED_APPLICATION.read(written)
        issues, found = self._application_mistakes(read), read.sound
        return (None if found is None or issues else ApplicationDraft(found, found.id)), issues

    def imported_endpoint(
        self, written: Mapping[str, Any], owner: Owner | None
    ) -> tuple[WantedEndpoint | None, list[Issue]]:
        """Read an endpoint with its id and state, and everything that is wrong with it; of an owner that is not known, less."""
        read = _IMPORTED_ENDPOINT.read(written)
        found, issues = self._brought(read, owner)
        if read.sound is not None and read.sound.disabled_by is not None and read.sound.state != "disabled":
            issues = [*issues, Issue("/disabled_by", 'stands only beside "state": "disabled"; leave it out')]
        return (None if found is None or issues else found.wanted(self.now_ms)), issues

    # -- applications ----------------------------------------------------------------------------------------------

    def application(self, written: Mapping[str, Any]) -> ApplicationDraft:
        """Read a new application with its first endpoint and key."""
        read = _NEW_APPLICATION.read(written)
        found = read.sound
        if found is None:
            raise Invalid(read.issues)
        issues = self._application_mistakes(read)
        owner = None if read.is_wrong("/contract") or self.contracts.get(found.contract) is None else found
        endpoint, key = None, None
        if found.endpoint is not None:
            endpoint, wrong = self._new_endpoint(found.endpoint, owner)
            issues += _within("/endpoint", wrong)
        if found.key is not None:
            key, wrong = self._key(found.key)
            issues += _within("/key", wrong)
        return _sound(ApplicationDraft(found, found.id, endpoint, key), issues)

    def revised_application(
        self, present: ApplicationDefinition, patch: Mapping[str, Any], limits: Limits
    ) -> ApplicationDefinition:
        """Apply a merge patch to an application; its features are judged anew where its contract changes."""
        whole = merged(present.to_json(), patch)
        _refuse_grown(whole, limits)
        read = _APPLICATION.read(whole)
        issues = self._application_mistakes(read)
        if not read.issues and "contract" not in patch:
            before = frozenset(self._application_mistakes(_APPLICATION.read(present.to_json())) if issues else ())
            issues = _APPLICATION.touched(patch, issues, before)
        return _sound(read.sound, issues)

    def _application_mistakes(self, read: Read[A]) -> list[Issue]:
        """List what is wrong with an application but its endpoint and key; of features nobody knows without a contract."""
        if read.sound is None:
            return read.issues
        found = [
            *check_application(read.sound, self.contracts, self.config),
            *check_sources(read.sound.source_addresses or (), self.own),
        ]
        unknown = read.is_wrong("/contract")
        return read.including(issue for issue in found if not (unknown and "/features" in _around(issue.path)))

    # -- keys ------------------------------------------------------------------------------------------------------

    def key(self, written: Mapping[str, Any]) -> KeyDraft:
        """Read a new key."""
        return _sound(*self._key(written))

    def _key(self, written: Mapping[str, Any]) -> tuple[KeyDraft | None, list[Issue]]:
        read = _KEY.read(written)
        found = read.sound
        if found is None or found.expires_at is None:
            return None if found is None else KeyDraft(found.name), read.issues
        expires_at_ms, wrong = self._end_of_key(found.expires_at)
        return KeyDraft(found.name, expires_at_ms), read.including(wrong)

    def _end_of_key(self, written: str) -> tuple[int | None, list[Issue]]:
        try:
            expires_at_ms = parse_time_ms(written)
        except ValueError:
            message = 'must be a time with its offset from UTC, like "2027-01-31T00:00:00Z"'
            return None, [Issue("/expires_at", message)]
        if expires_at_ms <= self.now_ms:
            return None, [Issue("/expires_at", "is over already; name a time to come, or leave it out")]
        return expires_at_ms, []


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `patch` into `target` as RFC 7396 says, but for what it replaces whole."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and name not in _WHOLE:
            inner = result.get(name)
            result[name] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def _refuse_grown(whole: Mapping[str, Any], limits: Limits) -> None:
    """Raise Invalid for a definition that one patch after the other has made too large."""
    size, most = len(orjson.dumps(whole, default=str)), limits.definition_bytes
    if size > most:
        message = f"would make a definition of {size} bytes; it may have {format_size(most)} (limits.definition)"
        raise Invalid([Issue("", message)])


T = TypeVar("T")


def _sound(found: T | None, issues: list[Issue]) -> T:
    if issues or found is None:
        raise Invalid(issues)
    return found


def _within(where: str, issues: Iterable[Issue]) -> Iterator[Issue]:
    return (replace(issue, path=where + issue.path) for issue in issues)
