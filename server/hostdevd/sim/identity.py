"""Identity facts of simulated devices: derived from their paths and ids, unless the extras tell them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields

from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import NodeDevice, PciFacts, ScsiFacts, StorageFacts, UsbFacts, UsbInterfaceFacts
from hostdevd.core.ports import IdentityFacts

_ROOT = re.compile(r"/pci([0-9a-f]{4,8}:[0-9a-f]{2})/")
_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:([0-9a-f]{2}\.[0-7])")
_USB_PORT = re.compile(r"[0-9]+-([0-9]+(?:\.[0-9]+)*)")


def identity_of(graph: DeviceGraph, device: NodeDevice, told: Mapping[str, IdentityFacts]) -> IdentityFacts:
    """What sysfs would tell of the device; the extras' fields go before what is derived."""
    derived = _derived(graph, device)
    extra = told.get(device.name)
    if extra is None:
        return derived
    return IdentityFacts(
        **{each.name: getattr(extra, each.name) or getattr(derived, each.name) for each in fields(IdentityFacts)}
    )


def _derived(graph: DeviceGraph, device: NodeDevice) -> IdentityFacts:
    path = device.path or ""
    if isinstance(device.facts, PciFacts):
        root = _ROOT.search(path + "/")
        below = "/".join(_FUNCTION.findall(path))
        return IdentityFacts(root=root[1] if root else f"{device.facts.address.domain:04x}:00", path=below)
    if isinstance(device.facts, UsbFacts):
        controller = next((above for above in graph.ancestors(device.name) if isinstance(above.facts, PciFacts)), None)
        port = _USB_PORT.fullmatch(path.rpartition("/")[2])
        classes = sorted(
            f"{child.facts.interface_class:02x}"
            for child in (graph.nodes[name] for name in graph.children(device.name))
            if isinstance(child.facts, UsbInterfaceFacts)
        )
        return IdentityFacts(
            root=(controller.path or "") if controller else "",
            path=port[1] if port else "",
            interfaces=",".join(classes),
        )
    if isinstance(device.facts, ScsiFacts):
        disk = next((below.facts for below in graph.descendants(device.name) if below.type == "storage"), None)
        address = device.facts.address
        adapter = next((above for above in graph.ancestors(device.name) if above.type in {"pci", "usb_device"}), None)
        return IdentityFacts(
            wwid=(disk.wwn or "") if isinstance(disk, StorageFacts) else "",
            serial=(disk.serial or "") if isinstance(disk, StorageFacts) else "",
            path=f"{(adapter.path or '') if adapter else ''}/{address.bus}:{address.target}:{address.lun}",
        )
    return IdentityFacts()
