"""Measure the relay: `make bench` (the main rows), `make bench-all` (all of them), `python -m bench.run ROW …`.

With `--against COMMIT` a row compares the relay of another commit with this tree's: both run in each round, on the same work.

Prints Markdown for `bench/README.md` on stdout and progress on stderr. A row that fails is printed as such, with why, and
the others go on.
"""

import argparse
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.desk import desk
from bench.rows import PAIRS, Bench, Row
from bench.states import STATES
from tests.support.warm import ROOT

ROWS: Mapping[str, Row] = {**PAIRS, **STATES, "desk": desk}

MAIN = ("fan-out-1", "fan-out-10", "fan-out-100", "intake", "applications", *STATES)
MAIN_PAIRS = tuple(name for name in MAIN if name in PAIRS)
"""Rows that are compared with another commit, if none is named."""

MAIN_WITHOUT = ("growth",)
"""Rows of `make bench`: those of the table of targets."""


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the rows to run; SystemExit for one that there is not."""
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        raise SystemExit(f"bench: there is no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    if arguments.against and (alone := [name for name in arguments.rows if name not in PAIRS]):
        raise SystemExit(f"bench: {alone[0]} is no comparison; --against takes: {', '.join(PAIRS)}")
    if arguments.against:
        return list(arguments.rows or MAIN_PAIRS)
    if arguments.rows:
        return list(arguments.rows)
    return list(ROWS) if arguments.all else [name for name in MAIN if name not in MAIN_WITHOUT]


def unpacked(commit: str, folder: Path) -> Path:
    """Put the relay of a commit into a folder that is named for it; SystemExit for a commit that there is not."""
    asked = subprocess.run(
        ["git", "rev-parse", "--verify", "--short", f"{commit}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        raise SystemExit(f"bench: there is no commit {commit!r}; name one as git does")
    tree = folder / asked.stdout.strip()
    tree.mkdir()
    packed = subprocess.run(["git", "archive", commit, "relay"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    return tree


def run(names: Sequence[str], bench: Bench) -> list[str]:
    """Run rows one after another, print each as it is done, and return the names of those that failed."""
    failed = []
    for number, name in enumerate(names, 1):
        began = time.monotonic()
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        try:
            text = ROWS[name](bench)
        except Exception as error:  # whatever it is, the other rows are worth having
            print("".join(traceback.format_exception(error, limit=-3))[:2_000], file=sys.stderr, flush=True)
            failed.append(name)
            text = f"**Not measured**: {type(error).__name__}: {str(error)[:200]}"
        print(f"### {name}\n\n{text}\n", flush=True)
        print(f"    took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return failed


def machine() -> str:
    """Say when and where this was measured."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return (
        f"{time.strftime('%Y-%m-%d')}, commit {asked.stdout.strip() or 'unknown'}: {platform.machine()}, "
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}; load average at the start {os.getloadavg()[0]:.1f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)}; none: the main ones")
    parser.add_argument("--all", action="store_true", help="all rows")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side of a comparison runs")
    parser.add_argument("--scale", type=float, default=1.0, help="of the events of each row; 0.01: does it run at all?")
    parser.add_argument("--receiver", choices=["auto", "nginx", "python"], default="auto")
    parser.add_argument(
        "--against", default="", metavar="COMMIT", help="compare this tree's relay with that of a commit"
    )
    parser.add_argument("--folder", default="bench/out", help="where databases go: a real disk, not tmpfs")
    arguments = parser.parse_args()
    out = Path(arguments.folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    names = chosen(arguments)
    print(f"{machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        tree = unpacked(arguments.against, Path(folder)) if arguments.against else None
        failed = run(names, Bench(Path(folder), arguments.rounds, arguments.scale, arguments.receiver, out, tree))
    if failed:
        raise SystemExit(f"bench: not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
