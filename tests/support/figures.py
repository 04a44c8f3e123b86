"""What suites found, for docs/RELIABILITY.md: `make reliability` runs them and writes the table there anew.

A suite calls `record`; with RELIABILITY_FIGURES it is kept there, a line of JSON each. `python -m tests.support.figures
FIGURES DOCUMENT` puts the lines into the document, between two comments.
"""

import json
import os
import re
import sys
from pathlib import Path

BEGIN, END = "<!-- figures: written by `make reliability` -->", "<!-- end of figures -->"
HEAD = "| what is done to it | inputs tried | losses found | command |\n|---|---|---|---|\n"


def record(what: str, inputs: int, losses: int, command: str) -> None:
    """Keep what was tried and what was found, when somebody collects it."""
    if path := os.environ.get("RELIABILITY_FIGURES"):
        with Path(path).open("a") as figures:
            figures.write(json.dumps([what, inputs, losses, command]) + "\n")


def table(lines: list[str]) -> str:
    """Write the figures as a table; several runs of one kind are added up."""
    rows: dict[tuple[str, str], list[int]] = {}
    for what, inputs, losses, command in map(json.loads, lines):
        sums = rows.setdefault((what, command), [0, 0])
        sums[0] += inputs
        sums[1] += losses
    return HEAD + "".join(
        f"| {what} | {inputs:,} | {losses:,} | `{command}` |\n" for (what, command), (inputs, losses) in rows.items()
    )


def rewritten(document: str, written: str) -> str:
    """Return the document with another table; ValueError when it has no place for one."""
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not found.search(document):
        raise ValueError(f"no {BEGIN} in the document")
    return found.sub(lambda _: f"{BEGIN}\n{written}{END}", document)


def main(figures: Path, document: Path) -> None:
    """Put the figures into the document."""
    document.write_text(rewritten(document.read_text(), table(figures.read_text().splitlines())))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
