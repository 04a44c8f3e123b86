"""A night at the operator's desk: 3 applications, 12 endpoints, one dead for two hours, one that refuses everything.

docs/OPERATING.md tells it. Its commands are run here, at the times that stand before them, against the relay's socket, and
must print what stands there, but for ids and figures. The gate posts a part of the events; `make night` posts 50,000 and
writes what was printed into the page.
"""

import asyncio
import logging
import os
import re
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from tests.support.night import Night, at

EVENTS = int(os.environ.get("NIGHT_EVENTS", "1200"))
TELLS = "NIGHT_TELL" in os.environ
PAGE = Path(__file__).parents[1] / "docs" / "OPERATING.md"
PART = re.compile(r"(?<=^<!-- night: )(\d\d:\d\d)( -->\n```console\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)

RATE = 100
"""Deliveries a second that the story's replay may send."""


class Step(NamedTuple):
    """One command of the story, and what it prints."""

    command: str
    printed: str


@pytest.fixture(autouse=True)
def only_errors() -> Iterator[None]:
    """Let the lines about single deliveries cost nothing."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


# -- the story --------------------------------------------------------------------------------------------------------------


def steps(part: str) -> list[Step]:
    """Cut a block of the page into its commands, each with what it prints."""
    return [Step(*one.split("\n", 1)) for one in re.split(r"^\$ ", part, flags=re.MULTILINE)[1:]]


ID = re.compile(r"\b(?:evt|dlv|rpl)_[0-9A-Z]+")
FIGURES = [
    (ID, "ID"),
    (re.compile(r"--cursor \S+"), "CURSOR"),
    (re.compile(r"\d[\w.,:]*"), "N"),
    (re.compile(r" +"), " "),
]
"""What is another one in every night, or hangs on the number of events."""


def form(printed: str) -> list[str]:
    """Return the lines of what is printed without ids and figures, and of such that are the same then only one."""
    for figure, word in FIGURES:
        printed = figure.sub(word, printed)
    return [line for line, _ in groupby(printed.splitlines())]


def print_of(night: Night, command: str) -> str:
    """Run a command of the story in a shell; it must exit with 0. Return what it prints, without what is this stage's."""
    shell = f'set -e; relay() {{ {sys.executable} -m relay "$@"; }}; {command}'
    env = os.environ | {"RELAY_SOCKET": str(night.stack.folder / "relay.sock")}
    ran = subprocess.run(["sh", "-c", shell], env=env, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False)
    assert ran.returncode == 0, (command, ran.stdout)
    return night.unstaged(ran.stdout)


class Telling:
    """Runs the story as the page has it; what other commands name is called by the ids of this night."""

    def __init__(self, night: Night, *, rewrites: bool = False) -> None:
        self._night = night
        self._rewrites = rewrites
        self._ids: dict[str, str] = {}  # of the page → of this night

    async def tell(self, part: str) -> str:
        """Run the commands of one block; return it with what they print now, the same but for ids and figures."""
        return "".join([await self._tell(step) for step in steps(part)])

    async def _tell(self, step: Step) -> str:
        command = ID.sub(lambda found: self._ids.get(found[0], found[0]), step.command)
        printed = await asyncio.to_thread(print_of, self._night, command)
        await self._night.stack.quiet()
        assert self._rewrites or form(printed) == form(step.printed), f"$ {command}\n{printed}"
        self._ids |= zip(ID.findall(step.printed), ID.findall(printed), strict=False)
        return f"$ {command}\n{printed}"


@pytest.mark.timeout(3_600 if TELLS else 300)
async def test_a_night_is_told_as_it_was(tmp_path: Path) -> None:
    """Issue 10, a scripted night: by verbs alone both causes are found, one endpoint held and released, what failed is replayed.

    In the end each event was taken once by each of its endpoints, and the replay kept to its rate.
    """
    page = PAGE.read_text()
    async with Night(tmp_path, EVENTS) as night:
        telling, told = Telling(night, rewrites=TELLS), {}
        for time, _, part in PART.findall(page):
            await night.pass_until(at(time))
            if "replay create" in part:
                lost = set(night.books.never())
            told[part] = await telling.tell(part)
        await night.pass_until(at("04:30"))
        assert await night.due() == 0
        assert night.books.mistakes() == {"twice": [], "never": [], "invented": []}
        assert lost
        again = [time_ms for time_ms, taken in night.arrivals if taken in lost]
        assert max(bisect_right(again, time_ms + 999) - first for first, time_ms in enumerate(again)) <= RATE
    if TELLS:
        PAGE.write_text(PART.sub(lambda found: found[1] + found[2] + told[found[3]], page))


# -- negative controls ------------------------------------------------------------------------------------------------------


async def test_what_is_taken_twice_or_never_is_found(tmp_path: Path) -> None:
    """Negative control: a receiver takes an event and says that it failed, another's delivery is cancelled: both are found."""
    async with Night(tmp_path, 144) as night:
        night.doors["acme-mail"].answer = lambda event_id: night.answer("acme-mail", event_id) * 0 or 500
        await asyncio.to_thread(print_of, night, "relay queue hold --endpoint initech-mail")
        await night.pass_until(at("00:01"))
        await asyncio.to_thread(print_of, night, "relay queue cancel --endpoint initech-mail --yes")
        await night.pass_until(at("00:02"))
        found = night.books.mistakes()
    assert [endpoint for endpoint, _ in found["twice"]] == ["acme-mail"]
    assert [endpoint for endpoint, _ in found["never"]] == ["initech-mail"]


async def test_another_story_is_found(tmp_path: Path) -> None:
    """Negative control: a page that says something else than the verbs print is noticed."""
    async with Night(tmp_path, 0) as night:
        assert await Telling(night).tell("$ relay dead list\nnone\n") == "$ relay dead list\nnone\n"
        with pytest.raises(AssertionError):
            await Telling(night).tell("$ relay dead list\nnothing\n")
