"""The body of an event: the contract's members in their order, with the producer's bytes in their place."""

from collections.abc import Callable, Mapping

from relay.contracts.document import SPREADS, Body
from relay.contracts.fields import RENDERING_READERS, Rendering
from relay.contracts.js import LossyNumber, NotJson, canonical
from relay.contracts.payload import Payload
from relay.core.issues import Invalid, Issue, pointer

_SHOWN_CHARACTERS = 40


class Unrenderable(Invalid):
    """These data cannot be put into the contract's body; its one issue points into them."""

    def __init__(self, issue: Issue, *, lossy: bool = False) -> None:
        super().__init__([issue])
        self.lossy = lossy  # a number would become another one


class Envelope:
    """Renders bodies. Immutable."""

    def __init__(self, body: Body) -> None:
        self.template = body.template
        self._js = body.mode == "js"
        self._numbers = body.numbers or "refuse"
        self._own_names = frozenset(member.name for member in body.members if not member.is_spread)
        (carrier,) = (member for member in body.members if "data" in member.value.variables)
        self._place = "" if carrier.is_spread else pointer(carrier.name)
        self._readers = tuple((name, self._reader(name)) for name in sorted(self.template.variables))

    def render(self, event: Rendering) -> bytes:
        """Return the body; Unrenderable if the data do not fit in it."""
        body = self.template.render({name: read(event) for name, read in self._readers})
        return self._canonical(body) if self._js else body

    def normalised(self, data: Payload) -> bytes:
        """Return the data as this body carries them: what differs in blanks alone is the same to a mode that drops them."""
        return canonical(data.raw, numbers="round") if self._js else data.raw

    def _canonical(self, body: bytes) -> bytes:
        try:
            return canonical(body, numbers=self._numbers)
        except LossyNumber as lossy:
            shown = lossy.literal[:_SHOWN_CHARACTERS] + ("…" if len(lossy.literal) > _SHOWN_CHARACTERS else "")
            sentence = f"the number {shown} would be another one in JavaScript, so it cannot be signed; send it as text"
            raise Unrenderable(Issue(lossy.pointer.removeprefix(self._place), sentence), lossy=True) from None
        except NotJson as error:
            raise Unrenderable(Issue("", str(error))) from None

    def _reader(self, variable: str) -> Callable[[Rendering], bytes]:
        if variable not in SPREADS:
            return RENDERING_READERS[variable]
        before, after = b"," * variable.startswith(","), b"," * variable.endswith(",")
        return lambda event: self._spread(event.data, before, after)

    def _spread(self, data: Payload, before: bytes, after: bytes) -> bytes:
        members = data.members
        if members is None:
            raise Unrenderable(Issue("", "must be an object: its members become those of the body"))
        self._refuse_taken(members)
        inside = data.raw.strip(b" \t\r\n")[1:-1].strip(b" \t\r\n")
        return before + inside + after if inside else b""

    def _refuse_taken(self, members: Mapping[str, object]) -> None:
        for name in members:
            if name in self._own_names:
                raise Unrenderable(Issue(pointer(name), "is set by the contract; leave it out"))
