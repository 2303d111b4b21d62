"""Whether a message tells everything that a document says: the one comparison, of any document with its message.

A leaf is an element's text or an attribute's value. Two things are asked of each, and neither knows the table:

- its value is in the message, as text or as the number that it denotes, as often as in the document;
- another value in its place makes another message. This also covers what is told by the choice of a field
  (`type='fc_host'`), and defaults that would be there anyway.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google.protobuf.message import Message
from lxml import etree

from hostdev.v1 import device_pb2
from hostdevd.virt.xml.nodedev_rules import Message as MessageRule
from hostdevd.virt.xml.nodedev_rules import Rule
from hostdevd.virt.xml.nodedev_table import ROWS

_TOLD = ("name", "parent", "path", "devnodes", "driver")
"""What of the message libvirt's XML says, beside the detail; all else comes from elsewhere or is told twice."""

_ROWS = {row.type: row for row in ROWS}

_CHOOSES = ("type", "validity", "access")
"""Attributes that say what the element is about: they choose a field, and are no value of one."""

_NOTHING = ("0", "-1")
"""How libvirt writes a size, a node or a group that there is not: the field may be absent."""


@dataclass(frozen=True)
class Leaf:
    """A value in a document: the element's number in document order, and the attribute, "" for the text."""

    place: str
    element: int
    attribute: str
    value: str


def lost(xml: str, render: Callable[[str], device_pb2.Device]) -> list[str]:
    """The places of the document whose values the message does not tell."""
    root = etree.fromstring(xml.encode())
    message = render(xml)
    return [*_not_found(root, message), *_without_effect(root, message, render)]


def _said(device: device_pb2.Device) -> device_pb2.Device:
    """The message without what the service computes: where a field is lost, its value may still stand there."""
    said = device_pb2.Device(**{name: getattr(device, name) for name in _TOLD})
    said.other_capabilities.extend(device.other_capabilities)
    kind = device.WhichOneof("detail")
    if kind is not None:
        detail = getattr(said, kind)
        detail.CopyFrom(getattr(device, kind))
        if kind in _ROWS:
            _drop_computed(detail, _ROWS[kind].rules, _ROWS[kind].derived)
    return said


def _drop_computed(message: Message, rules: tuple[Rule, ...], derived: tuple[str, ...]) -> None:
    for name in set(derived) - {rule.name for rule in rules}:
        message.ClearField(name)
    for rule in rules:
        if isinstance(rule, MessageRule) and rule.derived and message.HasField(rule.name):
            _drop_computed(getattr(message, rule.name), rule.rules, rule.derived)


# --- values ----------------------------------------------------------------------------------------------


def _not_found(root: etree._Element, message: device_pb2.Device) -> Iterator[str]:
    told = Counter(_values_of(_said(message)))
    unread = []
    for leaf in _leaves(root):
        if leaf.attribute in _CHOOSES and told[leaf.value.strip()] == 0:
            continue
        if told[leaf.value.strip()] > 0:
            told[leaf.value.strip()] -= 1
        else:
            unread.append(leaf)
    numbers = Counter(number for text in told.elements() for number in _numbers_in(text))
    for leaf in unread:
        found = next((number for number in _denoted(leaf.value) if numbers[number] > 0), None)
        if found is not None:
            numbers[found] -= 1
        elif leaf.value.strip() not in _NOTHING:
            yield f"{leaf.place} = {leaf.value!r} is not in the message"


def _leaves(root: etree._Element) -> Iterator[Leaf]:
    for number, element in enumerate(root.iter(etree.Element)):
        place = root.getroottree().getpath(element)
        for key, value in element.items():
            if value.strip():
                yield Leaf(f"{place}/@{key!s}", number, str(key), str(value))
        if element.text and element.text.strip():
            yield Leaf(place, number, "", element.text)


def _values_of(device: device_pb2.Device) -> Iterator[str]:
    for name in _TOLD:
        value = getattr(device, name)
        yield from [value] if isinstance(value, str) else value
    for other in device.other_capabilities:
        yield from (leaf.value.strip() for leaf in _leaves(etree.fromstring(other.xml)))
    kind = device.WhichOneof("detail")
    if kind == "other":
        # All of the device where the XML has no capability: the name and such stand in it once more.
        yield from (leaf.value.strip() for leaf in _leaves(etree.fromstring(device.other.xml)))
    elif kind is not None:
        yield from _scalars(getattr(device, kind))


def _scalars(message: Message) -> Iterator[str]:
    """Every scalar, those without presence too: 0 is what they tell."""
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        for one in value if field.is_repeated else [value]:
            if isinstance(one, Message):
                yield from _scalars(one)
            else:
                yield str(int(one)) if isinstance(one, bool) else str(one).strip()


_PCI_ADDRESS = re.compile(r"([0-9a-f]{4,}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")


def _numbers_in(text: str) -> list[int]:
    address = _PCI_ADDRESS.fullmatch(text)
    if address is not None:
        return [int(part, 16) for part in address.groups()]
    return [int(text)] if re.fullmatch(r"[0-9]+", text) else []


def _denoted(text: str) -> Iterator[int]:
    """libvirt writes hex with 0x; its schema allows it without, too."""
    digits = text.strip()
    if re.fullmatch(r"[0-9]+", digits):
        yield int(digits)
    if re.fullmatch(r"(0x)?[0-9a-fA-F]+", digits):
        yield int(digits, 16)


# --- effects ---------------------------------------------------------------------------------------------


def _without_effect(
    root: etree._Element, message: device_pb2.Device, render: Callable[[str], device_pb2.Device]
) -> Iterator[str]:
    before = _said(message)
    for leaf in _leaves(root):
        changed = copy.deepcopy(root)
        element = list(changed.iter(etree.Element))[leaf.element]
        if leaf.attribute:
            element.set(leaf.attribute, _another(leaf.value))
        else:
            element.text = _another(leaf.value)
        if _said(render(etree.tostring(changed, encoding="unicode"))) == before:
            yield f"{leaf.place} = {leaf.value!r} makes no difference"


def _another(value: str) -> str:
    # Of the same kind where that is easy: a 1 for any other digit at the end, so that what is read stays a number.
    last = value.rstrip()[-1]
    return value.rstrip()[:-1] + ("2" if last == "1" else "1") if last.isalnum() else f"{value.rstrip()}1"
