"""The host's devices and virtual machines as hostdevd sees them: plain frozen values.

A `NodeDevice` is what libvirt says of one device. `facts` holds the few typed values that the rules
need; `detail` holds all of it in the shape of the API's `Device.detail` message of that type, which the
core carries without looking inside, so that a new field of libvirt's touches no rule.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, unique

from hostdevd.core.addresses import DeviceSource, MdevUuid, PciAddress, ScsiAddress, UsbAddress


@unique
class ConditionCode(StrEnum):
    """What is wrong with a device or an assignment that is listed all the same."""

    XML_INVALID = "XML_INVALID"
    DETACH_REJECTED = "DETACH_REJECTED"
    DEVICE_MISSING = "DEVICE_MISSING"
    DEVICE_CHANGED = "DEVICE_CHANGED"
    DRIVER_NOT_RESTORED = "DRIVER_NOT_RESTORED"
    CONFIG_DIVERGED = "CONFIG_DIVERGED"
    CONFIG_BY_SERVICE = "CONFIG_BY_SERVICE"
    GROUP_SPLIT = "GROUP_SPLIT"


@dataclass(frozen=True, slots=True)
class DeviceCondition:
    """A fault of one listed device."""

    code: ConditionCode
    message: str


# --- devices -----------------------------------------------------------------------------------------

ASSIGNABLE = frozenset({"pci", "usb_device", "scsi", "mdev"})
"""The types of node devices that can be passed through."""
DEVICE_TYPES = ASSIGNABLE | {
    *("system", "usb_interface", "net", "scsi_host", "scsi_target", "scsi_generic", "storage", "drm", "vdpa", "other"),
    *("ccw", "ccwgroup", "css", "ap_card", "ap_queue", "ap_matrix"),
}
"""All types: the names of the API's details."""


@dataclass(frozen=True, slots=True)
class PciFacts:
    """What the rules need of a PCI function.

    `class_code` has 24 bits (0x020000 is an Ethernet controller); `header_type` is libvirt's text
    (`endpoint`, `pci-bridge`, `cardbus-bridge`) or None where it is not told; `iommu_addresses` are the
    group's members as the kernel lists them; `express` says whether the
    function has a PCI Express capability, so which kind of guest slot takes it.
    """

    address: PciAddress
    class_code: int | None
    vendor_id: int
    product_id: int
    iommu_group: int | None = None
    iommu_addresses: tuple[PciAddress, ...] = ()
    header_type: str | None = None
    express: bool = False
    phys_function: PciAddress | None = None
    virt_functions: tuple[PciAddress, ...] = ()
    mdev_capable: bool = False
    vpd_serial: str | None = None
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A memory region of a PCI function: its size, and whether it may lie above 4 GiB."""

    size_bytes: int
    wide: bool = False


@dataclass(frozen=True, slots=True)
class UsbFacts:
    """What the rules need of a USB device."""

    address: UsbAddress
    vendor_id: int
    product_id: int


@dataclass(frozen=True, slots=True)
class UsbInterfaceFacts:
    """What the rules need of a USB interface: its class tells hubs (0x09)."""

    interface_class: int


@dataclass(frozen=True, slots=True)
class ScsiFacts:
    """What the rules need of a SCSI logical unit."""

    address: ScsiAddress


@dataclass(frozen=True, slots=True)
class MdevFacts:
    """What the rules need of a mediated device."""

    uuid: MdevUuid
    iommu_group: int | None = None


@dataclass(frozen=True, slots=True)
class NetFacts:
    """A network interface of the host."""

    interface: str
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """A disk of the host: the device node's path, serial and WWN where told."""

    block: str
    serial: str | None = None
    wwn: str | None = None


Facts = PciFacts | UsbFacts | UsbInterfaceFacts | ScsiFacts | MdevFacts | NetFacts | StorageFacts


@dataclass(frozen=True, slots=True)
class NodeDevice:
    """One node device of libvirt's.

    `type` is the name of the API's detail field (`pci`, `usb_device`, `net`, ... `other`). `path` is the
    sysfs path, `devnodes` the device nodes and links, `driver` the driver that libvirt last saw: binding
    emits no event, so the host's word (`HostPort.driver`) goes before it.
    """

    name: str
    type: str
    parent: str | None = None
    path: str | None = None
    devnodes: tuple[str, ...] = ()
    driver: str | None = None
    facts: Facts | None = None
    detail: Mapping[str, object] = field(default_factory=dict)
    description: str = ""
    numa_node: int | None = None
    conditions: tuple[DeviceCondition, ...] = ()
    main_devnode: str | None = None
    other_capabilities: tuple[tuple[str, str], ...] = ()
    undescribed: bool = False
    """libvirt lists the device and could not describe it: nothing of it is known, and it is asked again."""


def undescribed(name: str, why: str) -> NodeDevice:
    """A device of which libvirt gave the name alone: listed with a condition, and never assigned."""
    condition = DeviceCondition(ConditionCode.XML_INVALID, f"libvirt could not describe it: {why}")
    return NodeDevice(
        name=name,
        type="other",
        detail={"type": "", "xml": ""},
        description="device that libvirt could not describe",
        conditions=(condition,),
        undescribed=True,
    )


# --- eligibility -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfVm:
    """What a text leaves out of a machine, for those alone who may see it: which one it is, and what is the matter."""

    name: str
    uuid: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.why}" if self.why else self.name


@dataclass(frozen=True, slots=True)
class Reason:
    """Why not: a code of the API's `ErrorReason`, the libvirt name that it is about, text, and the fix.

    `of_vm` is what the text leaves out for those who may not see that machine.
    """

    code: str
    subject: str
    message: str
    remedy: str = ""
    of_vm: OfVm | None = None


@unique
class HostUseKind(StrEnum):
    """How the host itself uses a device."""

    MOUNT = "MOUNT"
    SWAP = "SWAP"
    LVM_PV = "LVM_PV"
    MD_MEMBER = "MD_MEMBER"
    DM_HOLDER = "DM_HOLDER"
    ZFS_MEMBER = "ZFS_MEMBER"
    BTRFS_MEMBER = "BTRFS_MEMBER"
    MULTIPATH_MEMBER = "MULTIPATH_MEMBER"
    BRIDGE_PORT = "BRIDGE_PORT"
    BOND_MEMBER = "BOND_MEMBER"
    TEAM_MEMBER = "TEAM_MEMBER"
    OVS_PORT = "OVS_PORT"
    CEPH_OSD = "CEPH_OSD"
    NETWORK_POOL = "NETWORK_POOL"
    GLOBAL_ADDRESS = "GLOBAL_ADDRESS"
    DEFAULT_ROUTE = "DEFAULT_ROUTE"
    PRIMARY_CONSOLE = "PRIMARY_CONSOLE"
    VFIO_USER = "VFIO_USER"


@dataclass(frozen=True, slots=True)
class HostUse:
    """One use: `MOUNT "/boot"`, `LVM_PV "vg0"`, `BRIDGE_PORT "br0"`; detail may be empty."""

    kind: HostUseKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HostUses:
    """What the host uses, by sysfs path of the disk, interface or PCI function (no links in the path).

    `unknown` lists what could not be read, as `(node device type, message)` with the type `pci` for all:
    everything of that type, and what holds it, is then of unknown use and is refused. `as_of` is what the host knows
    the moment of the read by (`HostPort.is_still`), None where nothing tells of changes.
    """

    by_path: Mapping[str, tuple[HostUse, ...]] = field(default_factory=dict)
    unknown: tuple[tuple[str, str], ...] = ()
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The PCI functions that a disk is reached by which lies below none of them in libvirt's tree, by the disk's path:
    an NVMe namespace that several controllers may share. Its uses are told of them too."""
    as_of: Hashable | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Eligibility:
    """May the device be assigned (`eligible`), and is it free now (`available`)?"""

    eligible: bool
    available: bool
    reasons: tuple[Reason, ...] = ()


# --- virtual machines --------------------------------------------------------------------------------


@unique
class VmState(StrEnum):
    """A domain's state, as far as assignment cares."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUSPENDED = "SUSPENDED"
    SHUT_OFF = "SHUT_OFF"
    CRASHED = "CRASHED"

    @property
    def active(self) -> bool:
        """Whether there is a guest now: running, paused or suspended."""
        return self in {VmState.RUNNING, VmState.PAUSED, VmState.SUSPENDED}


@dataclass(frozen=True, slots=True)
class Vm:
    """A virtual machine; the UUID is its identity, the name may change."""

    name: str
    uuid: str
    state: VmState
    persistent: bool = True
    managed_save: bool = False


@unique
class HolderVia(StrEnum):
    """By which kind of element of the domain's XML a VM holds a device."""

    HOSTDEV = "HOSTDEV"
    INTERFACE = "INTERFACE"
    DISK = "DISK"
    NETWORK_POOL = "NETWORK_POOL"


@unique
class HolderRole(StrEnum):
    """Shown to the guest, or only kept away from the host with its group (`unassigned`)."""

    VISIBLE = "VISIBLE"
    RESERVED = "RESERVED"


@dataclass(frozen=True, slots=True)
class DomainEntry:
    """One element of a domain's XML that takes a host device.

    `missing` is libvirt's mark on a USB entry that found nothing at start: it holds nothing.
    `guest_address` is text as the guest would name it (`0000:07:00.0` for PCI).
    """

    via: HolderVia
    source: DeviceSource
    alias: str | None = None
    guest_address: str | None = None
    managed: bool = False
    role: HolderRole = HolderRole.VISIBLE
    missing: bool = False


@dataclass(frozen=True, slots=True)
class ScsiController:
    """A SCSI controller of the guest: its index, libvirt's model, and the (bus, target, unit) in use."""

    index: int
    model: str
    used: frozenset[tuple[int, int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class GuestHardware:
    """What the guest has to take a device with: read from its XML, live or inactive apart.

    `machine` is libvirt's machine type (`pc-q35-7.2`). `free_pcie_slots` counts empty hot-pluggable
    pcie-root-ports and downstream ports; `free_pci_slots` empty conventional slots on buses that a
    hot-plugged or configured conventional device can use (pci-root of i440fx, pci bridges,
    pcie-to-pci-bridge). An inactive definition grows ports by itself, up to `spare_buses` more: see the
    planner.

    `hypervisor` is the domain's type (`kvm`, `qemu`, `xen`; empty where it is not told), `arch` the guest's
    (`x86_64`), `acpi` whether it has ACPI. `free_usb_ports` is None where a controller's number of ports is
    not known. `memory_bytes` is the most that the guest can have, `hard_limit_bytes` the limit that libvirt
    then also uses for locked memory, `hole64_bytes` the window for 64-bit BARs where the definition tells
    it; None where they are not told. `iommu` is a virtual IOMMU of the guest's own.
    """

    machine: str = ""
    pcie: bool = False
    free_pcie_slots: int = 0
    free_pci_slots: int = 0
    usb_controller: bool = False
    scsi_controllers: tuple[ScsiController, ...] = ()
    hypervisor: str = ""
    arch: str = ""
    acpi: bool = False
    spare_buses: int = 255
    free_usb_ports: int | None = None
    memory_bytes: int | None = None
    hard_limit_bytes: int | None = None
    hole64_bytes: int | None = None
    iommu: bool = False


@dataclass(frozen=True, slots=True)
class DomainDef:
    """One XML of a domain, the live or the inactive one, read for what assignment needs."""

    entries: tuple[DomainEntry, ...] = ()
    hardware: GuestHardware = GuestHardware()
    gap: str = ""
    """Why it could not be read; `entries` are then those that were read last, and there may be others."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A VM with its running definition (None when inactive) and its persistent one (None if transient)."""

    vm: Vm
    live: DomainDef | None = None
    config: DomainDef | None = None


# --- networks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Network:
    """An active libvirt network that hands PCI functions to guests (`<forward mode='hostdev'>`).

    Its pool are the VFs of the interface `pf`, where one is named, and the functions at `addresses`.
    `gap` says what of the pool could not be read; empty where all of it was.
    """

    name: str
    uuid: str
    pf: str | None = None
    addresses: tuple[PciAddress, ...] = ()
    gap: str = ""


# --- what the service adds ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HypervisorInfo:
    """Who answers at the other end of the libvirt connection; versions as text (`9.0.0`)."""

    name: str
    uuid: str
    connection_uri: str
    libvirt_version: str
    hypervisor: str
    hypervisor_version: str


@unique
class CheckCode(StrEnum):
    """What `GetHost` looks at."""

    LIBVIRT = "LIBVIRT"
    NODE_DEVICES = "NODE_DEVICES"
    IOMMU = "IOMMU"
    INTERRUPT_REMAPPING = "INTERRUPT_REMAPPING"
    VFIO = "VFIO"
    HOST_USES = "HOST_USES"
    PERMISSIONS = "PERMISSIONS"
    STATE_STORE = "STATE_STORE"


@unique
class CheckStatus(StrEnum):
    """The outcome of a check."""

    PASS = "PASS"  # noqa: S105  the outcome of a check, not a password
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `GetHost`'s report: what was found, and what to do about it.

    `of_vms` is what the message leaves out for those who may not see these machines.
    """

    code: CheckCode
    status: CheckStatus
    message: str
    remedy: str = ""
    of_vms: tuple[OfVm, ...] = ()


@dataclass(frozen=True, slots=True)
class Holder:
    """A VM that holds a device, in its live XML, its configuration, or both.

    `key` is opaque, one per device and VM. `uid` is the device's identity ("" where the device is not on
    the host now). `assignment` is the name of hostdevd's own record, None for another tool's work. `traits` is what
    rules say of the device besides its uid and driver, by which it is judged who may see this; empty while the device
    is not on the host.
    """

    key: str
    device: str
    uid: str
    group: str | None
    vm: Vm
    live: bool
    config: bool
    via: HolderVia
    role: HolderRole
    guest_address: str | None
    alias: str | None
    managed: bool
    assignment: str | None
    since: datetime
    traits: tuple[tuple[str, str], ...] = ()
