"""Virtual functions of the simulated host: made and removed by their number, as the root helper has the kernel do.

A device that had functions in the node file gets the same ones back, with what was below them; further ones are like
its first, at the next places.
"""

from __future__ import annotations

from lxml import etree

from hostdevd.core.addresses import PciAddress
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.model import PciFacts
from hostdevd.core.ports import FunctionCounts, FunctionsError, FunctionsFault, NodeDeviceChanged
from hostdevd.sim.kernel import SimDevice
from hostdevd.sim.mdevs import free_group
from hostdevd.sim.world import World
from hostdevd.virt.xml.parser import parse


def counts(world: World, address: PciAddress) -> FunctionCounts | None:
    """How many a function has and can have; None where its document has no virtual functions."""
    device = world.kernel.pci(address)
    told = device.node.detail.get("virt_functions") if device is not None else None
    if not isinstance(told, dict):
        return None
    return FunctionCounts(len(_present(world, address)), told.get("max_count", 0))


def set_count(world: World, address: PciAddress, count: int) -> None:
    """Have so many; `FunctionsError` as the helper has it."""
    known, pf = counts(world, address), world.kernel.pci(address)
    if known is None or pf is None or not 0 <= count <= known.total:
        raise FunctionsError(FunctionsFault.FAILED, f"{address} cannot have {count} virtual functions")
    if count == known.now:
        return
    present = _present(world, address)
    bound = [device.node.name for device in present if is_vfio_driver(device.driver)]
    if bound:
        raise FunctionsError(FunctionsFault.IN_USE, f"virtual functions are bound to VFIO: {', '.join(bound)}")
    with world.changing():
        for device in present:
            world.kernel.unplug(device.node.name)
        for index in range(count):
            _plug(world, pf, index)
        world.emit(NodeDeviceChanged(pf.node.name))


def _present(world: World, address: PciAddress) -> list[SimDevice]:
    return [device for device in _known(world, address) if world.kernel.visible(device.node.name)]


def _known(world: World, address: PciAddress) -> list[SimDevice]:
    """All that there ever were, in the order of their places."""
    found = [
        (facts.address, device)
        for device in world.kernel.devices.values()
        if isinstance(facts := device.node.facts, PciFacts) and facts.phys_function == address
    ]
    return [device for _, device in sorted(found, key=lambda one: one[0])]


def _plug(world: World, pf: SimDevice, index: int) -> None:
    kernel = world.kernel
    facts = pf.node.facts
    if not isinstance(facts, PciFacts):
        raise FunctionsError(FunctionsFault.FAILED, f"{pf.node.name} is no PCI function")
    known = _known(world, facts.address)
    if index >= len(known):
        kernel.plug(_document(world, pf, facts.address, known, index))
        return
    vf = known[index]
    kernel.plug(vf.xml)
    for name in [name for name, device in kernel.devices.items() if device.node.parent == vf.node.name]:
        kernel.plug(kernel.devices[name].xml)


def _document(world: World, pf: SimDevice, at: PciAddress, known: list[SimDevice], index: int) -> str:
    """Like the first one where there was one, else like the physical function; one place after the last."""
    places = [_number(facts.address) for one in known if isinstance(facts := one.node.facts, PciFacts)]
    offset = places[0] - _number(at) if places else 1
    stride = places[1] - places[0] if len(places) > 1 else 1
    place = _place(at.domain, _number(at) + offset + stride * index)
    root = parse((known[0] if known else pf).xml)
    name = "pci_" + str(place).replace(":", "_").replace(".", "_")
    _set(root, "name", name)
    _set(root, "path", f"{(pf.node.path or '').rpartition('/')[0]}/{place}")
    capability = root.find("capability[@type='pci']")
    if capability is None:
        raise FunctionsError(FunctionsFault.FAILED, f"{pf.node.name} has no document of a PCI function")
    for key, value in (("bus", place.bus), ("slot", place.slot), ("function", place.function)):
        _set(capability, key, str(value))
    for nested in capability.findall("capability"):
        capability.remove(nested)
    physical = etree.SubElement(capability, "capability", type="phys_function")
    _address(physical, at)
    for group in capability.findall("iommuGroup"):
        group.clear()
        group.set("number", str(free_group(world.kernel)))
        _address(group, place)
    return etree.tostring(root, encoding="unicode")


def _number(address: PciAddress) -> int:
    """The routing id: bus, slot and function in a row."""
    return address.bus << 8 | address.slot << 3 | address.function


def _place(domain: int, number: int) -> PciAddress:
    return PciAddress(domain, number >> 8 & 0xFF, number >> 3 & 0x1F, number & 0x7)


def _set(parent: etree._Element, tag: str, text: str) -> None:
    for element in parent.iterfind(tag):
        element.text = text


def _address(parent: etree._Element, address: PciAddress) -> None:
    etree.SubElement(
        parent,
        "address",
        domain=f"0x{address.domain:04x}",
        bus=f"0x{address.bus:02x}",
        slot=f"0x{address.slot:02x}",
        function=f"0x{address.function:x}",
    )
