"""libvirt's test-driver node file: `<node>` with `<domain>` and `<device>` elements.

    <node>
      <domain type='kvm' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
        <test:runstate>5</test:runstate>        shut off; 1 running (the default), 3 paused, 7 suspended
        <test:transient/>                       not with runstate 5
        <test:hasManagedSave/>
        <name>spare</name> ...
      </domain>
      <network><name>vf-pool</name><forward mode='hostdev'><pf dev='eth1'/></forward></network>    active
      <device><name>computer</name> ... </device>
    </node>

Each element may name another file instead: `<device file='nic.xml'/>`, relative to this one. Unlike the
test driver, `<driver>` in a device and `<hostdev>` in a domain count. A network with
forward mode hostdev has a pool, of which guests get functions when they start. Other elements of the test
driver (storage pools) are skipped.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from hostdevd.core.model import VmState

TEST_NAMESPACE = "http://libvirt.org/schemas/domain/test/1.0"

_RUN_STATES = {
    "1": VmState.RUNNING,
    "2": VmState.RUNNING,
    "3": VmState.PAUSED,
    "4": VmState.RUNNING,
    "5": VmState.SHUT_OFF,
    "6": VmState.CRASHED,
    "7": VmState.SUSPENDED,
}
"""`virDomainState`: 2 is blocked, 4 is shutting down; both still have their guest."""

_NAMESPACE = uuid.UUID("6b1f8f43-5d0c-4f4e-9a2b-6f1d7c1c0e55")
"""For domains and networks without a UUID: the same name gets the same UUID at every start."""


@dataclass(frozen=True, slots=True)
class FileDomain:
    """A domain of the file; `xml` is without the test driver's own elements."""

    name: str
    uuid: str
    xml: str
    state: VmState
    persistent: bool
    managed_save: bool


@dataclass(frozen=True, slots=True)
class FileNetwork:
    """A network of the file; all of them are active."""

    name: str
    uuid: str
    xml: str


@dataclass(frozen=True, slots=True)
class NodeFile:
    """What the file says."""

    devices: tuple[str, ...]
    domains: tuple[FileDomain, ...]
    networks: tuple[FileNetwork, ...]


def read_node_file(path: Path) -> NodeFile:
    """Read the file; ValueError naming file, line and fault when it is not a node file."""
    root = _document(path, f"{path}")
    if root.tag != "node":
        raise ValueError(f"{path}:{root.sourceline}: the root element is <{root.tag}>, not <node>")
    devices = tuple(_device(element, place) for element, place in _elements(path, root, "device"))
    domains = tuple(_domain(element, place) for element, place in _elements(path, root, "domain"))
    networks = tuple(_network(element, place) for element, place in _elements(path, root, "network"))
    _refuse_twice(path, "device", [name for name, _ in devices])
    _refuse_twice(path, "domain", [domain.name for domain in domains])
    _refuse_twice(path, "domain UUID", [domain.uuid for domain in domains])
    _refuse_twice(path, "network", [network.name for network in networks])
    return NodeFile(tuple(xml for _, xml in devices), domains, networks)


def _document(path: Path, place: str) -> etree._Element:
    # Without the bound on size of what comes from libvirt: thousands of devices in one file are welcome.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(path.read_bytes(), parser)
    except OSError as error:
        raise ValueError(f"{place}: cannot be read: {error.strerror}") from error
    except etree.XMLSyntaxError as error:
        raise ValueError(f"{place}:{error.lineno}: malformed XML: {error.msg}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise ValueError(f"{place}: a DOCTYPE is refused")
    return root


def _elements(path: Path, root: etree._Element, tag: str) -> Iterator[tuple[etree._Element, str]]:
    for element in root.iterfind(tag):
        place = f"{path}:{element.sourceline}"
        other = element.get("file")
        if other is None:
            yield element, place
            continue
        inner = path.parent / other
        found = _document(inner, f"{place}: {inner}")
        if found.tag != tag:
            raise ValueError(f"{inner}:{found.sourceline}: the root element is <{found.tag}>, not <{tag}>")
        yield found, f"{inner}:{found.sourceline}"


def _device(element: etree._Element, place: str) -> tuple[str, str]:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{place}: the <device> has no <name>")
    if element.find("capability") is None:
        raise ValueError(f"{place}: device {name!r} has no <capability>")
    return name, _text(element)


def _domain(element: etree._Element, place: str) -> FileDomain:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{place}: the <domain> has no <name>")
    place = f"{place}: domain {name!r}"
    run_state = (element.findtext(f"{{{TEST_NAMESPACE}}}runstate") or "1").strip()
    if run_state not in _RUN_STATES:
        raise ValueError(f"{place}: <test:runstate> is {run_state!r}, not a number from 1 to 7")
    state = _RUN_STATES[run_state]
    transient = element.find(f"{{{TEST_NAMESPACE}}}transient") is not None
    if transient and not state.active:
        raise ValueError(f"{place}: a transient domain cannot be shut off")
    managed_save = element.find(f"{{{TEST_NAMESPACE}}}hasManagedSave") is not None
    if managed_save and state.active:
        raise ValueError(f"{place}: a running domain has no managed save image")
    for own in element.findall(f"{{{TEST_NAMESPACE}}}*"):
        element.remove(own)
    return FileDomain(name, _uuid(element, name, place), _text(element), state, not transient, managed_save)


def _network(element: etree._Element, place: str) -> FileNetwork:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{place}: the <network> has no <name>")
    return FileNetwork(name, _uuid(element, name, f"{place}: network {name!r}"), _text(element))


def _uuid(element: etree._Element, name: str, place: str) -> str:
    told = element.find("uuid")
    if told is None:
        found = uuid.uuid5(_NAMESPACE, name)
        told = etree.Element("uuid")
        element.insert(1, told)
    else:
        try:
            found = uuid.UUID((told.text or "").strip())
        except ValueError:
            raise ValueError(f"{place}: <uuid> is {told.text!r}, not a UUID") from None
    told.text = str(found)
    return told.text


def _refuse_twice(path: Path, kind: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{path}: there are two entries of {kind} {name!r}")
        seen.add(name)


def _text(element: etree._Element) -> str:
    element.tail = None
    etree.cleanup_namespaces(element)
    return etree.tostring(element, encoding="unicode")
