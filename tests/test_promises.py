"""docs/SECURITY.md and docs/RELIABILITY.md name the tests behind what they say: those exist, and nothing is without one."""

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.test_requirements import NAMED, ROOT, docstrings

SECURITY, RELIABILITY, README = (
    (ROOT / place).read_text("utf-8") for place in ("docs/SECURITY.md", "docs/RELIABILITY.md", "README.md")
)
IDS = [f"R{number}" for number in range(1, 59)]
WORDS_MIN = 5  # fewer are no reason


def section(page: str, heading: str) -> str:
    """What stands between a heading of the second level and the next one."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of its tables, the heads of the tables left out."""
    for line, below in pairwise([*text.splitlines(), ""]):
        if line.startswith("| ") and not below.startswith("|---"):
            yield [cell.strip() for cell in line.removesuffix("|").split("|")[1:]]


def names_tests_alone(cell: str) -> bool:
    return NAMED.sub("", cell).replace("<br>", "").strip() == ""


def faults_of_requirements(page: str) -> Iterator[str]:
    """Yield what is wrong with the table of requirements."""
    found = list(rows(section(page, "Requirements")))
    if [row[0] for row in found] != IDS:
        yield "each of R1 to R58 stands there once, in order"
    for row in found:
        if len(row) != 5:
            yield f"{row[0]} has {len(row)} cells"
            continue
        name, _, shown, control, reason = row
        if not (names_tests_alone(shown) and names_tests_alone(control)):
            yield f"{name} has something beside names of tests"
        if not (shown and control) and len(reason.split()) < WORDS_MIN:
            yield f"{name} has no test or no control, and no reason"


def faults_of_promises(page: str) -> Iterator[str]:
    """Yield what is wrong with what is promised."""
    found = list(rows(section(page, "What is promised")))
    if not found:
        yield "nothing is promised"
    for row in found:
        if len(row) != 3 or not NAMED.search(row[1]) or not all(map(names_tests_alone, row[1:])):
            yield f"{row[0]!r} names no test, or something else"


def faults(there: set[tuple[str, str]], security: str, reliability: str, readme: str) -> list[str]:
    """What is wrong with the two pages, of which `there` are the tests, and with the list of pages in README."""
    unknown = {pair for page in (security, reliability) for pair in NAMED.findall(page)} - there
    return [
        *faults_of_requirements(reliability),
        *faults_of_promises(security),
        *(f"there is no {file}::{name}" for file, name in sorted(unknown)),
        *(f"README lists no {page}" for page in ("SECURITY", "RELIABILITY") if f"](docs/{page}.md)" not in readme),
    ]


@pytest.fixture(scope="module")
def there() -> set[tuple[str, str]]:
    """Every test there is: its file and its name."""
    return {(file, name) for file, name, _ in docstrings()}


def test_both_pages_are_whole_and_true(there: set[tuple[str, str]]) -> None:
    """Each requirement is there once, with test and control or a reason; each promise has a test; each test exists."""
    assert faults(there, SECURITY, RELIABILITY, README) == []


@pytest.mark.parametrize(
    ("pattern", "instead", "fault"),
    [
        (r"^\| R7 .*\n", "", "each of R1 to R58"),
        (r"^(\| R7 .*\n)", r"\1\1", "each of R1 to R58"),
        (r"test_kill_nine_loses_nothing", "test_nothing_kills", "there is no test_crash::test_nothing_kills"),
        (r"^(\| R6 \|[^|]*\|)[^|]*\|", r"\1 |", "R6 has no test or no control"),
        (r"^(\| R6 \|[^|]*\|[^|]*\|)[^|]*\|", r"\1 |", "R6 has no test or no control"),
        (r"^(\| R48 .*\|) [^|]+ \|$", r"\1 later |", "R48 has no test or no control"),
        (r"^(\| R6 \|[^|]*\|)", r"\1 tried by hand, ", "R6 has something beside"),
        (r"^(\| R6 \|[^|]*\|)", r"\1 |", "R6 has 6 cells"),
        (r"^(\| Redirects [^|]*\|)[^|]*\|", r"\1 |", "'Redirects are not followed"),
        (r"^(\| Redirects [^|]*\|)", r"\1 looked at, ", "'Redirects are not followed"),
        (r"^## What is promised$", "## Promises", "nothing is promised"),
        (r"\]\(docs/SECURITY\.md\)", "](docs/API.md)", "README lists no SECURITY"),
        (r"\]\(docs/RELIABILITY\.md\)", "](docs/API.md)", "README lists no RELIABILITY"),
    ],
)
def test_a_page_that_is_not_is_found(there: set[tuple[str, str]], pattern: str, instead: str, fault: str) -> None:
    """Negative control: a row, a name, a control, a reason or a page that is missing is noticed."""
    changed = [re.sub(pattern, instead, page, flags=re.MULTILINE) for page in (SECURITY, RELIABILITY, README)]
    assert changed != [SECURITY, RELIABILITY, README]
    assert any(found.startswith(fault) for found in faults(there, *changed))
