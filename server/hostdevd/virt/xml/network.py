"""A libvirt network's XML, read for the pool of PCI functions that it hands to guests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from lxml import etree

from hostdevd.core.model import Network
from hostdevd.virt.xml import sources
from hostdevd.virt.xml.parser import XmlInvalid, parse

_MOST_ADDRESSES = 8192


def network(xml: str) -> Network | None:
    """The network with its pool; None when it hands out no devices. Never raises.

    What cannot be read is the network's `gap`: another tool's network that libvirt runs must not hide the
    functions that it owns. Text that is not XML has neither name nor UUID.
    """
    try:
        root = parse(xml)
    except XmlInvalid as error:
        return Network(name="", uuid="", gap=str(error))
    name, uuid = (root.findtext(tag, "").strip() for tag in ("name", "uuid"))
    if root.tag != "network":
        return Network(name=name, uuid=uuid, gap="libvirt's description of it is not one of a network")
    # With another mode the interfaces stay the host's, and guests get taps of them.
    forward = root.find("forward[@mode='hostdev']")
    if forward is None:
        return None
    read = [sources.pci_address(address) for address in islice(forward.iterfind("address"), _MOST_ADDRESSES)]
    interface = forward.find("pf")
    return Network(
        name=name,
        uuid=uuid,
        pf=None if interface is None else interface.get("dev") or None,
        addresses=tuple(dict.fromkeys(address for address in read if address is not None)),
        gap="; ".join(_gaps(forward)),
    )


def _gaps(forward: etree._Element) -> Iterator[str]:
    if any(not interface.get("dev") for interface in forward.iterfind("pf")):
        yield "the name of its interface is missing"
    addresses = forward.findall("address")
    if len(addresses) > _MOST_ADDRESSES:
        yield f"it has {len(addresses)} addresses, at most {_MOST_ADDRESSES} are read"
    elif any(sources.pci_address(address) is None for address in addresses):
        yield "an address in it cannot be read"
    if len(forward.findall("pf")) > 1:
        yield "it has more than one interface"
