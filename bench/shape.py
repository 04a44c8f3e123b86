"""The size of the code, and what one delivery passes on its way through it.

`make shape` prints, for the tree it stands in or another one (`--tree DIR`): files and code lines of each room, how long
functions are, and how many files, functions and calls of `relay` lie between a producer's POST and the settled delivery.
A code line holds code: blank lines, comments and docstrings do not count. The path is traced on the warm path, on a real
relay with a real receiver, and counts what runs in the event loop and in the writer's thread.
"""

import argparse
import ast
import asyncio
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[1]

WARM_UP = 50
"""Events delivered before the traced one: caches are filled, the connection is open."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=ROOT, help="a checkout with relay/ and tests/ (default: this one)")
    parser.add_argument("--files", action="store_true", help="name the files that a delivery passes")
    parser.add_argument("--no-path", action="store_true", help="leave the traced delivery out")
    parser.add_argument("--trace", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trace:
        asyncio.run(trace(options.tree / "relay", options.files))
        return
    print_sizes(options.tree / "relay")
    if not options.no_path:
        print_path(options.tree, options.files)


# -- sizes -------------------------------------------------------------------------------------------------------------


def print_sizes(package: Path) -> None:
    """Print files and code lines by room, and the lengths of functions in lines."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    functions: list[int] = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text()
        room = path.relative_to(package).parts[0].removesuffix(".py")
        files[room] += 1
        lines[room] += code_lines(source)
        functions += function_lines(source)
    print(f"{'room':<14}{'files':>7}{'code lines':>13}")
    for room, count in sorted(lines.items(), key=lambda item: -item[1]):
        print(f"{room:<14}{files[room]:>7}{count:>13,}")
    print(f"{f'{len(lines)} rooms':<14}{files.total():>7}{lines.total():>13,}")
    functions.sort()
    p90 = functions[len(functions) * 9 // 10]
    print(
        f"\n{len(functions):,} functions: median {statistics.median(functions):g} lines, p90 {p90}, most {functions[-1]}"
    )


def code_lines(source: str) -> int:
    """Count the lines that hold code."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            held.update(range(token.start[0], token.end[0] + 1))
    return len(held.difference(*(range(node.lineno, (node.end_lineno or 0) + 1) for node in docstrings(source))))


def docstrings(source: str) -> Iterator[ast.Expr]:
    """Yield every statement that is nothing but text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def function_lines(source: str) -> Iterator[int]:
    """Yield how many lines each function has, its docstring included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


# -- the path of one delivery ------------------------------------------------------------------------------------------


def print_path(tree: Path, files: bool) -> None:
    """Trace one delivery in a process of its own, which imports from `tree`."""
    command = [sys.executable, str(Path(__file__)), "--trace", "--tree", str(tree.absolute())]
    environment = os.environ | {"PYTHONPATH": str(tree.absolute())}
    done = subprocess.run(
        [*command, *(["--files"] if files else [])],
        env=environment,
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the delivery could not be traced:\n{done.stderr}")
    print(done.stdout, end="")


class Passage:
    """What was called of one package. Owner of the counts; profiles every thread that starts after it."""

    def __init__(self, package: Path) -> None:
        self._package = str(package) + os.sep
        self.calls: Counter[CodeType] = Counter()
        self.counting = False

    def install(self) -> None:
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def idle(self, stack: Any) -> bool:
        """Whether everything is settled; the question itself is not counted."""
        counting, self.counting = self.counting, False
        try:
            return not stack.relay.store.backlog and not stack.relay.dispatch.lanes.in_flight
        finally:
            self.counting = counting

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if self.counting and event == "call" and frame.f_code.co_filename.startswith(self._package):
            self.calls[frame.f_code] += 1


async def trace(package: Path, names: bool) -> None:
    """Deliver one event over the warm path and print what of `package` it passed."""
    import logging

    import structlog

    from tests.support.receiver import Receiver
    from tests.support.stack import Stack, until

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    passage = Passage(package)
    passage.install()
    with tempfile.TemporaryDirectory() as folder:
        async with Receiver() as receiver, Stack(Path(folder), endpoints={"primary": receiver.url}) as stack:
            for number in range(WARM_UP):
                await stack.post(data={"n": number})
                await until(lambda: passage.idle(stack))
            passage.counting = True
            await stack.post(data={"n": WARM_UP})
            await until(lambda: passage.idle(stack))
            passage.counting = False
    files = sorted({code.co_filename.removeprefix(str(package.parent) + os.sep) for code in passage.calls})
    print(
        f"\none delivery, from POST to settled: {len(files)} files, {len(passage.calls)} functions, "
        f"{passage.calls.total()} calls"
    )
    if names:
        print("\n".join(f"  {name}" for name in files))


if __name__ == "__main__":
    main()
