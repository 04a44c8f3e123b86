"""Problems in a configuration, and how they are told to a tired operator."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error keeps the configuration from being used; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do about it."""

    severity: Severity
    source: str | None  # the file, `env NAME` or `flag --name` it comes from
    line: int | None
    key: str  # "delivery.timeout", "application[acme].endpoint[primary].url"; "" for the file as a whole
    value: str | None  # as written; secrets masked; None where showing it says nothing or too much
    message: str
    remedy: str

    @property
    def where(self) -> str:
        """Return `file:line` as editors and terminals read it."""
        return ":".join(str(part) for part in (self.source, self.line) if part is not None)


def render_problems(problems: Sequence[Problem]) -> str:
    """Write problems as text, a line for what is wrong and one for what to do."""
    return "\n".join(_render(problem) for problem in problems)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean "…"?` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'Did you mean "{close[0]}"?' if close else ""


def one_of(words: Iterable[str]) -> str:
    """List the words one may choose from."""
    return ", ".join(f'"{word}"' for word in words)


def _render(problem: Problem) -> str:
    subject = problem.key if problem.value is None else f"{problem.key} = {problem.value}"
    head = ": ".join(part for part in (problem.where, problem.severity.value, subject, problem.message) if part)
    return f"{head}\n    {problem.remedy}" if problem.remedy else head
