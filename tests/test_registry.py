"""Which endpoints there are, where an event goes, and what edits and reloads change (Q9, Q11)."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.config import Config, EndpointDefinition, load
from relay.contracts import ContractCatalogue
from relay.core.access import Principal, Role
from relay.core.errors import CommitUnknown, ConfigError, Conflict, NotFound, StoreUnavailable
from relay.core.model import DisabledBy, EndpointState, Health, NoDelivery, Origin, Secret
from relay.diagnosis.verify import verify
from relay.registry import EndpointDraft, Registry
from relay.registry.planning import new_endpoint
from relay.registry.resolving import InFile
from relay.store import ApplicationRow, RegistryChange, RegistryRows
from tests.support.config import CONTRACTS, HOME, sound
from tests.support.engine import Engine, config, engine
from tests.support.stores import sqlite_error
from tests.support.waiting import until

DISK_FULL = sqlite_error(sqlite3.SQLITE_FULL)


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Engine]:
    """One application with the endpoints `first` and `second`."""
    async with engine(tmp_path, config("first", "second")) as opened:
        yield opened


def matched(engine: Engine, event_type: str = "a.b") -> set[str]:
    found = (engine.registry.endpoint_by_ref(ref) for ref in engine.registry.match(engine.acme, event_type).targets)
    return {endpoint.id for endpoint in found if endpoint is not None}


async def add(engine: Engine, url: str = "https://api.example/", **definition: object) -> str:
    """Make an endpoint through the API and return its id."""
    endpoint, _, _ = await engine.registrar.create_endpoint(
        engine.acme, EndpointDraft(EndpointDefinition(url=url, **definition))
    )  # type: ignore[arg-type]
    return endpoint.id


def changed(definition: EndpointDefinition, **settings: object) -> EndpointDefinition:
    return definition.model_copy(update=settings)


# -- matching ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event_type", "targets"),
    [
        ("render.completed", {"exact", "prefix", "all"}),
        ("render.failed", {"prefix", "all"}),
        ("render", {"all"}),
        ("renders.x", {"all"}),
        ("other", {"all"}),
    ],
)
async def test_subscriptions(tmp_path: Path, event_type: str, targets: set[str]) -> None:
    """An event goes to endpoints with its type, with a prefix of it, and with `*`."""
    async with engine(tmp_path, config()) as house:
        names = {
            await add(house, event_types=("render.completed", "x.y")): "exact",
            await add(house, event_types=("render.*",)): "prefix",
            await add(house): "all",
        }
        assert {names[name] for name in matched(house, event_type)} == targets


async def test_an_event_without_deliveries_says_why(one: Engine) -> None:
    """Nobody subscribes: `no_match`. Only disabled endpoints do: `skipped`, with their names (Q9)."""
    await one.apply(config("first", settings='event_types = ["a.*"]'))
    nobody = one.registry.match(one.acme, "z")
    await one.registrar.disable("first")
    disabled = one.registry.match(one.acme, "a.b")

    assert (nobody.targets, nobody.reason) == ((), NoDelivery.NO_MATCH)
    assert (disabled.targets, disabled.reason) == ((), NoDelivery.SKIPPED)
    assert "first" in disabled.detail


async def test_a_paused_endpoint_matches_and_holds(one: Engine) -> None:
    """Paused: new events create deliveries, which are held (Q9)."""
    await one.registrar.pause("first")
    assert matched(one) == {"first", "second"}
    assert one.endpoint("first").held


async def test_a_change_is_seen_by_the_next_match(one: Engine) -> None:
    """What was remembered of earlier matches never outlives an edit."""
    assert matched(one) == {"first", "second"}
    await one.registrar.disable("first")
    assert matched(one) == {"second"}
    made = await add(one)
    assert matched(one) == {"second", made}
    await one.registrar.update_endpoint(made, lambda definition: changed(definition, event_types=("z",)))
    assert matched(one) == {"second"}


# -- deletion and creation (Q11) ---------------------------------------------------------------------------------------


async def test_a_deletion_stops_matching_before_it_is_submitted(one: Engine) -> None:
    """While the commit of a deletion is under way no event matches the endpoint any more (Q11)."""
    made = await add(one)
    one.gate.hold()
    deleting = asyncio.create_task(one.registrar.delete_endpoint(made))
    await one.gate.reached()

    assert matched(one) == {"first", "second"}
    one.gate.let_go()
    await deleting
    with pytest.raises(NotFound):
        one.registry.endpoint(made)


async def test_a_creation_matches_after_its_commit(one: Engine) -> None:
    """While the commit of a creation is under way no event matches the endpoint yet (Q11)."""
    one.gate.hold()
    creating = asyncio.create_task(add(one))
    await one.gate.reached()

    assert matched(one) == {"first", "second"}
    one.gate.let_go()
    assert await creating in matched(one)


async def test_a_deletion_that_was_not_stored_did_not_happen(one: Engine) -> None:
    """When the database refuses the deletion, the endpoint is there as before, and can be deleted later."""
    made = await add(one)
    one.gate.error = DISK_FULL
    with pytest.raises(StoreUnavailable):
        await one.registrar.delete_endpoint(made)
    assert made in matched(one)

    one.gate.error = None
    await one.registrar.delete_endpoint(made)
    assert made not in matched(one)


async def test_a_deletion_cancels_what_was_due(one: Engine) -> None:
    """Deleting an endpoint cancels its deliveries, and says by whom."""
    made = await add(one)
    await one.registrar.pause(made)
    accepted = await one.post()
    await one.registrar.delete_endpoint(made)
    await until(lambda: one.store.backlog == 2)
    assert (await one.states(accepted))[made] == "cancelled"


async def test_an_edit_that_was_not_stored_changes_nothing(one: Engine) -> None:
    """A pause that the database refuses leaves the endpoint enabled."""
    one.gate.error = DISK_FULL
    with pytest.raises(StoreUnavailable):
        await one.registrar.pause("first")
    assert one.endpoint("first").state is EndpointState.ENABLED


# -- states ------------------------------------------------------------------------------------------------------------


async def test_an_automatic_disable_never_overwrites_a_manual_one(one: Engine) -> None:
    """Both may be under way at once: the hand of a person wins, in either order."""
    one.gate.hold()
    by_hand = asyncio.create_task(one.registrar.disable("first"))
    await one.gate.reached()
    by_itself = asyncio.create_task(one.registrar.disable("first", DisabledBy.GONE))
    await one.quiet()
    one.gate.let_go()
    await asyncio.gather(by_hand, by_itself)
    assert one.endpoint("first").disabled_by is DisabledBy.MANUAL

    await one.registrar.disable("second", DisabledBy.GONE)
    await one.registrar.disable("second")
    assert one.endpoint("second").disabled_by is DisabledBy.MANUAL


async def test_a_pause_does_not_undo_a_disable_under_way(one: Engine) -> None:
    """Pausing while a 410 disables is refused, not the end of the disable."""
    one.gate.hold()
    disabling = asyncio.create_task(one.registrar.disable("first", DisabledBy.GONE))
    await one.gate.reached()
    pausing = asyncio.create_task(one.registrar.pause("first"))
    await one.quiet()
    one.gate.let_go()
    await disabling
    with pytest.raises(Conflict):
        await pausing
    assert one.endpoint("first").state is EndpointState.DISABLED


async def test_enable_clears_health_and_leaves_a_pause_alone(one: Engine) -> None:
    """`enable` ends a disable with clean health; on a paused endpoint it does nothing."""
    sick = Health(failures=12, cool_down_ms=5_000, cool_until_ms=one.clock.wall_ms() + 5_000)
    one.store.save_health(one.endpoint("first").ref, sick)
    await one.registrar.disable("first", DisabledBy.FAILING)
    await one.registrar.enable("first")
    await one.registrar.pause("second")
    await one.registrar.enable("second")

    rows = {row.id: row for row in (await one.store.load_registry()).endpoints}
    assert (rows["first"].state, rows["first"].health) == (EndpointState.ENABLED, Health())
    assert rows["second"].state is EndpointState.PAUSED


async def test_states_outlive_a_restart(tmp_path: Path) -> None:
    """Pause and disable are kept by id, with who did it."""
    text = config("first", "second")
    async with engine(tmp_path, text) as before:
        await before.registrar.pause("first")
        await before.registrar.disable("second", DisabledBy.GONE)
    async with engine(tmp_path, text) as after:
        assert after.endpoint("first").state is EndpointState.PAUSED
        assert after.endpoint("second").disabled_by is DisabledBy.GONE


# -- reload ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "state"), [(DisabledBy.GONE, EndpointState.ENABLED), (DisabledBy.MANUAL, EndpointState.DISABLED)]
)
async def test_a_changed_url_clears_health_and_an_automatic_disable(
    one: Engine, by: DisabledBy, state: EndpointState
) -> None:
    """A changed `url` clears health and an automatic disable, never a manual one."""
    sick = Health(failures=12, cool_down_ms=5_000, cool_until_ms=one.clock.wall_ms() + 5_000)
    one.store.save_health(one.endpoint("first").ref, sick)
    await one.registrar.disable("first", by)
    await one.apply(config("first", "second", first="https://elsewhere.example/"))

    row = next(row for row in (await one.store.load_registry()).endpoints if row.id == "first")
    assert (row.state, row.health, row.url_seen) == (state, Health(), "https://elsewhere.example/")
    assert one.endpoint("first").state is state


async def test_a_reload_without_a_changed_url_keeps_health(one: Engine) -> None:
    """Other settings follow a reload; health and state stay."""
    sick = Health(failures=3, last_failure="503")
    one.store.save_health(one.endpoint("first").ref, sick)
    await one.registrar.disable("first", DisabledBy.GONE)
    await one.apply(config("first", "second", settings='timeout = "3s"'))

    row = next(row for row in (await one.store.load_registry()).endpoints if row.id == "first")
    assert (row.health, one.endpoint("first").disabled_by) == (sick, DisabledBy.GONE)
    assert one.endpoint("first").timeout_ms == 3_000


async def test_what_vanished_is_held_and_resumes_with_the_same_id(one: Engine) -> None:
    """An endpoint that vanished from the file keeps its backlog, takes nothing new, and comes back by its id (Q11)."""
    accepted = await one.post()
    ref = one.endpoint("first").ref
    await one.apply(config("second"))
    assert one.endpoint("first").held
    assert matched(one) == {"second"}
    assert (await one.states(accepted))["first"] == "due"

    await one.apply(config("first", "second"))
    assert (one.endpoint("first").ref, one.endpoint("first").held) == (ref, False)
    one.run()
    await until(lambda: one.store.backlog == 0)
    assert await one.states(accepted) == {"first": "delivered", "second": "delivered"}


async def test_an_application_that_vanished_is_held(one: Engine) -> None:
    """A whole application that vanished takes no events and holds its own; the same id resumes it (Q11)."""
    accepted = await one.post()
    made = await add(one)
    producer = Principal("p", Role.PRODUCER, "acme")
    await one.apply('[[application]]\nid = "other"\n')
    assert all(one.endpoint(name).held for name in ("first", "second", made))
    with pytest.raises(NotFound):
        one.registry.application_for(producer, None)

    await one.apply(config("first", "second"))
    assert not any(one.endpoint(name).held for name in ("first", "second", made))
    assert one.registry.application_for(producer, None).id == "acme"
    assert set((await one.states(accepted)).values()) == {"due"}


async def test_an_id_in_both_file_and_api_is_refused(one: Engine) -> None:
    """A file that names an endpoint made through the API changes nothing, and says what to do (Q11)."""
    made = await add(one)
    before = dict(one.registry.endpoints)
    with pytest.raises(ConfigError, match="made through the API") as refused:
        await one.apply(config("first", made, settings='timeout = "1s"'))
    assert "another id" in refused.value.remedy
    assert dict(one.registry.endpoints) == before


async def test_an_id_of_another_application_is_refused(one: Engine) -> None:
    """An id stays with the application that owned it, known or new; nothing is changed."""
    before = dict(one.registry.endpoints)
    text = config("first").replace('id = "acme"', 'id = "other"')
    for _ in range(2):  # at the second time the database knows the application
        with pytest.raises(ConfigError, match="belonged to another application"):
            await one.apply(text)
    assert dict(one.registry.endpoints) == before


async def test_a_taken_id_is_refused_at_start_too(tmp_path: Path) -> None:
    """The check needs no memory of an earlier configuration."""
    async with engine(tmp_path, config("first")) as before:
        made = await add(before)
    with pytest.raises(ConfigError, match="made through the API"):
        async with engine(tmp_path, config("first", made)):
            pass


async def test_a_reload_that_is_not_stored_changes_nothing(one: Engine) -> None:
    """When the database takes no writes, a reload leaves every endpoint as it was."""
    before = dict(one.registry.endpoints)
    one.gate.fail_from(2, DISK_FULL)
    with pytest.raises(StoreUnavailable):
        await one.apply(config("first", "third", first="https://elsewhere.example/", settings='timeout = "1s"'))
    assert dict(one.registry.endpoints) == before
    assert matched(one) == {"first", "second"}


async def test_endpoints_of_the_file_are_read_only(one: Engine) -> None:
    """What the file defines is changed in the file: 409 `managed_by_file`."""
    for edit in (
        one.registrar.update_endpoint("first", lambda definition: definition),
        one.registrar.delete_endpoint("first"),
        one.registrar.rotate_secret("first", 0),
    ):
        with pytest.raises(Conflict) as refused:
            await edit
        assert refused.value.code == "managed_by_file"


async def test_a_refused_revision_changes_nothing(one: Engine) -> None:
    """What `revise` raises reaches the caller, and the endpoint is as it was."""
    made = await add(one)

    def refuse(definition: EndpointDefinition) -> EndpointDefinition:
        raise Conflict("no", "no")

    with pytest.raises(Conflict):
        await one.registrar.update_endpoint(made, refuse)
    assert one.endpoint(made).url == "https://api.example/"


async def test_two_edits_at_once_do_not_overwrite_each_other(one: Engine) -> None:
    """Each edit starts from what the one before it left."""
    made = await add(one)
    await asyncio.gather(
        one.registrar.update_endpoint(made, lambda definition: changed(definition, description="kept")),
        one.registrar.update_endpoint(made, lambda definition: changed(definition, concurrency=3)),
        one.registrar.pause(made),
    )
    endpoint = one.endpoint(made)
    assert (endpoint.description, endpoint.concurrency, endpoint.state) == ("kept", 3, EndpointState.PAUSED)


# -- secrets -----------------------------------------------------------------------------------------------------------


async def test_a_rotation_overlaps(one: Engine) -> None:
    """Both secrets sign until the overlap is over; then only the new one does (reliability §7.46)."""
    endpoint, old, _ = await one.registrar.create_endpoint(
        one.acme, EndpointDraft(EndpointDefinition(url="https://api.example/"))
    )
    endpoint, new, _ = await one.registrar.rotate_secret(endpoint.id, 60_000)
    assert old is not None
    assert [signs(one, endpoint.id, secret) for secret in (old, new)] == [True, True]

    one.clock.advance(59_999)
    assert signs(one, endpoint.id, old)
    one.clock.advance(1)
    assert [signs(one, endpoint.id, secret) for secret in (old, new)] == [False, True]


async def test_a_rotation_without_overlap_and_many_rotations(one: Engine) -> None:
    """An overlap of nothing ends the old secret at once; at most ten secrets overlap."""
    endpoint, old, _ = await one.registrar.create_endpoint(
        one.acme, EndpointDraft(EndpointDefinition(url="https://api.example/"))
    )
    assert old is not None
    await one.registrar.rotate_secret(endpoint.id, 0)
    assert not signs(one, endpoint.id, old)
    for _ in range(15):
        await one.registrar.rotate_secret(endpoint.id, 60_000)
    assert len(one.endpoint(endpoint.id).secrets) == 10


async def test_whoever_still_holds_an_older_endpoint_does_not_bring_its_secret_back(one: Engine) -> None:
    """A test event that was being read while the secret was rotated must not decide what later attempts are signed with."""
    stale, old, _ = await one.registrar.create_endpoint(
        one.acme, EndpointDraft(EndpointDefinition(url="https://api.example/"))
    )
    _, new, _ = await one.registrar.rotate_secret(stale.id, 0)
    one.registry.signer(stale)
    assert old is not None
    assert [signs(one, stale.id, secret) for secret in (old, new)] == [False, True]


def signs(engine: Engine, endpoint_id: str, secret: str) -> bool:
    """Whether an attempt made now verifies with one secret."""
    endpoint, now_ms = engine.endpoint(endpoint_id), engine.clock.wall_ms()
    contract = engine.registry.contract(engine.acme)
    headers = engine.registry.signer(endpoint).headers(
        id="evt_1", type="a.b", timestamp_ms=now_ms, body=b"{}", attempt=1
    )
    return verify(contract, (Secret(secret),), headers, b"{}", now_ms).ok


# -- whose request it is -----------------------------------------------------------------------------------------------


async def test_an_unbound_token_names_the_application_when_there_are_several(one: Engine) -> None:
    """One application is implied; of several one must be named, and the answer lists them."""
    root = Principal("root", Role.ADMIN)
    assert one.registry.application_for(root, None).id == "acme"
    await one.apply(config("first") + '[[application]]\nid = "other"\n')
    with pytest.raises(Conflict, match="acme, other"):
        one.registry.application_for(root, None)
    with pytest.raises(NotFound, match="acme, other"):
        one.registry.application_for(root, "nope")
    assert one.registry.application_for(root, "other").id == "other"


async def test_a_bound_token_never_leaves_its_application(one: Engine) -> None:
    """What belongs to another application does not exist for it."""
    await one.apply(config("first") + '[[application]]\nid = "other"\n')
    with pytest.raises(NotFound):
        one.registry.application_for(Principal("p", Role.PRODUCER, "acme"), "other")


# -- contracts ---------------------------------------------------------------------------------------------------------

OURS = """
extends = "standard"
description = "ours"
[type."a.old"]
description = "old"
example = "{{}}"
deprecated = {deprecated}
"""


def catalogue(folder: Path, *, deprecated: bool) -> ContractCatalogue:
    folder.mkdir(exist_ok=True)
    (folder / "ours.toml").write_text(OURS.format(deprecated=str(deprecated).lower()))
    return ContractCatalogue.load(folder)


async def test_a_reload_takes_configuration_and_contracts_over_together(one: Engine, tmp_path: Path) -> None:
    """The next match and the next signature follow the new catalogue; a refused reload keeps the old one."""
    young, old = (catalogue(tmp_path / "contracts", deprecated=deprecated) for deprecated in (False, True))
    text = config("first", "second").replace('id = "acme"', 'id = "acme"\ncontract = "ours"')
    file = one.folder / "ours.toml"
    file.write_text(text)
    ours = sound(load(file, HOME, {}, contracts=young))
    await one.registrar.apply(ours, young)
    signer = one.registry.signer(one.endpoint("first"))
    assert matched(one, "a.old") == {"first", "second"}
    one.gate.error = DISK_FULL
    with pytest.raises(StoreUnavailable):
        await one.registrar.apply(ours, old)
    one.gate.error = None
    assert (one.registry.contracts, matched(one, "a.old")) == (young, {"first", "second"})
    await one.registrar.apply(ours, old)
    assert matched(one, "a.old") == set()
    assert one.registry.signer(one.endpoint("first")) is not signer


MOVED = (
    config("first", "second")
    .replace('id = "acme"', 'id = "acme"\ncontract = "roughy"')
    .replace("secret", 'event_types = ["*"]\nsecret')
)


async def test_deliveries_that_memory_does_not_know_of_stop_a_change_of_contract(
    one: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H4: what becomes due between the plan and its commit (a retry, say) is looked for in the same transaction."""
    await one.post()
    before, rows = one.registry, await one.store.load_registry()
    monkeypatch.setattr(one.store, "due_count", lambda ref: 0)
    with pytest.raises(ConfigError, match=r"has deliveries due \(2\) that were made under the contract 'standard'"):
        await one.apply(MOVED + '[[application]]\nid = "fresh"\n')
    assert one.registry is before
    assert await one.store.load_registry() == rows
    assert matched(one) == {"first", "second"}


async def test_no_event_of_the_old_contract_follows_a_change_of_contract(
    one: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H4: while the change is written down events are refused, to be repeated; one that was frozen before it too (Q11)."""
    change, frozen_for = type(one.store).change_registry, one.acme

    async def written_down(store: Any, wanted: RegistryChange) -> RegistryRows:
        with pytest.raises(StoreUnavailable, match="is being changed"):
            one.registry.match(frozen_for, "a.b")
        return await change(store, wanted)

    monkeypatch.setattr(type(one.store), "change_registry", written_down)
    await one.apply(MOVED)
    assert one.acme.contract == "roughy"
    with pytest.raises(StoreUnavailable, match="is being changed"):
        one.registry.match(frozen_for, "render.completed")
    assert matched(one, "render.completed") == {"first", "second"}


async def test_an_edit_after_a_commit_that_nobody_knows_of_reads_the_database(one: Engine) -> None:
    """H3: a creation whose COMMIT failed but was kept is found by the next edit, and so is one that was not kept."""
    made = await add(one)
    kept = one.store.change_registry

    async def unknown(wanted: RegistryChange) -> RegistryRows:
        await kept(wanted)
        raise CommitUnknown("the commit failed")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(one.store, "change_registry", unknown)
        with pytest.raises(CommitUnknown):
            await one.registrar.delete_endpoint(made)
        assert made in matched(one)
    await one.registrar.pause("first")
    assert matched(one) == {"first", "second"}
    with pytest.raises(NotFound):
        one.registry.endpoint(made)


# -- what it costs -----------------------------------------------------------------------------------------------------


class Counting(dict[str, Any]):
    """A mapping that counts how often it is asked, and refuses to be walked through."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.asked += 1
        return super().get(key, default)

    def __iter__(self) -> Any:
        raise AssertionError("nobody needs all of them")

    items = values = keys = __iter__  # type: ignore[assignment]


def peopled(applications: int, endpoints: int) -> Registry:
    """A registry of many applications, with endpoints in the first one, each with a subscription of its own."""
    names = [f"app{number}" for number in range(applications)]
    owners = [
        ApplicationRow(number, name, Origin.API, {"contract": "standard"}, "standard", 0, 0)
        for number, name in enumerate(names, 1)
    ]
    rows = []
    for number in range(1, endpoints + 1):
        definition = {"url": "https://x.example/", "event_types": [f"kind{number}.*"]}
        row = new_endpoint(f"ep{number}", "app0", Origin.API, definition["url"], 0)
        rows.append(replace(row, ref=number, definition=definition))
    empty = Registry(Config(), CONTRACTS, InFile.of(Config()))
    return empty.including(RegistryRows(owners, rows))


def test_matching_costs_the_same_among_ten_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    """H5: a match asks about the parts of the type, however many endpoints there are; a lookup asks once."""
    covers, calls = type(CONTRACTS.get("standard")).covers, []
    monkeypatch.setattr(
        "relay.contracts.contract.Contract.covers",
        lambda self, pattern, type: calls.append(pattern) or covers(self, pattern, type),
    )
    costs = []
    for endpoints in (10, 10_000):
        registry = peopled(3, endpoints)
        entry = registry.applications["app0"]
        subscriptions = Counting(entry.subscriptions)
        registry = replace(
            registry,
            applications=Counting(registry.applications | {"app0": replace(entry, subscriptions=subscriptions)}),
            endpoints=Counting(registry.endpoints),
        )
        calls.clear()
        assert registry.match(entry.application, "kind7.done.now").targets == (7,)
        costs.append((len(calls), subscriptions.asked, registry.applications.asked, registry.endpoints.asked))  # type: ignore[attr-defined]
    assert costs == [(1, 4, 1, 0)] * 2


def test_finding_the_application_costs_the_same_among_a_thousand() -> None:
    """S4: an unbound token costs one lookup; the names are neither gathered nor sorted, and an error lists few of them."""
    root, costs = Principal("root", Role.ADMIN), []
    for applications in (2, 1_000):
        registry = peopled(applications, 0)
        known = Counting(registry.applications)
        counted = replace(registry, applications=known)
        assert counted.application_for(root, "app1").id == "app1"
        costs.append(known.asked)
    assert costs == [1, 1]
    with pytest.raises(Conflict, match="and 980 more"):
        peopled(1_000, 0).application_for(root, None)


async def test_an_edit_leaves_the_registry_before_it_alone(one: Engine) -> None:
    """A registry is a value: whoever still holds the one before sees it as it was, whole."""
    before, names = one.registry, matched(one)
    made = await add(one, event_types=("a.*", "*"))
    await one.registrar.disable("first")
    assert set(before.endpoints) == names == {"first", "second"}
    assert len(before.match(one.acme, "a.b").targets) == 2
    assert matched(one) == {"second", made}
    await one.registrar.delete_endpoint(made)
    assert set(one.registry.application("acme").subscriptions) == {"*"}
