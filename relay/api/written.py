"""What people write about applications, endpoints and keys: read as JSON, checked whole, every mistake with a pointer.

A change is a JSON merge patch (RFC 7396) of the present definition: null takes a setting back to its default. What a
patch does not touch is not judged again, for a rule that became stricter since must not block another edit.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from relay.api.body import unknown_members
from relay.config import ApplicationDefinition, Config, EndpointDefinition, Section
from relay.config.admission import Rules, check_application, check_endpoint
from relay.config.fields import Id
from relay.config.secrets import Wrong
from relay.contracts import ContractCatalogue
from relay.core.issues import Invalid, Issue, pointer
from relay.core.model import Application
from relay.core.netguard import Address
from relay.core.units import format_duration, parse_duration_ms, parse_time_ms
from relay.registry import ApplicationDraft, KeyDraft

M = TypeVar("M", bound=BaseModel)

OVERLAP_MS = 24 * 3_600_000
"""How long an old secret signs beside the new one, unless the caller says otherwise."""

OVERLAP_MAX_MS = 30 * 24 * 3_600_000


def _read_true(value: Any) -> Any:
    """`"key": true` asks for a key without a name that does not expire."""
    return {} if value is True else value


class NewApplication(ApplicationDefinition):
    """An application that is to be made; what comes with it is read on its own and is no part of the definition."""

    id: Id | None = Field(None, exclude=True)
    endpoint: Mapping[str, Any] | None = Field(None, exclude=True)
    key: Annotated[Mapping[str, Any] | None, BeforeValidator(_read_true)] = Field(None, exclude=True)


class NewKey(Section):
    """The fields of a key."""

    name: Annotated[str, Field(max_length=200)] = ""
    expires_at: str | None = None


class Form(Generic[M]):
    """Reads one kind of thing."""

    def __init__(self, model: type[M], noun: str) -> None:
        self._model = model
        self._names = [field.alias or name for name, field in model.model_fields.items()]
        self._unknown = f"is not a field of {noun}; it has {', '.join(self._names)}"

    def read(self, written: Mapping[str, Any]) -> tuple[M | None, list[Issue]]:
        """Return what was written, or None with everything that is wrong with its form."""
        try:
            found = self._model.model_validate(written, by_alias=True, by_name=False, context="written by a person")
        except ValidationError as error:
            return None, [self._issue(one) for one in error.errors(include_url=False, include_input=False)]
        return found, []

    def touched(self, patch: Mapping[str, Any], issues: Iterable[Issue]) -> list[Issue]:
        """Return the mistakes that a merge patch answers for: in its members, and members that there are not."""
        unknown = [name for name, value in patch.items() if value is None and name not in self._names]
        places = {pointer(name) for name in patch}
        inside = [issue for issue in issues if f"/{issue.path[1:].partition('/')[0]}" in places]
        return [Issue(pointer(name), self._unknown) for name in unknown] + inside

    def _issue(self, found: ErrorDetails) -> Issue:
        wrong = found.get("ctx", {}).get("error")
        if isinstance(wrong, Wrong):
            message = f"{wrong.message}. {wrong.remedy}".strip()
        else:
            known = {"extra_forbidden": self._unknown, "missing": "is missing", "string_type": "must be text"}
            message = known.get(found["type"], found["msg"].removeprefix("Value error, "))
        return Issue(pointer(*found["loc"]), message)


_ENDPOINT = Form(EndpointDefinition, "an endpoint")
_APPLICATION = Form(ApplicationDefinition, "an application")
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
    own: Container[Address] = ()  # the addresses of this host
    for_tenant: bool = False  # who reads the mistakes, and hears nothing of our network

    # -- endpoints -------------------------------------------------------------------------------------------------

    def endpoint(self, written: Mapping[str, Any], owner: Owner) -> EndpointDefinition:
        """Read a new endpoint of an application."""
        endpoint, issues = self._endpoint(written, owner)
        return _sound(endpoint, issues)

    def revised_endpoint(
        self, present: EndpointDefinition, patch: Mapping[str, Any], owner: Owner
    ) -> EndpointDefinition:
        """Apply a merge patch to an endpoint."""
        endpoint, issues = self._endpoint(merged(present.to_json(), patch), owner)
        touched = _ENDPOINT.touched(patch, issues)
        return _sound(endpoint, touched if endpoint is not None else touched or issues)

    def _endpoint(self, written: Mapping[str, Any], owner: Owner) -> tuple[EndpointDefinition | None, list[Issue]]:
        endpoint, issues = _ENDPOINT.read(written)
        if endpoint is None:
            return None, issues
        contract = self.contracts.get(owner.contract)
        rules = Rules(contract, self.config, self.own, owner.allow_networks, for_tenant=self.for_tenant)
        return endpoint, list(check_endpoint(endpoint, rules))

    # -- applications ----------------------------------------------------------------------------------------------

    def application(self, written: Mapping[str, Any]) -> ApplicationDraft:
        """Read a new application with its first endpoint and key."""
        found, issues = _NEW_APPLICATION.read(written)
        if found is None:
            raise Invalid(issues)
        issues += check_application(found, self.contracts, self.config)
        endpoint, key = None, None
        if found.endpoint is not None and self.contracts.get(found.contract) is not None:
            endpoint, wrong = self._endpoint(found.endpoint, found)
            issues += _within("/endpoint", wrong)
        if found.key is not None:
            key, wrong = self._key(found.key)
            issues += _within("/key", wrong)
        return _sound(ApplicationDraft(found, found.id, endpoint, key), issues)

    def revised_application(self, present: ApplicationDefinition, patch: Mapping[str, Any]) -> ApplicationDefinition:
        """Apply a merge patch to an application; its features are judged anew where its contract changes."""
        found, issues = _APPLICATION.read(merged(present.to_json(), patch))
        if found is not None:
            issues = list(check_application(found, self.contracts, self.config))
            if "contract" not in patch:
                issues = _APPLICATION.touched(patch, issues)
        return _sound(found, issues)

    # -- keys ------------------------------------------------------------------------------------------------------

    def key(self, written: Mapping[str, Any]) -> KeyDraft:
        """Read a new key."""
        return _sound(*self._key(written))

    def _key(self, written: Mapping[str, Any]) -> tuple[KeyDraft | None, list[Issue]]:
        found, issues = _KEY.read(written)
        if found is None or found.expires_at is None:
            return None if found is None else KeyDraft(found.name), issues
        try:
            expires_at_ms = parse_time_ms(found.expires_at)
        except ValueError:
            message = 'must be a time with its offset from UTC, like "2027-01-31T00:00:00Z"'
            return None, [Issue("/expires_at", message)]
        if expires_at_ms <= self.now_ms:
            issues = [Issue("/expires_at", "is over already; name a time to come, or leave it out")]
        return KeyDraft(found.name, expires_at_ms), issues


def read_overlap_ms(written: Mapping[str, Any]) -> int:
    """Read `{"overlap"?}` of a rotation; Invalid with every mistake."""
    issues = unknown_members(written, ["overlap"])
    overlap_ms = _overlap_ms(written["overlap"]) if "overlap" in written else OVERLAP_MS
    if overlap_ms is None:
        longest = format_duration(OVERLAP_MAX_MS)
        issues.append(Issue("/overlap", f'must be a duration like "24h", at most "{longest}"; "0s" ends the old ones'))
    return _sound(overlap_ms, issues)


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `patch` into `target` as RFC 7396 says."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            inner = result.get(name)
            result[name] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[name] = value
    return result


T = TypeVar("T")


def _sound(found: T | None, issues: list[Issue]) -> T:
    if issues or found is None:
        raise Invalid(issues)
    return found


def _within(where: str, issues: Iterable[Issue]) -> Iterator[Issue]:
    return (replace(issue, path=where + issue.path) for issue in issues)


def _overlap_ms(value: Any) -> int | None:
    try:
        duration_ms = parse_duration_ms(value) if isinstance(value, str) else -1
    except (ValueError, OverflowError):
        return None
    return duration_ms if 0 <= duration_ms <= OVERLAP_MAX_MS else None
