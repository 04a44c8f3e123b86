"""The body as a contract file has it: its kind, and its members in their order."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from relay.contracts import as_form, as_xml
from relay.contracts.facts import INNER, Fact
from relay.contracts.fields import GAP_VARIABLES
from relay.contracts.tree import Node, Text, texts
from relay.contracts.values import MemberJson, MemberValue, Table, mistake

SPREAD = "..."
"""The name of a body's member in whose place the members of `data` stand themselves."""


class Member(Table):
    """One member of the body: a member of an object, an item of an array, a field, or an element."""

    name: str = ""
    value: MemberValue | None = None
    json_text: MemberJson | None = Field(default=None, alias="json")
    optional: bool = False  # left out if the event lacks what it is made of

    @field_validator("value")
    @classmethod
    def _spreads_data(cls, value: Node | None, info: ValidationInfo) -> Node | None:
        if info.data.get("name") == SPREAD and _spread_fact(value) is None:
            raise mistake("only {data} has members that can stand here", 'Write value = "{data}".')
        return value

    @field_validator("json_text")
    @classmethod
    def _is_all(cls, json_text: Node | None, info: ValidationInfo) -> Node | None:
        if info.data.get("value") is not None or info.data.get("name") == SPREAD:
            raise mistake("a member has either a value or json", 'Keep one, such as value = "{data}".')
        return json_text

    @property
    def node(self) -> Node:
        """What it is made of."""
        node = self.json_text if self.value is None else self.value
        assert node is not None
        return node

    @property
    def is_spread(self) -> bool:
        return self.name == SPREAD

    @property
    def spread_fact(self) -> Fact:
        """Where the members stand that take its place."""
        fact = _spread_fact(self.value)
        assert fact is not None
        return fact


def _spread_fact(node: Node | None) -> Fact | None:
    return Fact.of(node.variable) if isinstance(node, Text) and node.variable is not None else None


class Body(Table):
    """The body's members, in the order in which they are sent."""

    kind: Literal["object", "array", "form", "xml", "data"] = "object"
    mode: Literal["verbatim", "js"] = "verbatim"
    numbers: Literal["refuse", "round"] | None = (
        None  # what becomes of numbers that JavaScript would change; with mode "js" only
    )
    nested: as_form.Nested | None = None  # how objects and arrays are fields; with kind "form" only
    root: str | None = None  # the name of the outermost element; with kind "xml" only
    declaration: bool | None = None  # whether an XML declaration comes first; with kind "xml" only
    members: Annotated[tuple[Member, ...], Field(validate_default=True)] = ()

    @field_validator("mode")
    @classmethod
    def _of_json(cls, mode: str, info: ValidationInfo) -> str:
        if mode == "js" and info.data.get("kind") in ("form", "xml"):
            raise mistake('mode = "js" is about JSON', "Remove it, or choose another kind.")
        return mode

    @field_validator("numbers")
    @classmethod
    def _acts(cls, numbers: str | None, info: ValidationInfo) -> str | None:
        if numbers is not None and info.data.get("mode") == "verbatim":
            raise mistake('mode = "verbatim" changes no number', 'Remove it, or set mode = "js".')
        return numbers

    @field_validator("nested", "root", "declaration")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = "form" if info.field_name == "nested" else "xml"
        if value is not None and info.data.get("kind", kind) != kind:
            raise mistake(f"only bodies of the kind {kind} have it", f'Remove it, or set kind = "{kind}".')
        if info.field_name == "root" and value is not None and not as_xml.NAME.fullmatch(value):
            raise mistake(f"{value!r} is no name of an XML element", "Use letters, digits, _, - and dots.")
        return value

    @field_validator("members")
    @classmethod
    def _can_be_written(cls, members: tuple[Member, ...], info: ValidationInfo) -> tuple[Member, ...]:
        kind = info.data.get("kind", "object")
        if kind == "data":
            if members:
                raise mistake('the kind "data" has no members: its body is the data', "Remove them.")
            return members
        for member in members:
            _check_member(member, kind)
        names = [member.name for member in members if kind != "array"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise mistake(f"the member {twice[0]!r} is there twice", "Rename or remove one.")
        if not any(True for member in members for _ in facts_of(member.node)):
            raise mistake(
                "no member carries what the producer sent",
                'Give one the value "{data}", or a part such as "{data.id}".',
            )
        return members

    @property
    def own_names(self) -> frozenset[str]:
        """The names that are the contract's: none of the members that are spread may have one."""
        return frozenset(member.name for member in self.members if not member.is_spread)


def facts_of(node: Node) -> Iterator[Fact]:
    """Yield what the texts of a node take from an event's data and metadata."""
    return (fact for fact in map(Fact.of, _variables_of(node)) if fact is not None)


def gaps_of(node: Node) -> Iterator[str]:
    """Yield the variables that only an attempt can write."""
    return (name for name in _variables_of(node) if name in GAP_VARIABLES or name.startswith(INNER))


def _variables_of(node: Node) -> Iterator[str]:
    return (part for text in texts(node) for part in text.template.parts if isinstance(part, str))


def _check_member(member: Member, kind: str) -> None:
    if member.value is None and member.json_text is None:
        raise mistake(f"the member {member.name!r} has no value", 'Add one, such as value = "{data}".')
    if kind == "array":
        if member.name not in ("", SPREAD):
            raise mistake(f"items of an array have no name such as {member.name!r}", "Remove it.")
    elif not member.name:
        raise mistake("a member has no name", 'Add one, such as name = "data".')
    elif kind == "xml" and not member.is_spread:
        for name in as_xml.unfit_names(member.name, member.node):
            raise mistake(f"{name!r} is no name of an XML element", "Use letters, digits, _, - and dots.")
        if member.name == as_xml.TEXT:
            raise mistake("#text stands inside an element", "Put it into the value of a member.")
