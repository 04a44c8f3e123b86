"""What somebody has to act on, the most urgent matter first, and the one sentence that says how the relay is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from relay.api.condition import Line, Word
from relay.api.readiness import Closed
from relay.api.reloads import Reloads, sentence
from relay.api.render import moment
from relay.api.survey import Survey
from relay.core.issues import MISTAKES_MAX
from relay.registry.vanished import Vanished

NAMED = 3
"""Endpoints or applications that a sentence names; the rest are counted."""

LOCAL_TROUBLE = (
    "It is us, not them: hosts of several applications cannot be reached for a reason on this host: no name server, no "
    "route, or a wrong clock. Look at its network, resolver and clock first; no endpoint is disabled for it meanwhile."
)

DESCRIPTORS_MISSING = (
    "Relay has no file descriptor left for deliveries: they wait, and no receiver is blamed. Raise the limit "
    "(LimitNOFILE in the unit, ulimit -n) or lower delivery.concurrency."
)


class Trouble(NamedTuple):
    """One matter that does not mend itself."""

    code: str
    detail: str  # a sentence, and what to do


def troubles(
    seen: Survey,
    reasons: Sequence[Closed],
    *,
    local_trouble: bool,
    descriptors_missing: bool = False,
    refused: Mapping[str, str] | None = None,
    reloads: Reloads | None = None,
    gone: Sequence[Vanished] = (),
) -> list[Trouble]:
    """List what somebody has to act on, the most urgent matter first; empty while nobody has to."""
    return [
        *_troubles_here(seen.noted, reasons, local_trouble, descriptors_missing),
        *_troubles_of_applications(refused or {}),
        *_troubles_there(seen),
        *_troubles_of_the_file(reloads or Reloads(), gone),
    ]


def drift(reloads: Reloads, gone: Sequence[Vanished]) -> Iterator[str]:
    """Say how what runs differs from the file, where nothing suffers from it yet."""
    if reloads.needs_restart:
        yield f"These settings wait for a restart: {', '.join(reloads.needs_restart)}."
    idle = [one for one in gone if not one.due]
    yield from (sentence(one.to_issue()) for one in idle[:MISTAKES_MAX])
    if len(idle) > MISTAKES_MAX:
        yield f"{len(idle) - MISTAKES_MAX} more are no longer in the configuration file; nothing waits there."


def headline(seen: Survey, found: Sequence[Trouble], due: int) -> str:
    """Say how the relay is in one sentence: the most urgent trouble, or how it goes where there is none."""
    if found:
        return found[0].detail
    failing = sum(line.failing for line in seen.noted)
    if failing:
        verb = "is" if failing == 1 else "are"
        return f"{failing} of {_counted(seen.total, 'endpoint')} {verb} failing; {_count_waiting(due)}."
    held = sum(line.endpoint.held and line.due > 0 for line in seen.noted)
    if held:
        return f"{_counted(held, 'endpoint')} with held deliveries; {_count_waiting(due)}."
    if not seen.total:
        return "There is no endpoint yet: add one with `relay endpoint add URL`."
    first = f"{_counted(seen.dead, 'dead letter')} (`relay dead list`), otherwise all" if seen.dead else "All"
    return f"{first} is well: {_counted(seen.total, 'endpoint')}, {_count_waiting(due)}."


def _troubles_here(
    lines: Sequence[Line], reasons: Sequence[Closed], local_trouble: bool, descriptors_missing: bool
) -> Iterator[Trouble]:
    for reason in reasons:
        yield Trouble("intake_closed", f"Intake is closed: {reason.detail}.")
    suspended = [line for line in lines if line.lane.suspension is not None]
    if suspended:
        yield Trouble("suspended", _suspended(suspended))
    if local_trouble:
        yield Trouble("local_trouble", LOCAL_TROUBLE)
    if descriptors_missing:
        yield Trouble("descriptors_missing", DESCRIPTORS_MISSING)


def _troubles_of_applications(refused: Mapping[str, str]) -> Iterator[Trouble]:
    """Say why the posts of an application are refused, and name the others of which the same is true."""
    if refused:
        first, *others = refused
        more = f" Likewise: {_first(others)}." if others else ""
        yield Trouble("application_backlog_full", f"{refused[first]}{more}")


def _troubles_there(seen: Survey) -> Iterator[Trouble]:
    refusing = [line for line in seen.noted if line.refusing]
    if refusing:
        yield Trouble("refusing", _refusing(refusing, seen.total))
    unverified = [line for line in seen.noted if line.word is Word.UNVERIFIED and line.trial is not None]
    if unverified:
        yield Trouble("unverified", _unverified(unverified, seen.total))


def _troubles_of_the_file(reloads: Reloads, gone: Sequence[Vanished]) -> Iterator[Trouble]:
    if reloads.refused:
        more = f" ({len(reloads.refused) - 1} more)" if len(reloads.refused) > 1 else ""
        yield Trouble(
            "reload_refused",
            f"The reload at {moment(reloads.at_ms)} was refused, and what was in force before still is: "
            f"{sentence(reloads.refused[0])}{more} Then run `relay reload`; its answer has every mistake.",
        )
    waiting = [one for one in gone if one.due]
    if waiting:
        more = f" And {len(waiting) - 1} more." if len(waiting) > 1 else ""
        said = sentence(waiting[0].to_issue())
        yield Trouble("vanished", f"{said[:1].upper()}{said[1:]}{more}")


def _suspended(lines: Sequence[Line]) -> str:
    verb = "is" if len(lines) == 1 else "are"
    return (
        f"{_names(lines, lambda line: line.endpoint.id)} {verb} suspended: a mistake of relay's own ended an attempt there. "
        "The traceback is in the log (endpoint.suspended); please report it. Nothing is lost, and the others are served."
    )


def _refusing(lines: Sequence[Line], total: int) -> str:
    most = sorted(lines, key=lambda line: (-line.due, line.endpoint.id))
    names = _names(most, lambda line: f"{line.endpoint.id} ({line.lane.health.last_failure})")
    remedy = most[0].lane.health.last_answer
    whose = "" if len(lines) == 1 else f" of {most[0].endpoint.id}"
    verb = "refuses" if len(lines) == 1 else "refuse"
    advice = f" The last answer{whose}: {remedy}." if remedy else ""
    return f"{len(lines)} of {_counted(total, 'endpoint')} {verb} every delivery: {names}.{advice}"


def _unverified(lines: Sequence[Line], total: int) -> str:
    most = sorted(lines, key=lambda line: (-line.due, line.endpoint.id))
    first, names = most[0], _names(most, lambda line: line.endpoint.id)
    verb = "has" if len(lines) == 1 else "have"
    answer = f" {first.endpoint.id}: {first.trial.detail}." if first.trial else ""
    return (
        f"{len(lines)} of {_counted(total, 'endpoint')} {verb} not agreed to take events, which wait: {names}.{answer} "
        f"Relay asks again by itself; `relay endpoint verify {first.endpoint.id}` asks now."
    )


def _names(lines: Sequence[Line], name: Callable[[Line], str]) -> str:
    return _first([name(line) for line in lines])


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _count_waiting(due: int) -> str:
    if due == 0:
        return "nothing waits"
    return f"{due:,} {'delivery waits' if due == 1 else 'deliveries wait'}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
