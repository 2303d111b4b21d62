"""Devices by the names that people know: a PCI address, a network interface, a disk. Never a guess between two."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from hostdev.cli.failures import Refusal
from hostdev.cli.output import note
from hostdev.client import HostdevClient
from hostdev.errors import HostdevApiError, NotFoundError
from hostdev.v1 import device_pb2

_PCI_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
_LIBVIRT_NAME = re.compile(r"(ap|block|ccw|ccwgroup|css|dev|drm|grp|mdev|net|pci|scsi|usb|vdpa)[_-].*|computer")
_ASSIGNABLE = frozenset({"pci", "usb_device", "scsi", "mdev"})


def device_name(client: HostdevClient, given: str) -> str:
    """Libvirt's name or the uid of the device that is meant; what is not known is left to the server.

    `0000:04:00.0` and `04:00.0` are PCI addresses. `eth1` and `sda` (`/dev/sda`) are the device that has the
    interface or the disk: the one that can be assigned.

    Raises:
        Refusal: the name fits several devices.
    """
    if address := _PCI_ADDRESS.fullmatch(given):
        domain, bus, slot, function = address.groups()
        return f"pci_{domain or '0000'}_{bus}_{slot}_{function}".lower()
    if not given or _LIBVIRT_NAME.fullmatch(given):
        return given
    wanted = device_pb2.DeviceFilter(types=["net", "storage"])
    owners = {_owner(client, one) for one in client.list_devices(wanted) if given in _names(one)}
    if len(owners) > 1:
        raise Refusal(f"{given} fits several devices: {', '.join(sorted(owners))}; name one of them")
    for owner in owners:
        note(f"hostdevctl: {given} is {owner}")
        return owner
    return given


def device_names(client: HostdevClient, given: Iterable[str] | None) -> list[str]:
    """The same for many."""
    return [device_name(client, one) for one in given or ()]


def nothing(text: str, client: HostdevClient, devices: Iterable[str], vms: Iterable[str]) -> Callable[[], str]:
    """Why a list that may have been narrowed is empty: a mistyped name matches nothing, and is told."""

    def tell() -> str:
        unknown = [f"no device is called {one}" for one in devices if not _is_device(client, one)]
        unknown += [f"no VM is called {one}" for one in vms if not _is_vm(client, one)]
        return "; ".join(unknown or [text])

    return tell


def _is_device(client: HostdevClient, name: str) -> bool:
    try:
        client.get_device(name)
    except NotFoundError:
        return False
    return True


def _is_vm(client: HostdevClient, name: str) -> bool:
    """Whether there is such a VM. The API has no list of them; a dry run that cannot succeed says so first."""
    try:
        client.attach(name, "computer", validate_only=True)
    except HostdevApiError as error:
        return error.reason != "VM_NOT_FOUND"
    return True


def _names(device: device_pb2.Device) -> Iterator[str]:
    if device.HasField("net"):
        yield device.net.interface
    for node in device.devnodes:
        yield node
        yield node.removeprefix("/dev/")
    if device.HasField("storage") and device.storage.block:
        yield device.storage.block
        yield device.storage.block.removeprefix("/dev/")


def _owner(client: HostdevClient, device: device_pb2.Device) -> str:
    """The nearest device above that can be assigned by its type; the device itself where there is none."""
    one = device
    while one.type not in _ASSIGNABLE and one.parent:
        try:
            one = client.get_device(one.parent)
        except NotFoundError:  # libvirt may tell a parent that it does not list
            break
    return one.name if one.type in _ASSIGNABLE else device.name
