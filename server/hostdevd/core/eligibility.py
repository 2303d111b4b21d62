"""May a device be assigned, and if not: every reason at once, with the fix (rules.md, "Eligibility").

Pure functions of a snapshot (`Facts of the host now`): the graph, what the host uses, the drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from hostdevd.core.addresses import PciAddress
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.graph import DeviceGraph, group_mates_of, iommu_group_of, is_bridge
from hostdevd.core.holders import UNREAD
from hostdevd.core.model import ASSIGNABLE, HostUse, HostUseKind, NodeDevice, OfVm, PciFacts, Reason
from hostdevd.core.policy import NO_POLICY, Policy
from hostdevd.core.profiles import DEFAULT, Profile, class_name
from hostdevd.core.selectors import Traits, traits

_MASS_STORAGE = 0x01
_NETWORK = 0x02

_USE_TEXT = {
    "MOUNT": "is mounted at {}",
    "SWAP": "is used as swap",
    "LVM_PV": "is a physical volume of LVM group {}",
    "MD_MEMBER": "is a member of the RAID array {}",
    "DM_HOLDER": "is claimed by {}",
    "ZFS_MEMBER": "is a member of the ZFS pool {}",
    "BTRFS_MEMBER": "is a member of the btrfs file system {}",
    "MULTIPATH_MEMBER": "is a path of the multipath device {}",
    "BRIDGE_PORT": "is a port of the bridge {}",
    "BOND_MEMBER": "is a member of the bond {}",
    "TEAM_MEMBER": "is a member of the team {}",
    "OVS_PORT": "is a port of the Open vSwitch bridge {}",
    "CEPH_OSD": "belongs to the Ceph OSD {}",
    "NETWORK_POOL": "belongs to the libvirt network {}",
    "GLOBAL_ADDRESS": "has the address {}",
    "DEFAULT_ROUTE": "carries the default route {}",
    "PRIMARY_CONSOLE": "is the boot console {}",
    "VFIO_USER": "is open in a user-space driver that is no virtual machine of libvirt's {}",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What eligibility depends on besides libvirt's tree.

    `uses`: by device name, what the host does with that very device. `unknown`: device types whose use
    could not be read, with the message. `unread`: VMs that may hold anything. `overrides`: driver_override by
    device name. `uids` and `drivers`, by device name, are what the policy's rules look at, see `traits`.
    """

    graph: DeviceGraph
    uses: Mapping[str, tuple[HostUse, ...]] = field(default_factory=dict)
    unknown: tuple[tuple[str, str], ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    profile: Profile = DEFAULT
    policy: Policy = NO_POLICY
    uids: Mapping[str, str] = field(default_factory=dict)
    drivers: Mapping[str, str | None] = field(default_factory=dict)
    unread: tuple[OfVm, ...] = ()
    judged: dict[str, tuple[Reason, ...]] = field(init=False, default_factory=dict, compare=False, repr=False)
    """What was found of a device already: a group's members ask it of each other."""


_OR_POLICY = "or have the operator accept it by an allow rule of the policy file"
_USE_REMEDY = {
    "MOUNT": "unmount {} if the host can do without it",
    "SWAP": "take it out of swap (swapoff) if the host can do without it",
    "LVM_PV": "move the volume group {} off it (pvmove, vgreduce)",
    "MD_MEMBER": "take it out of the array {} (mdadm --fail, --remove)",
    "BRIDGE_PORT": "take it out of the bridge {} (ip link set ... nomaster)",
    "BOND_MEMBER": "take it out of the bond {} (ip link set ... nomaster)",
    "TEAM_MEMBER": "take it out of {} (ip link set ... nomaster)",
    "GLOBAL_ADDRESS": "remove the address {} if the host is reached without it",
    "DEFAULT_ROUTE": "move the default route to another interface first",
    "PRIMARY_CONSOLE": f"the host's console is on it; boot with another one, {_OR_POLICY}",
    "NETWORK_POOL": "stop the network (virsh net-destroy {0}), or take it out of its pool (virsh net-edit {0})",
}

Rule = Callable[[Surroundings, NodeDevice], Iterator[Reason]]


def reasons(around: Surroundings, device: NodeDevice) -> tuple[Reason, ...]:
    """Every reason that holds, in the order of rules.md; none means eligible."""
    own = own_reasons(around, device)
    if own and own[0].code in _ALONE:
        return own
    mates = tuple(_group_member_ineligible(around, device))
    after = [reason for reason in own if reason.code in _AFTER_GROUP]
    before = [reason for reason in own if reason.code not in _AFTER_GROUP]
    return (*before, *mates, *after)


def own_reasons(around: Surroundings, device: NodeDevice) -> tuple[Reason, ...]:
    """The reasons of the device itself, without its group's."""
    known = around.judged.get(device.name)
    if known is None:
        known = around.judged[device.name] = _own_reasons(around, device)
    return known


def _own_reasons(around: Surroundings, device: NodeDevice) -> tuple[Reason, ...]:
    for rule in _STANDING_ALONE:
        alone = tuple(rule(around, device))
        if alone:
            return alone
    return tuple(reason for rule in _RULES for reason in rule(around, device))


# --- one function a rule, in the order of the table ----------------------------------------------------


def _type_not_assignable(_: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    if device.type not in ASSIGNABLE:
        yield Reason(
            "TYPE_NOT_ASSIGNABLE",
            device.name,
            f"{device.name} is of type {device.type}, which cannot be passed through",
            "assign the PCI function, USB device, SCSI LUN or mediated device that carries it",
        )


def _bridge(_: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    if is_bridge(device):
        yield Reason("BRIDGE", device.name, f"{device.name} is a bridge", "assign a device behind it")


def _usb_hub(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    if around.graph.is_usb_hub(device):
        yield Reason("USB_HUB", device.name, f"{device.name} is a USB hub", "assign a USB device plugged into it")


def _not_leaf(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    graph = around.graph
    below = [
        child.name
        for child in graph.descendants(device.name)
        if child.type == "pci"
        or (child.type == "usb_device" and not graph.is_usb_hub(child))
        or (child.type == "scsi" and graph.usb_parent(child.name) is None)
    ]
    if below:
        shown = ", ".join(below[:5]) + (f" and {len(below) - 5} more" if len(below) > 5 else "")  # noqa: PLR2004
        yield Reason(
            "NOT_LEAF",
            device.name,
            f"{device.name} has devices below it: {shown}",
            "assign one of the devices below, or unplug them",
        )


def _covered_by_parent(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    if device.type != "scsi":
        return
    usb = around.graph.usb_parent(device.name)
    if usb is not None:
        yield Reason(
            "COVERED_BY_PARENT",
            usb.name,
            f"{device.name} is a LUN of the USB device {usb.name}",
            f"assign {usb.name}",
        )


def _pci_class(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    facts = device.facts
    if not isinstance(facts, PciFacts):
        return
    if facts.class_code is None:
        yield Reason(
            "PCI_CLASS",
            device.name,
            f"libvirt does not tell the class of {device.name}, so the profile {around.profile.name} cannot allow it",
            f"update libvirt, {_OR_POLICY}",
        )
    elif not around.profile.allows(facts.class_code):
        yield Reason(
            "PCI_CLASS",
            device.name,
            f"class 0x{facts.class_code:06x} ({class_name(facts.class_code)}) of {device.name} is refused by the "
            f"profile {around.profile.name}",
            f"assign another device; hostdevd serve --profile chooses which classes are allowed, {_OR_POLICY}",
        )


def _no_iommu(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    if isinstance(device.facts, PciFacts) and device.facts.iommu_group is None:
        remedy = "enable VT-d or AMD-Vi in the firmware and boot with intel_iommu=on (Intel); AMD's is on by itself"
        if around.graph.has_iommu_groups():
            remedy = "assign another device: this host's IOMMU is on, and isolates others but not this one"
        yield Reason("NO_IOMMU", device.name, f"{device.name} has no IOMMU group", remedy)


def _has_child_functions(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    facts = device.facts
    count = len(around.graph.virtual_functions(facts)) if isinstance(facts, PciFacts) else 0
    if isinstance(facts, PciFacts) and count:
        yield Reason(
            "HAS_CHILD_FUNCTIONS",
            device.name,
            f"{device.name} has {count} virtual function{'s' if count > 1 else ''}, which would go with it",
            f"assign a virtual function, or remove them first: hostdevctl vf set {device.name} 0",
        )
    mdevs = [child.name for child in around.graph.descendants(device.name) if child.type == "mdev"]
    if mdevs and isinstance(facts, PciFacts):
        yield Reason(
            "HAS_CHILD_FUNCTIONS",
            device.name,
            f"{device.name} is the parent of mediated devices: {', '.join(mdevs)}",
            "assign a mediated device, or remove them first: hostdevctl mdev delete NAME",
        )


def _host_in_use(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    disks = around.graph.shared_disks(device)
    theirs = {use for disk in disks for use in around.uses.get(disk.name, ())}
    for user in (device, *around.graph.descendants(device.name), *disks):
        for use in around.uses.get(user.name, ()):
            if user is device and use in theirs:
                continue  # the disk itself says it better
            if use.kind is HostUseKind.PRIMARY_CONSOLE and _is_allowed(around, device):
                continue
            yield Reason("HOST_IN_USE", user.name, f"{user.name} {_use_text(use)}", _use_remedy(use))


def _use_text(use: HostUse) -> str:
    if _is_described(use):
        return f"is in use by the host {use.detail}"
    return _USE_TEXT[use.kind].format(use.detail).strip()


def _use_remedy(use: HostUse) -> str:
    remedy = None if _is_described(use) else _USE_REMEDY.get(use.kind)
    return (remedy or "stop the host's use of it first").format(use.detail)


def _is_described(use: HostUse) -> bool:
    """Whether the detail says in brackets what the use is, since nothing has a name, as what a container has."""
    return use.detail.startswith("(")


def _no_address(_: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    """Not for the policy to accept: without its facts, neither group nor host use could be judged at all."""
    if device.facts is None:
        yield Reason(
            "HOST_USE_UNKNOWN",
            device.name,
            f"libvirt's description of {device.name} has no usable address",
            "see the device's conditions, and update libvirt",
        )


def _host_use_unknown(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    for vm in around.unread:  # a VM may hold a device of any kind
        yield _unknown_use(device, UNREAD, vm)
    if not around.unknown:
        return
    types = {device.type, *(child.type for child in around.graph.descendants(device.name))}
    types.update(_carries(device))
    for kind, message in around.unknown:
        if kind in types or kind == "pci":
            yield _unknown_use(device, message)


def _unknown_use(device: NodeDevice, why: str, of_vm: OfVm | None = None) -> Reason:
    return Reason(
        "HOST_USE_UNKNOWN",
        device.name,
        f"whether the host uses {device.name} could not be read: {why}",
        f"see the check HOST_USES of `hostdevctl host`, {_OR_POLICY}",
        of_vm,
    )


def _carries(device: NodeDevice) -> Iterator[str]:
    """What stands on a device whether libvirt lists it or not: a disk on a controller, an interface on a NIC."""
    if device.type == "scsi":
        yield "storage"
    if isinstance(device.facts, PciFacts) and device.facts.class_code is not None:
        base = device.facts.class_code >> 16
        if base == _MASS_STORAGE:
            yield "storage"
        elif base == _NETWORK:
            yield "net"


def _group_member_ineligible(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    for mate in group_mates_of(around.graph, device):
        if mate.name == device.name:
            continue
        own = own_reasons(around, mate)
        if own:
            yield Reason(
                "GROUP_MEMBER_INELIGIBLE",
                mate.name,
                f"{mate.name}, in the same IOMMU group {iommu_group_of(device)}, cannot be assigned: {own[0].message}",
                "a group is assigned as a whole or not at all, so neither can be assigned as long as that holds",
                own[0].of_vm,
            )
    for address in _unlisted_mates(around, device):
        yield Reason(
            "GROUP_MEMBER_INELIGIBLE",
            str(address),
            f"{address} is in the same IOMMU group {iommu_group_of(device)}, but libvirt lists no device there",
            "see libvirt's log: it could not describe that function",
        )


def _unlisted_mates(around: Surroundings, device: NodeDevice) -> Iterator[PciAddress]:
    """Members of the group that the kernel knows and libvirt does not list: whether they may go is not known."""
    facts = device.facts
    for address in facts.iommu_addresses if isinstance(facts, PciFacts) else ():
        if not around.graph.at(address):
            yield address


def _driver_override(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    override = around.overrides.get(device.name)
    if override and not is_vfio_driver(override):
        yield Reason(
            "DRIVER_OVERRIDE",
            device.name,
            f"driver_override of {device.name} is {override}; libvirt would clear it",
            "clear it first: echo > driver_override in the device's directory of /sys/bus/pci/devices, " + _OR_POLICY,
        )


def _policy_denied(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
    if not around.policy.deny:
        return
    for rule in around.policy.denying(_traits(around, device)):
        why = f": {rule.comment}" if rule.comment else ""
        yield Reason(
            "POLICY_DENIED",
            device.name,
            f'{device.name} is denied by the rule "{rule.name}" of the policy{why}',
            "assign another device, or have the operator change the policy file (hostdevd reads it again on SIGHUP)",
        )


# --- the policy ----------------------------------------------------------------------------------------


def _traits(around: Surroundings, device: NodeDevice) -> Traits:
    return traits(device, around.uids.get(device.name, ""), around.drivers.get(device.name))


def _is_allowed(around: Surroundings, device: NodeDevice) -> bool:
    return around.policy.allows(_traits(around, device))


def _unless_allowed(rule: Rule) -> Rule:
    """A rule of which an allow rule of the policy takes the reasons away."""

    def judged(around: Surroundings, device: NodeDevice) -> Iterator[Reason]:
        found = tuple(rule(around, device))
        if found and not _is_allowed(around, device):
            yield from found

    return judged


_STANDING_ALONE: tuple[Rule, ...] = (_type_not_assignable, _bridge, _usb_hub)
_RULES: tuple[Rule, ...] = (
    _not_leaf,
    _covered_by_parent,
    _unless_allowed(_pci_class),
    _no_iommu,
    _has_child_functions,
    _host_in_use,
    _no_address,
    _unless_allowed(_host_use_unknown),
    _unless_allowed(_driver_override),
    _policy_denied,
)
_ALONE = frozenset({"TYPE_NOT_ASSIGNABLE", "BRIDGE", "USB_HUB"})
_AFTER_GROUP = frozenset({"DRIVER_OVERRIDE", "POLICY_DENIED"})
