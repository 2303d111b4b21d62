"""The picture of what goes together: a group's members with drivers, holders and host uses, and what vanishes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rich.text import Text
from rich.tree import Tree

from hostdev.cli.marks import NEVER
from hostdev.cli.output import cell
from hostdev.cli.words import lower, scopes, uses, word
from hostdev.client import HostdevClient
from hostdev.errors import HostdevApiError
from hostdev.v1 import device_pb2, error_pb2, group_pb2, holder_pb2

_OF_MATES = frozenset({error_pb2.ERROR_REASON_GROUP_MEMBER_INELIGIBLE})
_NEVER_NEWS = NEVER | _OF_MATES


def group_of(client: HostdevClient, device: str) -> group_pb2.Group | None:
    """The group of a device; None for one that stands for itself."""
    try:
        return client.get_group(device=device)
    except HostdevApiError as error:
        if error.reason == "GROUP_NOT_FOUND":
            return None
        raise


def group_by_any_name(client: HostdevClient, name: str) -> group_pb2.Group:
    """The group with this uid, or the group of the device with this name or uid."""
    try:
        return client.get_group(device=name)
    except HostdevApiError as no_device:
        if no_device.reason != "DEVICE_NOT_FOUND":
            raise
        try:
            return client.get_group(group=name)
        except HostdevApiError as no_group:
            raise no_device if no_group.reason == "GROUP_NOT_FOUND" else no_group from None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Devices that are taken together or vanish, by libvirt's names, and which of them stand below which.

    Between two of them there may be others, which are not affected: a SCSI host, a hub.
    """

    devices: Mapping[str, device_pb2.Device]
    below: Mapping[str, list[device_pb2.Device]]


def around(client: HostdevClient, device: device_pb2.Device) -> Surroundings:
    """The device and all that is affected by taking it."""
    affected = client.list_devices(device_pb2.DeviceFilter(affected_by=device.uid or device.name))
    found = {one.name: one for one in (device, *affected)}
    parents: dict[str, str] = {}
    below: dict[str, list[device_pb2.Device]] = defaultdict(list)
    for one in found.values():
        above = one.parent
        while above and above not in found:
            if above not in parents:
                parents[above] = _parent(client, above)
            above = parents[above]
        below[above].append(one)
    return Surroundings(found, below)


def members(client: HostdevClient, group: group_pb2.Group) -> Surroundings:
    """The endpoints of a group and all that is affected by taking it."""
    endpoint = next((one for one in group.members if one.role == group_pb2.GROUP_MEMBER_ROLE_ENDPOINT), None)
    if endpoint is None:
        return Surroundings({}, {})
    return around(client, client.get_device(endpoint.uid or endpoint.name))


def _parent(client: HostdevClient, name: str) -> str:
    try:
        return client.get_device(name).parent
    except HostdevApiError as error:
        if error.reason == "DEVICE_NOT_FOUND":  # libvirt may tell a parent that it does not list
            return ""
        raise


def group_picture(group: group_pb2.Group, known: Surroundings, *, marked: str = "") -> Tree:
    """A group and its members; the device named `marked` is pointed at."""
    title = "IOMMU group " + str(group.iommu_group) if group.HasField("iommu_group") else "group"
    viable = "ready for VFIO" if group.viable else "not bound to VFIO yet"
    root = Tree(cell(Text.assemble((title, "bold"), f"  {group.uid}  ", (viable, "dim"))), guide_style="dim")
    names = {member.name for member in group.members}
    for member in group.members:
        label = Text(member.name, style="bold" if member.name == marked else "")
        device = known.devices.get(member.name)
        if device is not None and device.description:
            label.append(f"  {device.description}", style="not bold")
        label.append(f"  [{member.driver or 'no driver'}]", style="not bold cyan")
        if member.role == group_pb2.GROUP_MEMBER_ROLE_BRIDGE:
            label.append("  bridge, stays with the host", style="not bold dim")
        if member.name == marked:
            label.append("  ← this device", style="not bold")
        branch = root.add(cell(label))
        holders = [held for held in group.holders if held.uid == member.uid]
        if device is not None:
            _hang(branch, device, known, holders or device.holders, hidden=_OF_MATES, listed=names)
        else:
            _hang_holders(branch, holders)
    return root


def device_picture(device: device_pb2.Device, known: Surroundings) -> Tree:
    """A device that stands for itself."""
    label = Text.assemble(
        (device.name, "bold"), f"  {device.description}", (f"  [{device.driver or 'no driver'}]", "cyan")
    )
    root = Tree(cell(label), guide_style="dim")
    _hang(root, device, known, device.holders, hidden=_OF_MATES, listed={device.name})
    return root


def _hang(
    branch: Tree,
    device: device_pb2.Device,
    known: Surroundings,
    holders: Iterable[holder_pb2.Holder],
    *,
    hidden: AbstractSet[error_pb2.ErrorReason.ValueType],
    listed: AbstractSet[str],
) -> None:
    """Below a device: who holds it, what the host uses it for, and the devices that vanish with it.

    `hidden` are reasons not worth telling here; `listed` the group's members, which have a place of their own.
    """
    _hang_holders(branch, holders)
    if device.host_uses:
        branch.add(cell(Text(f"the host uses it: {uses(device)}", style="magenta")))
    if own := [reason for reason in device.eligibility.reasons if reason.code not in hidden]:
        branch.add(cell(Text(", ".join(dict.fromkeys(word(reason, "code") for reason in own)), style="red")))
    for below in known.below.get(device.name, ()):
        if below.name in listed:
            continue
        label = Text.assemble(below.name, f"  {below.description}", ("  would vanish from the host", "yellow"))
        _hang(branch.add(cell(label)), below, known, below.holders, hidden=_NEVER_NEWS, listed=listed)


def _hang_holders(branch: Tree, holders: Iterable[holder_pb2.Holder]) -> None:
    for held in holders:
        reserved = ", reserved" if held.role == holder_pb2.HOLDER_ROLE_RESERVED else ""
        text = f"held by {held.vm.name} ({lower(held.vm, 'state')}, {scopes(held)}{reserved})"
        branch.add(cell(Text(text, style="yellow")))
