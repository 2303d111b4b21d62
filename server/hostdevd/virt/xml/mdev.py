"""`<device>` documents of mediated devices to be made, built from a spec, and read back before libvirt sees them."""

from __future__ import annotations

from lxml import etree

from hostdevd.core.ports import MdevSpec
from hostdevd.virt.xml.parser import XmlInvalid, parse


def build_mdev(spec: MdevSpec) -> str:
    """The XML of `spec`; `XmlInvalid` when it would say something else. libvirt makes the name."""
    device = etree.Element("device")
    etree.SubElement(device, "parent").text = spec.parent
    capability = etree.SubElement(device, "capability", type="mdev")
    etree.SubElement(capability, "type", id=spec.type_id)
    etree.SubElement(capability, "uuid").text = spec.uuid
    for name, value in spec.attributes:
        etree.SubElement(capability, "attr", name=name, value=value)
    xml = etree.tostring(device, encoding="unicode")
    if _read_back(xml, persistent=spec.persistent) != spec:
        raise XmlInvalid(f"what was built does not read back as {spec}: {xml}")
    return xml


def _read_back(xml: str, *, persistent: bool) -> MdevSpec | None:
    device = parse(xml)
    capability, kind = device.find("capability[@type='mdev']"), device.find("capability/type")
    if capability is None or kind is None:
        return None
    return MdevSpec(
        parent=device.findtext("parent", ""),
        type_id=kind.get("id", ""),
        uuid=capability.findtext("uuid", ""),
        attributes=tuple((one.get("name", ""), one.get("value", "")) for one in capability.iterfind("attr")),
        persistent=persistent,
    )
