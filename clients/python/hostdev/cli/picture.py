"""The picture of what goes together: a group's members with drivers, holders and host uses, and what vanishes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.text import Text
from rich.tree import Tree

from hostdev.cli.marks import NEVER
from hostdev.cli.output import cell
from hostdev.cli.words import lower, scopes, uses, word
from hostdev.client import HostdevClient
from hostdev.errors import HostdevApiError
from hostdev.v1 import device_pb2, group_pb2, holder_pb2


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


def around(client: HostdevClient, device: device_pb2.Device) -> dict[str, device_pb2.Device]:
    """The device and all that is affected by taking it, by libvirt's names."""
    affected = client.list_devices(device_pb2.DeviceFilter(affected_by=device.uid or device.name))
    return {one.name: one for one in (device, *affected)}


def members(client: HostdevClient, group: group_pb2.Group) -> dict[str, device_pb2.Device]:
    """The endpoints of a group and all that is affected by taking it, by libvirt's names."""
    endpoint = next((one for one in group.members if one.role == group_pb2.GROUP_MEMBER_ROLE_ENDPOINT), None)
    return {} if endpoint is None else around(client, client.get_device(endpoint.uid or endpoint.name))


def group_picture(group: group_pb2.Group, known: Mapping[str, device_pb2.Device], *, marked: str = "") -> Tree:
    """A group and its members; the device named `marked` is pointed at."""
    title = "IOMMU group " + str(group.iommu_group) if group.HasField("iommu_group") else "group"
    viable = "ready for VFIO" if group.viable else "not bound to VFIO yet"
    root = Tree(cell(Text.assemble((title, "bold"), f"  {group.uid}  ", (viable, "dim"))), guide_style="dim")
    for member in group.members:
        label = Text(member.name, style="bold" if member.name == marked else "")
        device = known.get(member.name)
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
            _hang(branch, device, known, holders or device.holders)
        else:
            _hang_holders(branch, holders)
    return root


def device_picture(device: device_pb2.Device, known: Mapping[str, device_pb2.Device]) -> Tree:
    """A device that stands for itself."""
    label = Text.assemble(
        (device.name, "bold"), f"  {device.description}", (f"  [{device.driver or 'no driver'}]", "cyan")
    )
    root = Tree(cell(label), guide_style="dim")
    _hang(root, device, known, device.holders)
    return root


def _hang(
    branch: Tree,
    device: device_pb2.Device,
    known: Mapping[str, device_pb2.Device],
    holders: Iterable[holder_pb2.Holder],
) -> None:
    """Below a device: who holds it, what the host uses it for, and the devices that vanish with it."""
    _hang_holders(branch, holders)
    if device.host_uses:
        branch.add(cell(Text(f"the host uses it: {uses(device)}", style="magenta")))
    own = [one for one in device.eligibility.reasons if one.code not in NEVER and one.subject in {"", device.name}]
    if own:
        branch.add(cell(Text(", ".join(dict.fromkeys(word(reason, "code") for reason in own)), style="red")))
    for child in device.children:
        if (below := known.get(child)) is not None:
            label = Text.assemble(below.name, f"  {below.description}", ("  would vanish from the host", "yellow"))
            _hang(branch.add(cell(label)), below, known, below.holders)


def _hang_holders(branch: Tree, holders: Iterable[holder_pb2.Holder]) -> None:
    for held in holders:
        reserved = ", reserved" if held.role == holder_pb2.HOLDER_ROLE_RESERVED else ""
        text = f"held by {held.vm.name} ({lower(held.vm, 'state')}, {scopes(held)}{reserved})"
        branch.add(cell(Text(text, style="yellow")))
