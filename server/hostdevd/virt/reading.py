"""What is read of each libvirt object but a domain (`domains`), in one go, on a read thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import libvirt

from hostdevd.core.model import HypervisorInfo, Network, NodeDevice, undescribed
from hostdevd.core.ports import HypervisorError, HypervisorGone, NoSuchObject
from hostdevd.virt.calls import Link, NoDaemon
from hostdevd.virt.handles import NetworkHandle, NodeDeviceHandle
from hostdevd.virt.xml.capabilities import host_uuid
from hostdevd.virt.xml.network import network

ParseNodeDevice = Callable[[str, str], NodeDevice]
"""The XML and libvirt's name of the device to the device. It never fails: see `xml.nodedev`."""


@dataclass(frozen=True, slots=True)
class Told:
    """What libvirt says of one node device: its XML, or why it cannot say it."""

    name: str
    xml: str = ""
    fault: str = ""


def read_node_device(link: Link, device: NodeDeviceHandle) -> Told:
    """One device; what libvirt cannot say of it is told as well, and is no gap in the list."""
    name = device.name()  # of the handle: nothing is asked of libvirt
    try:
        return Told(name, link.call(device.XMLDesc))
    except (NoSuchObject, HypervisorGone):
        raise
    except HypervisorError as error:  # a sysfs file that cannot be read, a right that is missing
        return Told(name, fault=error.text)


def as_node_device(told: Told, parse: ParseNodeDevice) -> NodeDevice:
    """What was told, as a device: what is said oddly, or could not be, is a condition of it."""
    return undescribed(told.name, told.fault) if told.fault else parse(told.xml, told.name)


def list_networks(link: Link) -> list[NetworkHandle]:
    """The active networks; a libvirt without a network driver, or without virtnetworkd, has none."""
    try:
        return link.call(link.handle.listAllNetworks, libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
    except NoDaemon:
        return []
    except HypervisorError as error:
        if error.code == libvirt.VIR_ERR_NO_SUPPORT:
            return []
        raise


def read_network(link: Link, handle: NetworkHandle) -> Network | None:
    """One network with its pool; None when it hands out no devices."""
    found = network(link.call(handle.XMLDesc, 0))
    # Whoever reads of a gap must know where to look.
    return replace(found, name=handle.name()) if found is not None and not found.name else found


def read_info(link: Link) -> HypervisorInfo:
    """Who answers; the UUID is what libvirt takes for the host's own, or its system device's."""
    handle = link.handle
    return HypervisorInfo(
        name=link.call(handle.getHostname),
        uuid=host_uuid(link.call(handle.getCapabilities)) or _system_uuid(link),
        connection_uri=link.call(handle.getURI),
        libvirt_version=_version(link.call(handle.getLibVersion)),
        hypervisor=link.call(handle.getType),
        hypervisor_version=_version(link.call(handle.getVersion)),
    )


def _system_uuid(link: Link) -> str:
    try:
        return host_uuid(link.call(link.call(link.handle.nodeDeviceLookupByName, "computer").XMLDesc))
    except NoSuchObject:
        return ""


def _version(number: int) -> str:
    # 9000000 is 9.0.0, in all of libvirt's versions and its hypervisors'.
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
