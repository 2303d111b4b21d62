"""What sysfs tells of who a device is, in words that survive a reboot: ACPI paths, ports, serials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import NodeDevice, PciFacts, ScsiFacts, UsbFacts
from hostdevd.core.ports import IdentityFacts
from hostdevd.host.drivers import PCI_DEVICES
from hostdevd.host.sysfs import HostTree, Unreadable, printable

_ROOT_BUS = re.compile(r"pci([0-9a-f]{4,8}:[0-9a-f]{2})")
_USB_DEVICE = re.compile(r"\d+-(\d+(?:\.\d+)*)")
_USB_ROOT_HUB = re.compile(r"usb\d+")
_SCSI_ADDRESS = re.compile(r"\d+:(\d+:\d+:\d+)")
_SCSI_TARGET = re.compile(r"target\d+:(\d+:\d+)")
_USB_INTERFACE = re.compile(r"\d+-(\d+(?:\.\d+)*:\d+\.\d+)")
_VPD_HEADER_BYTES = 4

# Parts of a path that are numbered in the order of discovery, and what stands for them.
_NAMELESS = re.compile(
    r"virtio\d+|target\d+:\d+:\d+|(?:port|expander)-.*|usb\d+|\d+-\d+(?:\.\d+)*|sg\d+|[sv]d[a-z]+|nvme\d+"
)
_NUMBERED_LAST = re.compile(r"nvme\d+(n\d+)|(card|renderD|controlD)\d+")
_TRANSPORTS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "ata": (re.compile(r"ata\d+"), "ata_port/{}/port_no"),
    "sas": (re.compile(r"end_device-.*"), "sas_device/{}/sas_address"),
    "fc": (re.compile(r"rport-.*"), "fc_remote_ports/{}/port_name"),
    "iscsi": (re.compile(r"session\d+"), "iscsi_session/{}/targetname"),
}


def identity_facts(tree: HostTree, device: NodeDevice) -> IdentityFacts:
    """The facts by the device's type, its place for a type of no own; empty ones for a device that is gone."""
    try:
        if isinstance(device.facts, PciFacts):
            return _pci(tree, tree.link(f"{PCI_DEVICES}/{device.facts.address}") or "")
        if device.path is not None and tree.exists(device.path):
            return _at(tree, device, device.path)
    except Unreadable:
        # Everything here is world-readable; what fails is a device on its way out.
        return IdentityFacts()
    return IdentityFacts()


def _at(tree: HostTree, device: NodeDevice, path: str) -> IdentityFacts:
    if isinstance(device.facts, UsbFacts):
        return _usb(tree, path)
    if isinstance(device.facts, ScsiFacts):
        return _scsi(tree, path)
    return IdentityFacts(path=_place(tree, path))


def _pci(tree: HostTree, path: str) -> IdentityFacts:
    if not path or not tree.exists(path):
        return IdentityFacts()
    root, below, _ = _pci_place(tree, path)
    return IdentityFacts(root=root, path=below, subsystem=_subsystem(tree, path))


def _usb(tree: HostTree, path: str) -> IdentityFacts:
    root, below, rest = _pci_place(tree, path)
    name = path.rpartition("/")[2]
    port = _USB_DEVICE.fullmatch(name)
    if not root:  # a controller of the board and not of PCI: its own place, without the bus number
        root = "/".join(_until_usb(rest))
    root = f"{root}/{below}" if below else root
    if port is None:
        # A root hub: it has no port, and its serial is the controller's address. xHCI has one for each version.
        return IdentityFacts(root=root, path=f"root-{_text(tree.value(f'{path}/version'))}")
    return IdentityFacts(
        root=root,
        path=port[1],
        serial=_text(tree.lasting(f"{path}/serial")),
        interfaces=",".join(_interface_classes(tree, path, name)),
    )


def _scsi(tree: HostTree, path: str) -> IdentityFacts:
    return IdentityFacts(
        wwid=_text(_optional(tree, f"{path}/wwid")),
        serial=_text(_vpd_serial(tree, path)),
        path=_place(tree, path),
    )


# --- places ------------------------------------------------------------------------------------------


def _pci_place(tree: HostTree, path: str) -> tuple[str, str, list[str]]:
    """The host bridge, the slots and functions below it, and the rest of the path below the last one."""
    parts = path.removeprefix("/sys/devices/").split("/")
    bus = _ROOT_BUS.fullmatch(parts[0])
    if bus is None:
        return "", "", parts
    root = _optional(tree, f"/sys/devices/{parts[0]}/firmware_node/path") or bus[1]
    slots = []
    used = 1
    for part in parts[1:]:
        if _ROOT_BUS.fullmatch(part):
            slots.append("bus")  # a host bridge behind a function (VMD), whose domain's number is made up
        else:
            try:
                address = PciAddress.parse(part)
            except ValueError:
                break
            slots.append(f"{address.slot:x}.{address.function:x}")
        used += 1
    return root, "/".join(slots), parts[used:]


def _until_usb(parts: list[str]) -> Iterator[str]:
    for part in parts:
        if _USB_ROOT_HUB.fullmatch(part):
            return
        yield part


def _place(tree: HostTree, path: str) -> str:
    """Where a device hangs, in names that hold: a port's WWN where the transport has one.

    Numbers that the kernel gives in the order of discovery are left out or replaced: hosts and virtio
    devices by their place among their like, ATA ports by the number on their controller.
    """
    root, slots, rest = _pci_place(tree, path)
    above = path[: len(path) - len("/".join(rest))].rstrip("/") if rest else path
    steps = [step for step in (root, slots) if step]
    for part in rest:
        steps.extend(_step(tree, above, part))
        above = f"{above}/{part}"
    if rest and (target := _SCSI_TARGET.fullmatch(rest[-1])):
        steps.append(target[1])  # a target itself; below it, the unit's address says it
    return printable("/".join(steps))


def _step(tree: HostTree, above: str, part: str) -> Iterator[str]:
    if _NAMELESS.fullmatch(part):
        return
    if unit := _SCSI_ADDRESS.fullmatch(part):
        yield unit[1]
    elif interface := _USB_INTERFACE.fullmatch(part):
        yield interface[1]
    elif last := _NUMBERED_LAST.fullmatch(part):
        yield last[1] or last[2]
    elif re.fullmatch(r"host\d+", part):
        yield from _ordinal(tree, above, "host", part)
    else:
        for transport, (pattern, attribute) in _TRANSPORTS.items():
            if pattern.fullmatch(part):
                yield f"{transport}-{_optional(tree, f'{above}/{part}/{attribute.format(part)}') or part}"
                return
        yield part


def _ordinal(tree: HostTree, above: str, kind: str, part: str) -> Iterator[str]:
    """Which of its like below the same parent; nothing where it is the only one."""
    like = sorted(
        (name for name in tree.names(above) if re.fullmatch(rf"{kind}\d+", name)),
        key=lambda name: int(name.removeprefix(kind)),
    )
    if len(like) > 1 and part in like:
        yield f"{kind}{like.index(part)}"


# --- attributes --------------------------------------------------------------------------------------


def _subsystem(tree: HostTree, path: str) -> str:
    ids = [tree.value(f"{path}/subsystem_{which}") for which in ("vendor", "device")]
    try:
        vendor, product = (int(text, 16) for text in ids)
    except ValueError:
        return ""
    return f"{vendor:04x}:{product:04x}"


def _interface_classes(tree: HostTree, path: str, name: str) -> list[str]:
    """The classes of the interfaces `1-2.1:1.0`, `1-2.1:1.1`, in their order."""
    own = sorted(entry for entry in tree.names(path) if entry.startswith(f"{name}:"))
    classes = (tree.value(f"{path}/{entry}/bInterfaceClass") for entry in own)
    return [_text(text) for text in classes if text]


def _vpd_serial(tree: HostTree, path: str) -> str:
    """The unit serial number page (0x80): four bytes of header, the last two of them the length."""
    try:
        page = tree.read_bytes(f"{path}/vpd_pg80")
    except Unreadable:
        return ""
    if page is None or len(page) < _VPD_HEADER_BYTES:
        return ""
    length = int.from_bytes(page[2:_VPD_HEADER_BYTES], "big")
    return page[_VPD_HEADER_BYTES : _VPD_HEADER_BYTES + length].decode("ascii", "replace")


def _optional(tree: HostTree, path: str) -> str:
    """An attribute that a device may have and refuse to tell."""
    try:
        return tree.value(path)
    except Unreadable:
        return ""


def _text(text: str) -> str:
    return printable(text.strip(" \t\n\0"))
