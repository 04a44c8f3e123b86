"""The registry: every application and endpoint there is, at one moment. An immutable value, replaced whole.

Definitions come from the file or from the database (those made through the API); states, secrets made here and health
live in the database by endpoint id. Whoever reads asks one registry and sees all of the old or all of the new.
A changed registry shares everything with the one before it but the entries that changed and the mappings that hold
them: those are copied in C, a pointer for each endpoint (of the relay, and of the changed application).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

from relay.config import ApplicationDefinition, Config, EndpointDefinition
from relay.contracts import Contract, ContractCatalogue, Signer
from relay.core.access import Principal
from relay.core.conditions import Facts
from relay.core.errors import ConfigError, Conflict, NotFound, StoreUnavailable
from relay.core.grammars import patterns_covering
from relay.core.model import Application, Endpoint, EndpointState, NoDelivery
from relay.core.verification import Method
from relay.registry.resolving import InFile, resolve_application, resolve_endpoint
from relay.store import ApplicationRow, EndpointRow, KeyRow, RegistryRows

K = TypeVar("K")
V = TypeVar("V")

NAMED_MAX = 20
"""Applications or endpoints that a sentence lists by name."""

MATCHES_MAX = 1_000
"""Types, of all applications, whose endpoints a registry remembers; then it begins anew."""


def without(mapping: Mapping[K, V], keys: Iterable[K]) -> Mapping[K, V]:
    """Copy a mapping without some of its keys."""
    rest = dict(mapping)
    for key in keys:
        del rest[key]
    return rest


class Match(NamedTuple):
    """Where events of a type go, or why they go nowhere."""

    targets: tuple[int, ...]  # endpoint refs
    reason: NoDelivery | None
    detail: str
    event_type: str = ""
    subscribed: Sequence[
        tuple[Endpoint, Callable[[Facts], bool] | None]
    ] = ()  # disabled ones too; each with its filter
    is_filtered: bool = False  # some of them have a filter
    is_varied: bool = False  # some of them have a contract of their own

    def narrowed(self, facts: Facts, aimed: Collection[int] | None) -> "Match":
        """Say where one event of this type goes: to those that it is aimed at, if it is, and whose filter it passes.

        O(what subscribes, and its filters)
        """
        asked = self.subscribed if aimed is None else [one for one in self.subscribed if one[0].ref in aimed]
        passed = [endpoint for endpoint, passes in asked if passes is None or passes(facts)]
        if passed or not self.subscribed:
            return _matched(self.event_type, passed)
        if asked:
            sentence = f"no filter lets it through, of those that subscribe to {self.event_type}: {_named([one for one, _ in asked])}"
        else:
            sentence = f"none of the endpoints that it is aimed at subscribes to {self.event_type}"
        return Match((), NoDelivery.NO_MATCH, sentence)


def _matched(event_type: str, subscribed: Sequence[Endpoint]) -> Match:
    targets = tuple([endpoint.ref for endpoint in subscribed if endpoint.state is not EndpointState.DISABLED])
    if targets:
        return Match(targets, None, "")
    if subscribed:
        return Match((), NoDelivery.SKIPPED, f"only disabled endpoints subscribe to it: {_named(subscribed)}")
    return Match((), NoDelivery.NO_MATCH, f"no endpoint subscribes to {event_type}")


def _named(endpoints: Sequence[Endpoint]) -> str:
    return listed([endpoint.id for endpoint in endpoints])


def listed(names: Sequence[str]) -> str:
    """Write names one after the other; of very many only the first."""
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class EndpointEntry:
    """An endpoint: what the database remembers, what somebody wrote, and what that makes it."""

    row: EndpointRow
    definition: EndpointDefinition
    endpoint: Endpoint
    contract: Contract

    @cached_property
    def signer(self) -> Signer:
        """What signs for it; made when it is first asked for."""
        return self.contract.signer(self.endpoint.secrets, self.endpoint.url, self.endpoint.id)


@dataclass(frozen=True, slots=True)
class ApplicationEntry:
    """An application, with its endpoints and keys."""

    row: ApplicationRow
    definition: ApplicationDefinition
    application: Application
    endpoints: Mapping[int, Endpoint] = field(default_factory=dict)  # by ref; those too that vanished from the file
    subscriptions: Mapping[str, Mapping[int, Endpoint]] = field(default_factory=dict)  # the present ones, by pattern
    keys: Mapping[str, KeyRow] = field(default_factory=dict)  # oldest first

    def including(self, endpoints: Iterable[Endpoint]) -> "ApplicationEntry":
        """Put endpoints in, or in the place of what they were before."""
        owned, changed = dict(self.endpoints), _Buckets(self.subscriptions)
        for endpoint in endpoints:
            changed.move(owned.get(endpoint.ref), endpoint)
            owned[endpoint.ref] = endpoint
        return replace(self, endpoints=owned, subscriptions=changed.merged())

    def without(self, endpoint: Endpoint) -> "ApplicationEntry":
        """Take an endpoint out."""
        changed = _Buckets(self.subscriptions)
        changed.move(endpoint, None)
        return replace(self, endpoints=without(self.endpoints, [endpoint.ref]), subscriptions=changed.merged())


class _Buckets:
    """Subscriptions that are being changed: each bucket is copied when it is first touched."""

    def __init__(self, before: Mapping[str, Mapping[int, Endpoint]]) -> None:
        self._before = before
        self._copies: dict[str, dict[int, Endpoint]] = {}

    def move(self, before: Endpoint | None, after: Endpoint | None) -> None:
        """Let `after` stand wherever `before` stood, or belongs now."""
        patterns = _patterns(after)
        if before is not None:
            for gone in set(_patterns(before)).difference(patterns):
                del self._bucket(gone)[before.ref]
        if after is not None:
            for pattern in patterns:
                self._bucket(pattern)[after.ref] = after

    def merged(self) -> Mapping[str, Mapping[int, Endpoint]]:
        empty = [pattern for pattern, bucket in self._copies.items() if not bucket]
        return without({**self._before, **self._copies}, empty)

    def _bucket(self, pattern: str) -> dict[int, Endpoint]:
        if pattern not in self._copies:
            self._copies[pattern] = dict(self._before.get(pattern, ()))
        return self._copies[pattern]


def _patterns(endpoint: Endpoint | None) -> tuple[str, ...]:
    return endpoint.event_types if endpoint is not None and endpoint.present else ()


@dataclass(frozen=True, slots=True)
class Registry:
    """Applications, endpoints and contracts at one moment. Every lookup is O(1) unless it says otherwise."""

    config: Config
    contracts: ContractCatalogue
    in_file: InFile
    applications: Mapping[str, ApplicationEntry] = field(default_factory=dict)  # by id, oldest first
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)  # by id, oldest first
    entries: Mapping[int, EndpointEntry] = field(default_factory=dict)  # by ref
    present: tuple[str, ...] = ()  # ids of the applications that take events, sorted
    retired: frozenset[str] = frozenset()  # ids of deleted applications: none is given twice
    moving: frozenset[str] = frozenset()  # ids of applications whose contract is being replaced
    _matches: dict[tuple[str, str], Match] = field(default_factory=dict, init=False, repr=False, compare=False)

    # -- looking up ------------------------------------------------------------------------------------------------

    def endpoint_by_ref(self, ref: int) -> Endpoint | None:
        """Return an endpoint by the store's handle; None once it was deleted."""
        entry = self.entries.get(ref)
        return None if entry is None else entry.endpoint

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return an endpoint by its id; NotFound otherwise."""
        endpoint = self.endpoints.get(endpoint_id)
        if endpoint is None:
            raise NotFound(f"no endpoint {endpoint_id!r}", remedy="List them with `relay endpoint list`.")
        return endpoint

    def application(self, application_id: str) -> ApplicationEntry:
        """Return an application with its endpoints and keys; NotFound otherwise."""
        entry = self.applications.get(application_id)
        if entry is None:
            raise NotFound(f"no application {application_id[:64]!r}", remedy="List them with `relay app list`.")
        return entry

    def contract(self, application: Application, /) -> Contract:
        """Return the contract an application's receivers were promised."""
        contract = self.contracts.get(application.contract)
        assert contract is not None, "the configuration was checked against the same catalogue"
        return contract

    def contract_of(self, endpoint: Endpoint, /) -> Contract:
        """Return what writes an endpoint's requests: its own contract, or its application's."""
        entry = self.entries.get(endpoint.ref)
        return self.contract(endpoint.application) if entry is None else entry.contract

    def signer(self, endpoint: Endpoint, contract: str | None = None) -> Signer | None:
        """Return what signs for an endpoint as it is now, however old the value that the caller holds.

        It signs what was frozen in the `contract` of this name, None for that of its application, whatever contract the
        endpoint has by now. None where that is gone, or cannot sign with the secrets that there are now.
        """
        entry, name = self.entries.get(endpoint.ref), contract or endpoint.application.contract
        if entry is not None and entry.contract.name == name:
            return entry.signer
        known = self.contracts.get(name)  # the endpoint has another by now, or was deleted while a test was under way
        try:
            return None if known is None else known.signer(endpoint.secrets, endpoint.url, endpoint.id)
        except ConfigError:
            return None

    def application_for(self, principal: Principal, named: str | None, /) -> Application:
        """Return the application a request is about; NotFound for an unknown or foreign one.

        A bound token means its own application. An unbound one names it, unless there is only one.
        """
        bound = principal.application
        name = bound or named
        if name is None:
            if len(self.present) != 1:
                remedy = f'Name one of them with "application": {listed(self.present)}.'
                raise Conflict("application_required", "there are several applications", remedy=remedy)
            name = self.present[0]
        entry = self.applications.get(name)
        if entry is None or not entry.application.present:
            if bound is None:
                raise NotFound(f"no application {name!r}", remedy=f"The applications are: {listed(self.present)}.")
            remedy = "Ask the operator of this relay."
            raise NotFound("the application of this token is not configured", remedy=remedy)
        if named not in (None, name):
            raise NotFound(f"no application {named!r}", remedy='Leave "application" out: the token implies it.')
        return entry.application

    def subscribes(self, endpoint: Endpoint, event_type: str, /) -> bool:
        """Whether an endpoint takes events of a type, filters aside."""
        covers, own = self.contract(endpoint.application).covers, self.contract_of(endpoint)
        covering = [pattern for pattern in endpoint.event_types if covers(pattern, event_type)]
        return any(endpoint.contract is None or own.takes(pattern, event_type) for pattern in covering)

    def match(self, application: Application, event_type: str, /) -> Match:
        """Say which endpoints events of a type go to. O(1) for a type that came of late, else O(its parts, and what subscribes).

        It happens once, when an event is accepted (Q11), and in one step with handing it to the store. What only
        disabled endpoints subscribe to is `skipped` (Q9). StoreUnavailable for an event that was frozen under a contract
        that the application has no longer, or is about to lose: repeated, it is made under the new one.
        """
        entry = self.applications.get(application.id)
        if entry is not None and (application.id in self.moving or entry.application.contract != application.contract):
            sentence = f"the contract of application {application.id!r} is being changed"
            raise StoreUnavailable(sentence, remedy="Repeat the request.")
        match = self._matches.get((application.id, event_type))
        if match is None:
            if len(self._matches) >= MATCHES_MAX:
                self._matches.clear()
            match = self._matches[application.id, event_type] = self._match(entry, event_type)
        return match

    def _match(self, entry: ApplicationEntry | None, event_type: str) -> Match:
        subscribed: dict[int, Endpoint] = {}
        if entry is not None:
            covers = self.contract(entry.application).covers
            for pattern in patterns_covering(event_type):
                bucket = entry.subscriptions.get(pattern)
                if bucket is not None and covers(pattern, event_type):
                    subscribed.update(self._knowing(bucket, pattern, event_type))
        found = tuple(subscribed.values())
        asked = tuple((endpoint, None if endpoint.filter is None else endpoint.filter.passes) for endpoint in found)
        return _matched(event_type, found)._replace(
            event_type=event_type,
            subscribed=asked,
            is_filtered=any(passes for _, passes in asked),
            is_varied=any(endpoint.contract is not None for endpoint in found),
        )

    def _knowing(self, endpoints: Mapping[int, Endpoint], pattern: str, event_type: str) -> Mapping[int, Endpoint]:
        """Leave out of those that subscribe to a type the ones whose own contract does not have it."""
        return {
            ref: endpoint
            for ref, endpoint in endpoints.items()
            if endpoint.contract is None or self.entries[ref].contract.takes(pattern, event_type)
        }

    def own_contracts(self, refs: Iterable[int], /) -> Sequence[tuple[Contract, tuple[int, ...]]]:
        """Group endpoints that have contracts of their own by these. O(refs)"""
        groups: dict[Contract, list[int]] = {}
        for ref in refs:
            entry = self.entries[ref]
            if entry.endpoint.contract is not None:
                groups.setdefault(entry.contract, []).append(ref)
        return [(contract, tuple(group)) for contract, group in groups.items()]

    # -- the next registry -----------------------------------------------------------------------------------------

    def including(self, rows: RegistryRows) -> "Registry":
        """Put in what a commit wrote. O(rows, and the endpoints of an application that is among them)."""
        applications, entries, endpoints = dict(self.applications), dict(self.entries), dict(self.endpoints)
        changed = {row.ref: (row, self.in_file.definition_of(row)) for row in rows.endpoints}
        for owner in rows.applications:
            before = applications.get(owner.id)
            applications[owner.id] = self._entry(owner, before)
            for ref in () if before is None else before.endpoints:
                changed.setdefault(ref, (entries[ref].row, entries[ref].definition))
        by_application: dict[str, list[Endpoint]] = {}
        for row, definition in changed.values():
            entry = self._resolved(row, definition, applications[row.application])
            entries[row.ref], endpoints[row.id] = entry, entry.endpoint
            by_application.setdefault(row.application, []).append(entry.endpoint)
        for name, owned in by_application.items():
            applications[name] = applications[name].including(owned)
        for key in rows.keys:
            holder = applications[key.application]
            applications[key.application] = replace(holder, keys={**holder.keys, key.id: key})
        present = _present(applications) if rows.applications else self.present
        retired = self.retired | rows.retired
        return replace(
            self, applications=applications, entries=entries, endpoints=endpoints, present=present, retired=retired
        )

    def without_endpoint(self, endpoint: Endpoint) -> "Registry":
        """Take an endpoint out: nothing matches it any more."""
        name = endpoint.application.id
        return replace(
            self,
            applications={**self.applications, name: self.applications[name].without(endpoint)},
            entries=without(self.entries, [endpoint.ref]),
            endpoints=without(self.endpoints, [endpoint.id]),
        )

    def without_application(self, gone: ApplicationEntry) -> "Registry":
        """Take an application out with its endpoints and keys."""
        applications = without(self.applications, [gone.row.id])
        return replace(
            self,
            applications=applications,
            entries=without(self.entries, gone.endpoints),
            endpoints=without(self.endpoints, [endpoint.id for endpoint in gone.endpoints.values()]),
            present=_present(applications),
            retired=self.retired | {gone.row.id},
        )

    def without_key(self, key: KeyRow) -> "Registry":
        """Take a key out."""
        owner = self.applications[key.application]
        owner = replace(owner, keys=without(owner.keys, [key.id]))
        return replace(self, applications={**self.applications, key.application: owner})

    def _entry(self, row: ApplicationRow, before: ApplicationEntry | None) -> ApplicationEntry:
        definition, application = resolve_application(row, self.in_file, self.config.limits)
        if before is None:
            return ApplicationEntry(row, definition, application)
        return replace(before, row=row, definition=definition, application=application)

    def _resolved(self, row: EndpointRow, definition: EndpointDefinition, owner: ApplicationEntry) -> EndpointEntry:
        # Only what vanished from the file may name a contract that is gone; it is held.
        own = None if definition.contract is None else self.contracts.get(definition.contract)
        contract = own or self.contract(owner.application)
        above = (owner.definition, contract, self.config.delivery)
        asked = Method(definition.verification or contract.verification.method)
        endpoint = resolve_endpoint(row, definition, owner.application, self.in_file, self.config, above, asked)
        return EndpointEntry(row, definition, endpoint, contract)


def _present(applications: Mapping[str, ApplicationEntry]) -> tuple[str, ...]:
    return tuple(sorted(name for name, entry in applications.items() if entry.application.present))
