"""Power cuts, from the system calls that a process really made.

`traced` runs a program under strace, `calls` reads what it wrote. A `Disk` follows the calls up to some moment and knows
what a power cut may then leave: what was synced is there; of what was not, each write may be lost, kept, cut short, or kept
in some of its sectors only, and a file that was made, removed or renamed may still have its old name or none.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from tests.support.warm import ROOT

SECTOR_BYTES = 512
CHANGES = ("openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "unlink", "rename", "mkdir")
SYNCS = ("fsync", "fdatasync")
ANSWERS = ("sendto", "sendmsg", "writev")


class Call(NamedTuple):
    """The begin or the end of a system call: one that succeeded, or an fsync that failed."""

    name: str
    path: str  # of its descriptor or of its first argument, absolute
    arguments: str
    returned: bool  # it has ended; False: it begins
    failed: bool = False

    @property
    def data(self) -> bytes:
        """The bytes that are written."""
        return b"".join(ast.literal_eval("b" + text) for text in _TEXT.findall(self.arguments))

    @property
    def number(self) -> int:
        """The last argument: an offset or a size."""
        return int(self.arguments.rpartition(",")[2])


def traced(
    trace: Path, module: str, *arguments: object, inject: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` to its end and write its system calls down; skip the test where nothing can be traced.

    `inject` are further options of strace, that let calls fail.
    """
    return subprocess.run(
        [*tracing(trace), *inject, sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def tracing(trace: Path, names: Sequence[str] = CHANGES) -> list[str]:
    """Return the beginning of a command line that traces what follows it."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace: system calls are what is proved here")
    if subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here (ptrace is forbidden)")
    return ["strace", "-f", "--seccomp-bpf", "-y", "-s", "1000000", "-o", str(trace), f"-etrace={','.join(names)}"]


_LINE = re.compile(r"(?P<task>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)")
_RESULT = re.compile(r"\) += (-?\d+)[^=]*$")
_PLACE = re.compile(r"(?:\d+<([^>]*)>(?:\(deleted\))?|AT_FDCWD(?:<[^>]*>)?, \"([^\"]*)\"|\"([^\"]*)\")")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


def calls(trace: Path) -> Iterator[Call]:
    """Read a trace: each call that succeeded when it begins, and again when it has returned. O(its bytes)"""
    begun: dict[str, tuple[str, list[Call]]] = {}
    order: list[Call | list[Call]] = []
    for line in trace.read_text("latin-1").splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        rest = found["rest"]
        if found["resumed"]:
            name, (start, place) = found["resumed"], begun.pop(found["task"])
            text = start + rest
        else:
            name, place, text = found["name"], [], rest
            order.append(place)
            if text.endswith("<unfinished ...>"):
                begun[found["task"]] = text.removesuffix("<unfinished ...>").rstrip(), place
                continue
        result = _RESULT.search(text)
        if result is not None and int(result[1]) < 0 and name in SYNCS:
            order.append(_call(name, text[: result.start()])._replace(returned=True, failed=True))
        elif result is not None and int(result[1]) >= 0:
            call = _call(name, text[: result.start()])
            place.append(call)
            order.append(call._replace(returned=True))
    for entry in order:
        if isinstance(entry, list):
            yield from entry
        else:
            yield entry


def _call(name: str, arguments: str) -> Call:
    place = _PLACE.search(arguments)
    path = "" if place is None else next(filter(None, place.groups()), "")
    return Call(name, path, arguments, False)


class Fate(Enum):
    """What becomes of the writes that were not synced."""

    LOST = "lost"
    KEPT = "kept"
    SOME = "some of them kept"
    PARTIAL = "some of them cut short"
    TORN = "some of their sectors kept"


@dataclass(slots=True, eq=False)
class File:
    """One file: what is on the disk for sure, and what was done to it since, oldest first."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(
        default_factory=list
    )  # offset and data; size and None: a truncation

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.synced, *change)
        self.pending.clear()

    def left(self, fate: Fate, rng: Random) -> bytes:
        """Return what a power cut leaves."""
        content = bytearray(self.synced)
        for offset, data in self.pending:
            if data is None:
                if fate is Fate.KEPT or (fate is not Fate.LOST and rng.random() < 0.5):
                    _apply(content, offset, None)
                continue
            for start, piece in _survivors(offset, data, fate, rng):
                _apply(content, start, piece)
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset + len(data or b"")
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, end - len(content))))
    content[offset:end] = data or b""


def _survivors(offset: int, data: bytes, fate: Fate, rng: Random) -> list[tuple[int, bytes]]:
    """Return the pieces of an unsynced write that reached the disk."""
    if fate is Fate.LOST:
        return []
    if fate is Fate.KEPT:
        return [(offset, data)]
    if fate is not Fate.TORN:
        if rng.random() < 0.5:
            return []
        return [(offset, data[: rng.randint(0, len(data))] if fate is Fate.PARTIAL else data)]
    bounds = [0, *range(-offset % SECTOR_BYTES or SECTOR_BYTES, len(data), SECTOR_BYTES), len(data)]
    pieces = [(offset + start, data[start:end]) for start, end in pairwise(bounds)]
    return [piece for piece in pieces if rng.random() < 0.5]


class Disk:
    """A folder as its file system has it, with the names that are durable and those that are only seen."""

    def __init__(self, root: Path) -> None:
        """Begin with what is in `root`, all of it durable."""
        self._root = str(root)
        self._seen: dict[str, File | None] = {}  # None: a folder
        for place in root.rglob("*"):
            self._seen[str(place)] = None if place.is_dir() else File(bytearray(place.read_bytes()))
        self._durable = dict(self._seen)
        self._changed: dict[str, list[File | str | None]] = defaultdict(list)  # since the last sync; "": no such name

    def follow(self, call: Call) -> None:
        """Do what a call did."""
        if not call.path.startswith(self._root):
            return
        if call.returned:
            if call.failed:
                self._lose(call.path)
            elif call.name in SYNCS:
                self._sync(call.path)
            return
        match call.name:
            case "openat" if "O_CREAT" in call.arguments and self._seen.get(call.path) is None:
                self._name(call.path, File())
            case "mkdir":
                self._name(call.path, None)
            case "unlink":
                self._forget(call.path)
            case "rename":
                target = re.findall(_TEXT, call.arguments)[-1][1:-1]
                file = self._seen[call.path]
                self._forget(call.path)
                self._name(target, file)
            case "pwrite64":
                self._write(call.path, call.number, call.data)
            case "ftruncate":
                self._write(call.path, call.number, None)
            case _:
                pass

    def left(self, fate: Fate, rng: Random, target: Path) -> None:
        """Write what a power cut leaves into `target`."""
        for path, file in sorted(self._after(fate, rng).items()):
            place = target / path[len(self._root) + 1 :]
            if not place.parent.is_dir():
                continue  # the folder's own name was lost, and all that is in it
            if file is None:
                place.mkdir(exist_ok=True)
            else:
                place.write_bytes(file.left(fate, rng))

    def _after(self, fate: Fate, rng: Random) -> dict[str, File | None]:
        names = dict(self._durable)
        for path, versions in self._changed.items():
            before: File | str | None = self._durable.get(path, "")
            kept = {Fate.LOST: before, Fate.KEPT: versions[-1]}.get(fate, rng.choice([before, *versions]))
            names.pop(path, None)
            if not isinstance(kept, str):
                names[path] = kept
        return names

    def _name(self, path: str, file: File | None) -> None:
        self._seen[path] = file
        self._changed[path].append(file)

    def _forget(self, path: str) -> None:
        if path in self._seen:
            del self._seen[path]
            self._changed[path].append("")

    def _write(self, path: str, offset: int, data: bytes | None) -> None:
        file = self._seen.get(path)
        if file is not None:
            file.pending.append((offset, data))

    def _lose(self, path: str) -> None:
        """Forget what an fsync failed to write: the kernel takes it for written, shows it, and never writes it again."""
        file = self._seen.get(path)
        if file is not None:
            file.pending.clear()

    def _sync(self, path: str) -> None:
        file = self._seen.get(path)
        if file is not None:
            file.sync()
            return
        for name in [name for name in self._changed if name.rpartition("/")[0] == path]:
            del self._changed[name]
            if name in self._seen:
                self._durable[name] = self._seen[name]
            else:
                self._durable.pop(name, None)
