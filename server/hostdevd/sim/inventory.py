"""Node device documents made ready for a simulated host: each gets a sysfs path, or loses its IOMMU group.

Files for libvirt's test driver often leave `<path>` out. Uses of the host are told by path, so every device
gets one, below its parent's as in sysfs.
"""

from __future__ import annotations

from collections.abc import Iterable

from lxml import etree

from hostdevd.virt.xml.parser import parse


def prepare_devices(documents: Iterable[str], *, iommu: bool = True) -> tuple[str, ...]:
    """The documents with paths; without `iommu` no PCI function has an IOMMU group."""
    roots = {root.findtext("name", "").strip(): root for root in map(parse, documents)}
    paths: dict[str, str] = {}
    for name in roots:
        _path(name, roots, paths)
    for name, root in roots.items():
        if root.find("path") is None and root.find("capability[@type='system']") is None:
            path = etree.Element("path")
            path.text = paths[name]
            root.insert(1, path)
        if not iommu:
            for capability in root.iterfind("capability"):
                for group in capability.findall("iommuGroup"):
                    capability.remove(group)
    return tuple(etree.tostring(root, encoding="unicode") for root in roots.values())


def _path(name: str, roots: dict[str, etree._Element], paths: dict[str, str]) -> str:
    if name in paths:
        return paths[name]
    root = roots.get(name)
    if root is None:
        return "/sys/devices"
    # Before the parent is looked at, so that a loop of parents ends here.
    paths[name] = f"/sys/devices/{name}"
    own = (root.findtext("path") or "").strip()
    paths[name] = own or f"{_path((root.findtext('parent') or '').strip(), roots, paths)}/{_leaf(name, root)}"
    return paths[name]


def _leaf(name: str, root: etree._Element) -> str:
    if root.find("capability[@type='system']") is not None:
        return "pci0000:00"
    if root.find("capability[@type='pci']") is None:
        return name
    # pci_0000_05_01_0 stands for 0000:05:01.0.
    parts = name.removeprefix("pci_").split("_")
    return f"{':'.join(parts[:-1])}.{parts[-1]}"
