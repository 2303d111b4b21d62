"""A domain's XML, the live or the inactive one, read for what takes host devices.

Nothing makes this fail: another tool's domain that libvirt accepted must not hide all others. What cannot be
read of a document is left out; a document that cannot be read is a `gap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lxml import etree

from hostdevd.core.addresses import BlockPath, DeviceSource
from hostdevd.core.model import DomainDef, DomainEntry, HolderRole, HolderVia
from hostdevd.virt.xml import sources
from hostdevd.virt.xml.hardware import guest_hardware
from hostdevd.virt.xml.parser import XmlInvalid, parse

_ALIAS_CHARS = 256
_MOST_DEVICES = 8192
"""Some times what the slots of a guest take: reading them is a second's work, and not for ever somebody's to add to."""

EntryReader = Callable[[etree._Element], Iterator[DomainEntry]]


def domain_def(xml: str, pool_macs: frozenset[str] = frozenset()) -> DomainDef:
    """What the definition takes and has; of text that is not a domain's XML, why it is none. Never raises.

    `pool_macs` are the MAC addresses that the inactive definition has on libvirt networks
    (`network_macs`). libvirt 9.0.0 shows a function from a network's pool in the live XML as a plain
    `<interface type='hostdev'>`; only the MAC tells it from one that the definition names itself.
    """
    try:
        root = parse(xml)
    except XmlInvalid as error:
        return DomainDef(gap=str(error))
    if root.tag != "domain":
        return DomainDef(gap="libvirt's description of it is not one of a domain")
    devices = root.find("devices")
    if devices is None:
        return DomainDef()
    if len(devices) > _MOST_DEVICES:
        return DomainDef(gap=f"it has {len(devices)} devices, at most {_MOST_DEVICES} are read")
    return DomainDef(
        entries=tuple(
            _from_pool(entry) if entry.via is HolderVia.INTERFACE and _mac(element) in pool_macs else entry
            for element in devices
            for entry in _entries(element)
        ),
        hardware=guest_hardware(root),
    )


def find_element(root: etree._Element, entry: DomainEntry) -> etree._Element | None:
    """The element of a domain's document behind an entry, None when it is not there."""
    devices = root.find("devices") if root.tag == "domain" else None
    for element in devices if devices is not None else ():
        if any((found.source, found.alias) == (entry.source, entry.alias) for found in _entries(element)):
            return element
    return None


def entry_xml(xml: str, entry: DomainEntry) -> str | None:
    """The same as text. For entries without an alias: libvirt keeps only user aliases in inactive definitions.

    None as well for what does not read back as that entry: libvirt would take away something else.
    """
    try:
        element = find_element(parse(xml), entry)
        if element is None:
            return None
        told = etree.tostring(element, encoding="unicode", with_tail=False)
        again = list(_entries(parse(told)))
    except XmlInvalid:
        return None
    return told if again == list(_entries(element)) else None


def network_macs(xml: str) -> frozenset[str]:
    """The MAC addresses of a definition's interfaces on libvirt networks."""
    try:
        interfaces = parse(xml).iterfind("devices/interface[@type='network']")
    except XmlInvalid:
        return frozenset()
    return frozenset(mac for mac in map(_mac, interfaces) if mac is not None)


def is_running_xml(xml: str) -> bool:
    """Whether this is the XML of a domain that has a guest: libvirt then gives it an id.

    True for what cannot be read: a guest that may be there holds what it holds.
    """
    try:
        return parse(xml).get("id") is not None
    except XmlInvalid:
        return True


def hostdev_entry(hostdev: etree._Element) -> DomainEntry | None:
    """What one `<hostdev>` takes; None for a kind that names no device that is known here."""
    return next(_hostdev(hostdev), None)


# --- one reader for each element that may take a device ----------------------------------------------


def _hostdev(element: etree._Element) -> Iterator[DomainEntry]:
    source = element.find("source")
    read = sources.HOSTDEV.get(element.get("type", ""))
    if source is None or read is None or element.get("mode", "subsystem") != "subsystem":
        return
    yield from _entry(HolderVia.HOSTDEV, element, element.get("managed"), read(source))


def _interface(element: etree._Element) -> Iterator[DomainEntry]:
    # The status form has `<actual type='hostdev'>` below the network interface, the live form replaces
    # the type; some versions keep the network's name at the source.
    actual = element.find("actual")
    place = element if actual is None else actual
    source = place.find("source")
    if place.get("type") != "hostdev" or source is None:
        return
    pool = actual is not None or source.get("network") is not None
    via = HolderVia.NETWORK_POOL if pool else HolderVia.INTERFACE
    yield from _entry(via, element, place.get("managed"), sources.pci(source))


def _disk(element: etree._Element) -> Iterator[DomainEntry]:
    # A chain of backing stores and a running copy's mirror hold their devices as the disk itself does.
    seen: set[DeviceSource] = set()
    for layer in element.iter("disk", "backingStore", "mirror"):
        source = layer.find("source")
        read = sources.DISK.get(layer.get("type", ""))
        taken = None if source is None or read is None else read(source)
        if source is not None and taken is not None and taken not in seen:
            seen.add(taken)
            yield from _entry(HolderVia.DISK, element, source.get("managed"), taken)


_READERS: Mapping[str, EntryReader] = {"hostdev": _hostdev, "interface": _interface, "disk": _disk}


def _entries(element: etree._Element) -> Iterator[DomainEntry]:
    read = _READERS.get(str(element.tag))
    return iter(()) if read is None else read(element)


# --- what all of them have ---------------------------------------------------------------------------


def _entry(
    via: HolderVia, element: etree._Element, managed: str | None, taken: DeviceSource | None
) -> Iterator[DomainEntry]:
    if taken is None:
        return
    alias, address, source = element.find("alias"), element.find("address"), element.find("source")
    reserved = address is not None and address.get("type") == "unassigned"
    yield DomainEntry(
        via=via,
        source=taken,
        alias=None if alias is None else _alias(alias),
        guest_address=sources.guest_address(address),
        managed=managed == "yes" and not isinstance(taken, BlockPath),
        role=HolderRole.RESERVED if reserved else HolderRole.VISIBLE,
        missing=source is not None and source.get("missing") == "yes",
    )


def _alias(element: etree._Element) -> str | None:
    # libvirt has no bound of its own: what is longer than anybody's would fill a message of the API's.
    name = element.get("name")
    return name if name is not None and len(name) <= _ALIAS_CHARS else None


def _from_pool(entry: DomainEntry) -> DomainEntry:
    return DomainEntry(
        via=HolderVia.NETWORK_POOL,
        source=entry.source,
        alias=entry.alias,
        guest_address=entry.guest_address,
        managed=entry.managed,
    )


def _mac(element: etree._Element) -> str | None:
    mac = element.find("mac")
    address = None if mac is None else mac.get("address")
    return None if address is None else address.lower()
