"""Mediated devices of the simulated host, made and removed as libvirt and mdevctl do."""

from __future__ import annotations

from lxml import etree

from hostdevd.core.addresses import MdevUuid
from hostdevd.core.graph import iommu_group_of
from hostdevd.core.model import PciFacts
from hostdevd.sim.faults import ErrorNumber, device_in_use, invalid, refusal
from hostdevd.sim.kernel import Kernel, SimDevice
from hostdevd.sim.world import World
from hostdevd.virt.xml.parser import parse


def create_mdev(world: World, xml: str, *, persistent: bool) -> str:
    """Make the device of this document, or have it defined where it is there already; its name."""
    root = parse(xml)
    parent = world.kernel.device(root.findtext("parent", ""))
    kind = root.find("capability/type")
    type_id = kind.get("id", "") if kind is not None else ""
    uuid = root.findtext("capability/uuid", "")
    name = f"mdev_{uuid.replace('-', '_')}{_suffix(parent)}"
    with world.changing():
        known = world.kernel.at(MdevUuid(uuid))
        if known and known[0].node.name != name:
            raise refusal(ErrorNumber.INTERNAL_ERROR, f"Unable to start mediated device: {uuid} exists")
        if not known:
            _check_room(world, parent, type_id)
            world.kernel.plug(_document(world.kernel, parent, root, name))
        device = world.kernel.devices[name]
        device.lasting = persistent or (bool(known) and device.lasting)
    return name


def delete_mdev(world: World, name: str) -> None:
    """Remove it; refused while a guest has it."""
    device = world.kernel.device(name)
    if device.node.type != "mdev":
        raise refusal(ErrorNumber.NO_SUPPORT, "Unsupported device type")
    source = getattr(device.node.facts, "uuid", None)
    holder = world.in_use_by(source) if isinstance(source, MdevUuid) else None
    if holder is not None:
        raise device_in_use("mediated device", name, holder.name)
    with world.changing():
        world.kernel.forget(name)


def _check_room(world: World, parent: SimDevice, type_id: str) -> None:
    detail = world.kernel.node(parent.node.name).detail
    types = detail.get("mdev_types", ())
    left = {one["id"]: one["available_instances"] for one in types} if isinstance(types, list) else {}
    if type_id not in left:
        raise invalid(f"{parent.node.name} does not support the mediated device type {type_id}")
    if not left[type_id]:
        raise refusal(ErrorNumber.INTERNAL_ERROR, f"Unable to start mediated device: no instance of {type_id} left")


def _suffix(parent: SimDevice) -> str:
    """Libvirt names it by its parent's address too, since UUIDs are unique per parent only."""
    facts = parent.node.facts
    return "_" + str(facts.address).replace(":", "_").replace(".", "_") if isinstance(facts, PciFacts) else ""


def _document(kernel: Kernel, parent: SimDevice, asked: etree._Element, name: str) -> str:
    uuid = asked.findtext("capability/uuid", "")
    device = etree.Element("device")
    etree.SubElement(device, "name").text = name
    etree.SubElement(device, "path").text = f"{parent.node.path}/{uuid}"
    etree.SubElement(device, "parent").text = parent.node.name
    driver = etree.SubElement(device, "driver")
    etree.SubElement(driver, "name").text = "vfio_mdev"
    capability = etree.SubElement(device, "capability", type="mdev")
    for part in asked.iterfind("capability/type"):
        etree.SubElement(capability, "type", id=part.get("id", ""))
    etree.SubElement(capability, "uuid").text = uuid
    if isinstance(parent.node.facts, PciFacts):
        etree.SubElement(capability, "parent_addr").text = str(parent.node.facts.address)
    etree.SubElement(capability, "iommuGroup", number=str(free_group(kernel)))
    for part in asked.iterfind("capability/attr"):
        etree.SubElement(capability, "attr", name=part.get("name", ""), value=part.get("value", ""))
    return etree.tostring(device, encoding="unicode")


def free_group(kernel: Kernel) -> int:
    """The kernel gives the next number."""
    numbers = (iommu_group_of(device.node) for device in kernel.devices.values())
    return max((number for number in numbers if number is not None), default=0) + 1
