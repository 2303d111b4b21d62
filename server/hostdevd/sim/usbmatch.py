"""Which USB device of the host a `<hostdev>` means, by libvirt's rules."""

from __future__ import annotations

from lxml import etree

from hostdevd.core.addresses import UsbAddress, UsbProduct
from hostdevd.core.model import UsbFacts
from hostdevd.sim.faults import ErrorNumber, refusal
from hostdevd.sim.world import World
from hostdevd.virt.xml import sources
from hostdevd.virt.xml.numbers import number


def find_usb(world: World, hostdev: etree._Element) -> UsbAddress | None:
    """Find the device and write its address into the document; None for an optional one that is not there.

    By address alone: what is plugged there. By vendor:product and address: both must fit, it is not looked
    for elsewhere. By vendor:product: exactly one must match, `startupPolicy='optional'` or not.
    """
    source = hostdev.find("source")
    if source is None:
        raise refusal(ErrorNumber.XML_ERROR, "missing source for the USB hostdev")
    place = sources.usb(source)
    product = _product(source)
    optional = source.get("startupPolicy") == "optional"
    if isinstance(place, UsbAddress):
        found = [place] if _plugged(world, place, product) else []
        text = f"Did not find USB device bus:{place.bus} device:{place.device}"
    else:
        found = _matches(world, product)
        text = f"Did not find USB device {product}"
    if len(found) > 1:
        raise refusal(ErrorNumber.OPERATION_FAILED, f"Multiple USB devices for {product}, use <address> to specify one")
    if not found:
        if not optional:
            raise refusal(ErrorNumber.INTERNAL_ERROR, text)
        source.set("missing", "yes")
        return None
    source.attrib.pop("missing", "")
    if not isinstance(place, UsbAddress):
        etree.SubElement(source, "address", bus=str(found[0].bus), device=str(found[0].device))
    return found[0]


def _product(source: etree._Element) -> UsbProduct | None:
    vendor, product = (source.find(tag) for tag in ("vendor", "product"))
    ids = [None if each is None else number(each.get("id"), 0xFFFF) for each in (vendor, product)]
    return None if ids[0] is None or ids[1] is None else UsbProduct(ids[0], ids[1])


def _plugged(world: World, place: UsbAddress, product: UsbProduct | None) -> bool:
    present = [device.node.facts for device in world.kernel.at(place)]
    return any(product is None or product == _product_of(facts) for facts in present if isinstance(facts, UsbFacts))


def _matches(world: World, product: UsbProduct | None) -> list[UsbAddress]:
    if product is None:
        return []
    facts = [device.node.facts for device in world.kernel.at(product)]
    return [each.address for each in facts if isinstance(each, UsbFacts)]


def _product_of(facts: UsbFacts) -> UsbProduct:
    return UsbProduct(facts.vendor_id, facts.product_id)
