"""The language of the node device table: rules that say which place in the XML fills which API field.

A rule's path is the part of XPath that libvirt's documents need: steps of `tag` or `tag[@key='value']`,
a last step `@name` for an attribute, `.` for the element itself, and a first step `..` for what stands
beside the capability (the table keeps those rules apart and compiles them for the device element). Rules
are compiled once into a tree that is walked along with the document, so that reading takes one pass, and
what no rule asked for is noticed in that same pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hostdevd.core.addresses import PciAddress

Detail = dict[str, object]
Reader = Callable[[str], object]
"""Text to a field's value; None leaves the field absent, ValueError means that the text is no such value."""

UINT32 = 2**32 - 1
UINT64 = 2**64 - 1


# --- readers -----------------------------------------------------------------------------------------


def text(value: str) -> str | None:
    """Text as it stands: serials and versions are no numbers. Nothing but white space is absent."""
    return value if value.strip() else None


def decimal(limit: int = UINT32) -> Callable[[str], int]:
    """A number in decimal, as libvirt writes most."""

    def read(value: str) -> int:
        return _number(value.strip(), 10, limit)

    return read


def hexadecimal(limit: int) -> Callable[[str], int]:
    """A number in hex, with or without 0x: libvirt's schema allows both in ids and addresses."""

    def read(value: str) -> int:
        return _number(value.strip().removeprefix("0x"), 16, limit)

    return read


def either(limit: int) -> Callable[[str], int]:
    """A number in hex with 0x, in decimal without: what libvirt's schema allows on s390."""

    def read(value: str) -> int:
        digits = value.strip()
        return _number(digits[2:], 16, limit) if digits.startswith("0x") else _number(digits, 10, limit)

    return read


def known_size(value: str) -> int | None:
    """A size in bytes; 0 is what libvirt writes when there is no medium to measure."""
    return _number(value.strip(), 10, UINT64) or None


def numa_node(value: str) -> int | None:
    """A NUMA node; the kernel's -1 means none."""
    return None if value.strip() == "-1" else _number(value.strip(), 10, UINT32)


def zero_or_one(value: str) -> bool:
    """`0` or `1`."""
    return bool(_number(value.strip(), 10, 1))


def _number(digits: str, base: int, limit: int) -> int:
    # int() alone would take signs, underscores, a prefix and the digits of every script.
    if not (digits.isascii() and digits.isalnum()) or "x" in digits:
        raise ValueError(_NO_NUMBER[base])
    try:
        number = int(digits, base)
    except ValueError:
        raise ValueError(_NO_NUMBER[base]) from None
    if number > limit:
        raise ValueError(f"more than {limit}")
    return number


_NO_NUMBER = {10: "not a number", 16: "not a hexadecimal number"}

_ADDRESS_PARTS = tuple((name, hexadecimal(limit)) for name, limit in
                       (("domain", UINT32), ("bus", 255), ("slot", 31), ("function", 7)))  # fmt: skip


ADDRESS_ATTRIBUTES = frozenset(name for name, _ in _ADDRESS_PARTS)


def pci_address(attribute: Callable[[str, str], str]) -> str:
    """The attributes of an `<address>` as people write it, `0000:05:01.0`."""
    domain, bus, slot, function = (read(attribute(name, "")) for name, read in _ADDRESS_PARTS)
    return str(PciAddress(domain, bus, slot, function))


# --- rules -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """An element's text or an attribute fills a field; `many` collects all into a repeated one."""

    path: str
    name: str
    read: Reader = text
    many: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """An element's `domain`, `bus`, `slot` and `function` attributes fill a field with the address as text."""

    path: str
    name: str
    many: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """The element's mere presence sets a bool."""

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class Message:
    """An element fills a nested message; `derive` adds what is computed, the fields named in `derived`."""

    path: str
    name: str
    rules: tuple[Rule, ...]
    many: bool = False
    derive: Callable[[Detail], None] | None = None
    derived: tuple[str, ...] = ()


Rule = Field | Address | Present | Message


# --- compiled ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Node:
    """What to do at one place of the document; built by `compile_rules`, then only read."""

    leaf: Field | None = None
    address: Address | None = None
    present: Present | None = None
    message: Message | None = None
    plain: Field | None = None  # the leaf, where the element has nothing but text
    attributes: dict[str, Field | None] = field(default_factory=dict)  # None: read by a step's condition
    children: dict[str, Node] = field(default_factory=dict)
    chosen: dict[str, tuple[str, dict[str, Node]]] = field(default_factory=dict)

    def child(self, tag: str, key: str | None, value: str | None) -> Node:
        """The node of a step, made when it is new."""
        if key is None or value is None:
            return self.children.setdefault(tag, Node())
        known, by_value = self.chosen.setdefault(tag, (key, {}))
        if known != key:
            raise ValueError(f"<{tag}> is told apart by @{known} and by @{key}")
        return by_value.setdefault(value, Node(attributes={key: None}))


_STEP = re.compile(r"([\w-]+)(?:\[@(\w+)='([^']+)'\])?")


def compile_rules(rules: Iterable[Rule]) -> Node:
    """One tree for all rules of a capability; ValueError for a path outside the language."""
    root = Node(attributes={"type": None})
    for rule in rules:
        _add(root, rule)
    _mark_plain(root)
    return root


def _mark_plain(node: Node) -> None:
    below = [*node.children.values(), *(step for _, steps in node.chosen.values() for step in steps.values())]
    if not below and not node.attributes and node.message is None:
        node.plain = node.leaf
    for step in below:
        _mark_plain(step)


def _add(root: Node, rule: Rule) -> None:
    node = root
    *steps, last = rule.path.split("/")
    if not last.startswith("@"):
        steps.append(last)
    for step in steps:
        if step in {".", ".."}:
            continue
        match = _STEP.fullmatch(step)
        if match is None:
            raise ValueError(f"not a step: {step!r} in {rule.path!r}")
        node = node.child(*match.groups())
    if isinstance(rule, Message):
        node.message = rule
        for nested in rule.rules:
            _add(node, nested)
    elif isinstance(rule, Address):
        node.address = rule
    elif isinstance(rule, Present):
        node.present = rule
    elif last.startswith("@"):
        node.attributes[last[1:]] = rule
    else:
        node.leaf = rule
