"""What is no longer in the configuration file, and holds deliveries until somebody decides: put it back, or delete it.

A mistyped id looks the same as a removed table, and must not destroy a backlog (Q11). So what vanished is named with what
waits there, until it is done; and where something new in the file has the same URL, it was probably renamed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relay.core.issues import Issue
from relay.core.model import Endpoint, Origin
from relay.registry.registry import Registry


@dataclass(frozen=True, slots=True)
class Vanished:
    """An application or endpoint of the file that the file has no more."""

    kind: str  # "application" or "endpoint"
    id: str
    application: str
    due: int  # deliveries that wait there
    renamed_to: str | None  # what has its URL now, or None

    def to_issue(self) -> Issue:
        """Return the warning that it is, with what to do."""
        whose = f" of application {self.application!r}" if self.kind == "endpoint" else ""
        waits = {0: "nothing waits there", 1: "1 delivery waits there"}.get(
            self.due, f"{self.due:,} deliveries wait there"
        )
        message = f"{self.kind} {self.id!r}{whose} is no longer in the configuration file; {waits}"
        if self.renamed_to is None:
            return Issue("", message, f"Put it back and reload, or delete it: {self._delete}.", warning=True)
        remedy = (
            f"Was it renamed to {self.renamed_to!r}, which has its URL? Give it its id back and reload, or delete the old "
            f"one: {self._delete}."
        )
        return Issue("", message, remedy, warning=True)

    @property
    def _delete(self) -> str:
        if self.kind == "application":
            return f"`relay app delete {self.id}`"
        return f"`relay endpoint delete {self.id}`"


def vanished(registry: Registry, due_count: Callable[[int], int]) -> list[Vanished]:
    """List what vanished from the file, applications first; endpoints of a vanished application go with it. O(endpoints)"""
    gone = [endpoint for endpoint in registry.endpoints.values() if _is_gone(endpoint)]
    empty = [entry for entry in registry.applications.values() if not entry.application.present]
    if not gone and not empty:
        return []
    heirs = {
        endpoint.url: endpoint
        for endpoint in registry.endpoints.values()
        if endpoint.origin is Origin.FILE and not _is_gone(endpoint)
    }
    return [*_applications(registry, heirs, due_count), *_endpoints(gone, heirs, due_count)]


def _applications(
    registry: Registry, heirs: dict[str, Endpoint], due_count: Callable[[int], int]
) -> Iterator[Vanished]:
    for name, entry in registry.applications.items():
        if entry.application.present:
            continue
        due = sum(map(due_count, entry.endpoints))
        heir = next((heirs[one.url] for one in entry.endpoints.values() if one.url in heirs), None)
        yield Vanished("application", name, name, due, None if heir is None else heir.application.id)


def _endpoints(gone: list[Endpoint], heirs: dict[str, Endpoint], due_count: Callable[[int], int]) -> Iterator[Vanished]:
    for endpoint in gone:
        if endpoint.application.present:
            heir = heirs.get(endpoint.url)
            is_heir = heir is not None and heir.application.id == endpoint.application.id
            renamed_to = heir.id if heir is not None and is_heir else None
            yield Vanished("endpoint", endpoint.id, endpoint.application.id, due_count(endpoint.ref), renamed_to)


def _is_gone(endpoint: Endpoint) -> bool:
    return not (endpoint.present and endpoint.application.present)
