"""What can go wrong, in the few classes that callers tell apart. Every message ends with what to do."""

import errno
import os
import pwd
from pathlib import Path


class RelayError(Exception):
    """Something the person at the other end can mend: `detail` says what is wrong, `remedy` what to do."""

    exit_code = 1

    def __init__(self, detail: str, *, remedy: str = "") -> None:
        super().__init__(f"{detail.rstrip('.')}. {remedy}" if remedy else detail)
        self.detail = detail
        self.remedy = remedy


def spoken(error: RelayError) -> str:
    """Return what is wrong and what to do as sentences."""
    detail = error.detail.rstrip(".")
    return f"{detail[:1].upper()}{detail[1:]}. {error.remedy}".strip()


class ConfigError(RelayError):
    """The configuration cannot be used."""

    exit_code = 78


class CannotStart(RelayError):
    """What the configuration names cannot be used on this machine; starting again changes nothing."""

    exit_code = 78


class Busy(CannotStart):
    """What the daemon needs belongs to somebody else, or is not there yet; starting again later may work."""

    exit_code = 75


class AlreadyRunning(Busy):
    """Another program, commonly another daemon, uses this database."""


class NoRoom(Busy):
    """The disk is full; starting again works as soon as there is room."""

    ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

    def __init__(self, path: Path) -> None:
        super().__init__(f"There is no room left on the disk of {path}.", remedy="Make room; nothing is damaged.")


class NotPermitted(CannotStart):
    """This user may not use what the daemon needs.

    Without a `remedy` it is to give `path` to this user: a file, or a folder that may have to be made.
    """

    exit_code = 77

    def __init__(self, detail: str, path: Path = Path(), *, remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy or hand_over(path))


class StoreUnavailable(RelayError):
    """The database did not take a write and nothing of it was kept; trying again may work."""


class CommitUnknown(StoreUnavailable):
    """A commit failed, so nobody knows whether the write was kept; repeat it with the same idempotency key."""


class StoreDamaged(RelayError):
    """The database reports an I/O error or corruption; the process must stop."""


class StoreMoved(StoreDamaged):
    """The database is not where it was opened any more: a restart by itself would begin with an empty one."""

    exit_code = 78


class NotFound(RelayError):
    """No such thing, or it belongs to another application."""


class Conflict(RelayError):
    """The request is sound but the present state does not allow it; `code` is a stable slug."""

    def __init__(self, code: str, detail: str, *, remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy)
        self.code = code


def hand_over(path: Path) -> str:
    """Say how to give a file, or a folder that may have to be made, to the user of this process."""
    command = "chown" if os.path.lexists(path) else "install -d -o"
    return f"Run as root: {command} {_user()} {path}"


def _user() -> str:
    """Name the user of this process; by its number if it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
