"""What came of reloads, how their answers are written, and what the last one left for somebody to do."""

from collections.abc import Iterable
from dataclasses import dataclass

from relay.api.problems import Problem
from relay.api.render import Json, moment
from relay.config import severity
from relay.core.issues import MISTAKES_MAX, Issue

CHANGES_MAX = 250
"""Changed keys that the answer to a reload names; the rest are counted. Likewise its warnings."""

WARNINGS_MAX = 250


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of a reload; `applied` is False when an error kept everything as it was."""

    applied: bool
    changed: tuple[str, ...] = ()  # keys that are in force now
    needs_restart: tuple[str, ...] = ()  # keys that changed in the file and wait for a restart
    issues: tuple[Issue, ...] = ()

    @property
    def mistakes(self) -> tuple[Issue, ...]:
        """Why it was refused; empty when it was not."""
        return tuple(issue for issue in self.issues if not issue.warning)


@dataclass(frozen=True, slots=True)
class Reloads:
    """What the reloads since the start come to: each refused one stands until a good one."""

    at_ms: int | None = None  # when the last one was asked for
    refused: tuple[Issue, ...] = ()  # why the last one was refused; empty when it was applied
    needs_restart: tuple[str, ...] = ()  # as the last good one found

    def after(self, reload: Reload, at_ms: int) -> "Reloads":
        """Return what they come to with one more."""
        if reload.applied:
            return Reloads(at_ms, (), reload.needs_restart)
        return Reloads(at_ms, reload.mistakes, self.needs_restart)

    def to_json(self) -> Json:
        """Write them for the status."""
        written = {
            "at": moment(self.at_ms),
            "refused": [sentence(issue) for issue in self.refused[:MISTAKES_MAX]],
            "needs_restart": list(self.needs_restart),
        }
        more = len(self.refused) - MISTAKES_MAX
        return written | ({"refused_omitted": more} if more > 0 else {})


def write_reload(reload: Reload) -> Json:
    """Write the answer to a reload that was applied."""
    written = {
        "reloaded": True,
        "changed": list(reload.changed[:CHANGES_MAX]),
        "needs_restart": list(reload.needs_restart),
        "warnings": [_written(issue) for issue in reload.issues[:WARNINGS_MAX]],
    }
    omitted = {
        "changed_omitted": len(reload.changed) - CHANGES_MAX,
        "warnings_omitted": len(reload.issues) - WARNINGS_MAX,
    }
    return written | {name: count for name, count in omitted.items() if count > 0}


def invalid_config(issues: Iterable[Issue]) -> Problem:
    """Nothing was changed: say every error, with where it stands in the file."""
    mistakes = [Issue("", sentence(issue)) for issue in issues]
    detail = "Nothing was changed. Mend the mistakes in `errors`; `relay check-config` shows those in the file too."
    return Problem("invalid_config", "The configuration cannot be used", 422, detail, tuple(mistakes))


def sentence(issue: Issue) -> str:
    """Write a mistake of the configuration in one line: where, which key, what is wrong, and what to do."""
    return ": ".join(part for part in (issue.place, issue.path, f"{issue.message}. {issue.remedy}".rstrip()) if part)


def _written(issue: Issue) -> Json:
    written = {"severity": severity(issue), "where": issue.place, "key": issue.path}
    return written | {"message": issue.message, "remedy": issue.remedy}
