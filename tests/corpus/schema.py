"""Which places of a node device document libvirt's schema allows that the table has no rule for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lxml import etree

from hostdevd.virt.xml.nodedev_rules import ADDRESS_ATTRIBUTES, Node
from hostdevd.virt.xml.nodedev_table import BY_CAPABILITY, Compiled

RNG = "{http://relaxng.org/ns/structure/1.0}"

READ_WITHOUT_A_RULE = {"name", "path", "parent", "devnode", "devnode/@type", "driver/name"}
"""What every device has beside its capability."""

Attribute = tuple[str, frozenset[str]]
"""The name and the values that the schema lists, none where it allows others."""


@dataclass(frozen=True)
class Shape:
    """One of the ways in which an element's content may look, with all that is optional."""

    attributes: frozenset[Attribute] = frozenset()
    elements: frozenset[etree._Element] = frozenset()
    text: bool = False

    def __or__(self, other: Shape) -> Shape:
        return Shape(self.attributes | other.attributes, self.elements | other.elements, self.text or other.text)

    def values(self, attribute: str) -> list[str]:
        """What the schema lists for an attribute."""
        return sorted(value for name, values in self.attributes if name == attribute for value in values)


class Schema:
    """A Relax NG grammar in its XML form, with what it includes."""

    def __init__(self, path: Path) -> None:
        self._defined: dict[str, etree._Element] = {}
        self._start = self._read(path)

    def _read(self, path: Path) -> etree._Element | None:
        grammar = etree.parse(path).getroot()
        for included in grammar.iter(f"{RNG}include"):
            self._read(path.parent / included.get("href", ""))
        for define in grammar.iter(f"{RNG}define"):
            self._defined[define.get("name", "")] = define
        return grammar.find(f"{RNG}start")

    def device(self) -> etree._Element:
        """The pattern of the root element."""
        assert self._start is not None
        (shape,) = self.shapes(self._start)
        (root,) = shape.elements
        return root

    def shapes(self, pattern: etree._Element) -> set[Shape]:
        """The ways in which the content of a pattern may look."""
        return self._together(pattern.iterchildren(f"{RNG}*"))

    def _together(self, patterns: Iterable[etree._Element]) -> set[Shape]:
        merged = {Shape()}
        for pattern in patterns:
            merged = {one | other for one, other in product(merged, self._shapes_of(pattern))}
        return merged

    def _shapes_of(self, pattern: etree._Element) -> set[Shape]:
        kind = str(pattern.tag).removeprefix(RNG)
        if kind == "element":
            return {Shape(elements=frozenset({pattern}))}
        if kind == "attribute":
            values = frozenset(value.text or "" for value in pattern.iter(f"{RNG}value"))
            return {Shape(attributes=frozenset({(pattern.get("name", ""), values)}))}
        if kind == "ref":
            return self.shapes(self._defined[pattern.get("name", "")])
        if kind == "choice":
            return {shape for alternative in pattern for shape in self._shapes_of(alternative)}
        if kind in {"text", "data", "value", "list"}:
            return {Shape(text=True)}
        if kind in {"group", "interleave", "optional", "zeroOrMore", "oneOrMore", "empty"}:
            return self.shapes(pattern)
        raise ValueError(f"the schema uses <{kind}>: this walk must learn it")


def uncovered(schema: Schema) -> list[str]:
    """Every place that the schema allows and the table does not read."""
    return sorted(set(_device(schema)))


def _device(schema: Schema) -> Iterator[str]:
    for shape in schema.shapes(schema.device()):
        for element in shape.elements:
            tag = element.get("name", "")
            for inner in schema.shapes(element):
                if tag == "capability":
                    yield from _capability(schema, inner)
                else:
                    # A rule beside one type of capability is enough: the schema does not tell them apart here.
                    missing = [set(_missing(schema, inner, _step(row, tag), tag)) for row in BY_CAPABILITY.values()]
                    yield from set.intersection(*missing) - READ_WITHOUT_A_RULE


def _step(row: Compiled, tag: str) -> Node:
    return row.beside.children.get(tag, Node())


def _capability(schema: Schema, shape: Shape) -> Iterator[str]:
    for kind in shape.values("type"):
        place = f"capability[@type='{kind}']"
        row = BY_CAPABILITY.get(kind)
        if row is None:
            yield place
        else:
            yield from _missing(schema, shape, row.below, place)


def _missing(schema: Schema, shape: Shape, node: Node, place: str) -> Iterator[str]:
    for name, _ in shape.attributes:
        if name not in node.attributes and not (node.address and name in ADDRESS_ATTRIBUTES):
            yield f"{place}/@{name}"
    if shape.text and node.leaf is None:
        yield place
    for element in shape.elements:
        tag = element.get("name", "")
        for inner in schema.shapes(element):
            for step, below in _steps(node, tag, inner):
                if below is None:
                    yield f"{place}/{step}"
                else:
                    yield from _missing(schema, inner, below, f"{place}/{step}")


def _steps(node: Node, tag: str, shape: Shape) -> Iterator[tuple[str, Node | None]]:
    """Where the table goes on with such an element: several places where an attribute chooses."""
    if tag in node.chosen:
        key, by_value = node.chosen[tag]
        for value in shape.values(key):
            yield f"{tag}[@{key}='{value}']", by_value.get(value)
    else:
        yield tag, node.children.get(tag)
