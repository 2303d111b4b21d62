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
    if isinstance(device.facts, PciFacts):
        return _pci_place(device, device.facts)
    if isinstance(device.facts, UsbFacts):
        controller = next((above for above in graph.ancestors(device.name) if isinstance(above.facts, PciFacts)), None)
        port = _USB_PORT.fullmatch((device.path or "").rpartition("/")[2])
        classes = sorted(
            f"{child.facts.interface_class:02x}"
            for child in (graph.nodes[name] for name in graph.children(device.name))
            if isinstance(child.facts, UsbInterfaceFacts)
        )
        return IdentityFacts(
            root=_function_place(controller) if controller else "",
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
            path=f"{_adapter_place(adapter)}/{address.bus}:{address.target}:{address.lun}",
        )
    return IdentityFacts()


def _pci_place(device: NodeDevice, facts: PciFacts) -> IdentityFacts:
    path = device.path or ""
    root = _ROOT.search(f"{path}/")
    return IdentityFacts(
        root=root[1] if root else f"{facts.address.domain:04x}:00", path="/".join(_FUNCTION.findall(path))
    )


def _function_place(device: NodeDevice) -> str:
    """Root and path of a PCI function: its sysfs path would move with the bus numbers."""
    if not isinstance(device.facts, PciFacts):
        return ""
    place = _pci_place(device, device.facts)
    return f"{place.root}/{place.path}"


def _adapter_place(adapter: NodeDevice | None) -> str:
    return (_function_place(adapter) or adapter.name) if adapter else "host"
