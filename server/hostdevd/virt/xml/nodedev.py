"""libvirt's node device XML, read by the table into the core's `NodeDevice`.

Reading never fails: one device that libvirt describes oddly must not hide the others. What cannot be
converted is left out and told as a condition; what no rule of the table asks for is kept as XML.
"""

from __future__ import annotations

from lxml import etree

from hostdevd.core.model import ConditionCode, DeviceCondition, NodeDevice
from hostdevd.virt.xml import nodedev_facts
from hostdevd.virt.xml.nodedev_derived import number
from hostdevd.virt.xml.nodedev_rules import ADDRESS_ATTRIBUTES, Address, Detail, Field, Message, Node, pci_address
from hostdevd.virt.xml.nodedev_table import BY_CAPABILITY, Compiled
from hostdevd.virt.xml.parser import XmlInvalid, parse

_OWN_TEXT = frozenset({"name", "path", "parent"})
_MAIN = [("type", "dev")]
_LINK = [("type", "link")]
_UNKNOWN = Field(".", "")

_SHOWN_CHARS = 80
_KEPT_CHARS = 64 * 1024
"""How much of a document that cannot be read is kept: enough to see what it is, and a list stays small."""

_MOST_CHARS = 256 * 1024
"""More than any device of libvirt's: its message would not fit into a page of a list, and hide the others."""

_MOST_FAULTS = 20


def node_device(xml: str, name: str = "") -> NodeDevice:
    """The device that the XML describes; `name` is what libvirt calls it, used where the XML does not say.

    A document that cannot be read is of type `other` with the condition XML_INVALID.
    """
    if len(xml) > _MOST_CHARS:
        return _unreadable(xml, name, f"{len(xml)} characters of XML, at most {_MOST_CHARS} are read")
    try:
        root = parse(xml)
    except XmlInvalid as error:
        return _unreadable(xml, name, str(error))
    if root.tag != "device":
        return _unreadable(xml, name, f"the document is <{_shown(str(root.tag))}>, not <device>")
    return _Reading(root, name).device()


def _unreadable(xml: str, name: str, message: str) -> NodeDevice:
    kept = xml[:_KEPT_CHARS].encode("utf-8", "replace").decode("utf-8")
    return NodeDevice(
        name=name,
        type="other",
        detail={"type": "", "xml": kept},
        description="device with unreadable XML",
        conditions=(DeviceCondition(ConditionCode.XML_INVALID, message),),
    )


class _Reading:
    """One pass over one document, with what it comes across."""

    def __init__(self, root: etree._Element, name: str) -> None:
        self._root = root
        self._name = name
        self._others: list[tuple[str, str]] = []
        self._room = _MOST_CHARS  # for `_others`: namespaces are told anew in each element that is kept
        self._faults: list[str] = []
        self._failed: set[str] = set()

    def device(self) -> NodeDevice:
        """The whole document."""
        text, links, capabilities, beside = self._children()
        self._name = text.get("name", "").strip() or self._name
        if "name" not in text:
            self._faults.append("the XML has no <name>")
        compiled, detail = self._capability(capabilities, beside)
        main = text.get("devnode")
        devnodes = (main, *links) if main else tuple(links)
        path = text.get("path")
        kind, facts = "other", None
        description = f"device of type {detail.get('type') or 'unknown'}"
        if compiled is not None:
            row = compiled.row
            kind = row.type
            if row.links is not None:
                row.links(detail, devnodes)
            description = row.describe(detail)
            if row.facts is not None:
                facts = row.facts(nodedev_facts.Source(self._name, path, detail))
                if facts is None and not self._faults:
                    self._faults.append(f"<capability type='{row.capability}'> has no usable address")
        return NodeDevice(
            name=self._name,
            type=kind,
            parent=text.get("parent"),
            path=path,
            devnodes=devnodes,
            driver=text.get("driver"),
            facts=facts,
            detail=detail,
            description=description,
            numa_node=number(detail, "numa_node"),
            conditions=self._conditions(),
            other_capabilities=tuple(self._others),
            main_devnode=main,
        )

    def _conditions(self) -> tuple[DeviceCondition, ...]:
        told = self._faults[:_MOST_FAULTS]
        if len(self._faults) > len(told):
            told.append(f"and {len(self._faults) - len(told)} more of such faults")
        return tuple(DeviceCondition(ConditionCode.XML_INVALID, fault) for fault in told)

    # --- the device element --------------------------------------------------------------------------

    def _children(self) -> tuple[dict[str, str], list[str], list[etree._Element], list[etree._Element]]:
        """The device's own text by tag (the main devnode as `devnode`), links, capabilities, and the rest."""
        text: dict[str, str] = {}
        links: list[str] = []
        capabilities: list[etree._Element] = []
        beside: list[etree._Element] = []
        if self._root.attrib:
            self._other(etree.Element("device", {str(key): str(value) for key, value in self._root.items()}))
        for child in self._root:
            tag = child.tag
            if tag == "capability":
                capabilities.append(child)
                continue
            holder, attributes = child, child.items()
            known = tag in _OWN_TEXT
            if tag == "driver" and not attributes and len(child) == 1 and child[0].tag == "name":
                holder = child[0]
                attributes = holder.items()
                known = True
            elif tag == "devnode":
                known = attributes in (_MAIN, _LINK)
            value = holder.text
            value = value.strip() if value else None
            if value and known and attributes == _LINK:
                links.append(value)
            elif value and known:
                known = text.setdefault(tag, value) is value
            if tag == "devnode" and known:
                attributes = []
            # Empty elements say nothing; all else that is not plain known text is for the row, or is kept.
            if attributes or len(holder) or (value and not known):
                beside.append(child)
        return text, links, capabilities, beside

    # --- the capability ------------------------------------------------------------------------------

    def _capability(
        self, capabilities: list[etree._Element], beside: list[etree._Element]
    ) -> tuple[Compiled | None, Detail]:
        """The first capability of a known type, else the first: old libvirt may print several."""
        main = next((element for element in capabilities if element.get("type") in BY_CAPABILITY), None)
        if main is None:
            for child in (*capabilities[1:], *beside):
                self._other(child)
            if not capabilities:
                self._faults.append("the XML has no <capability>")
                return None, {"type": "", "xml": _xml(self._root)}
            return None, {"type": capabilities[0].get("type", ""), "xml": _xml(capabilities[0])}
        for element in capabilities:
            if element is not main:
                self._other(element)
        compiled = BY_CAPABILITY[main.get("type", "")]
        detail: Detail = {}
        for child in beside:
            self._read_child(child, compiled.beside, detail)
        self._read(main, compiled.below, detail)
        row = compiled.row
        if row.derive is not None:
            row.derive(detail)
        self._faults.extend(
            f"<capability type='{row.capability}'> tells no {needed}"
            for needed in row.needed
            if needed not in detail and needed not in self._failed
        )
        return compiled, detail

    def _read(self, element: etree._Element, node: Node, into: Detail) -> None:
        """Fill `into` from the element by the node's rules, and keep what no rule asked for."""
        kept = True
        if node.address is not None:
            kept = self._address(element, node.address, into)
        else:
            for key, value in element.items():
                rule = node.attributes.get(key, _UNKNOWN)  # type: ignore[arg-type]  # parsed: never bytes
                if rule is not None:
                    kept = self._fill(element, rule, value, into, key) and kept  # type: ignore[arg-type]
        text = element.text
        if text and not text.isspace():
            kept = self._fill(element, node.leaf or _UNKNOWN, text, into) and kept
        if node.present is not None:
            kept = kept and node.present.name not in into
            into[node.present.name] = True
        children = node.children
        for child in element:
            step = children.get(child.tag)
            # The short way for most elements: text alone, for a field that is not filled yet.
            if step is not None and step.plain is not None and not child.items() and not len(child):
                text = child.text
                if text and not self._fill(child, step.plain, text, into):
                    self._other(child)
            else:
                self._read_child(child, node, into)
        if not kept:
            self._other(element)

    def _read_child(self, child: etree._Element, node: Node, into: Detail) -> None:
        step = node.children.get(child.tag)
        if step is None and child.tag in node.chosen:
            key, by_value = node.chosen[child.tag]
            step = by_value.get(child.get(key, ""))
        if step is None:
            self._other(child)
            return
        message = step.message
        if message is None:
            self._read(child, step, into)
            return
        if message.name in into and not message.many:
            self._other(child)
            return
        below: Detail = {}
        _put(into, message, below)
        self._read(child, step, below)
        if message.derive is not None:
            message.derive(below)

    def _fill(self, element: etree._Element, rule: Field, text: str, into: Detail, key: str = "") -> bool:
        """Whether the text has found its place: not without a rule, a free field, and a value that fits."""
        if rule is _UNKNOWN or (rule.name in into and not rule.many):
            return False
        try:
            value = rule.read(text)
        except ValueError as error:
            self._fault(f"{element.tag} {key}".strip(), rule.name, text, error)
            return False
        if value is not None:
            _put(into, rule, value)
        return True

    def _address(self, element: etree._Element, rule: Address, into: Detail) -> bool:
        if rule.name in into and not rule.many:
            return False
        try:
            value = pci_address(element.get)
        except ValueError as error:
            self._fault(str(element.tag), rule.name, _xml(element), error)
            return False
        _put(into, rule, value)
        return ADDRESS_ATTRIBUTES.issuperset(element.keys())

    def _fault(self, place: str, name: str, text: str, error: ValueError) -> None:
        self._faults.append(f"<{place}> is {_shown(text)!r}: {error}")
        self._failed.add(name)

    def _other(self, element: etree._Element) -> None:
        kind = element.get("type", "") if element.tag == "capability" else str(element.tag)
        if self._room < 0:
            self._faults.append(f"<{_shown(str(element.tag))}> is left out: there is more of such XML than is kept")
            return
        xml = _xml(element)
        self._room -= len(xml)
        self._others.append((kind, xml))


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def _put(into: Detail, rule: Field | Address | Message, value: object) -> None:
    if not rule.many:
        into[rule.name] = value
        return
    found = into.setdefault(rule.name, [])
    if isinstance(found, list):
        found.append(value)


def _xml(element: etree._Element) -> str:
    return etree.tostring(element, encoding="unicode", with_tail=False)
