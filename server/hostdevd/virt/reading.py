"""What is read of each libvirt object, in one go, on a read thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import libvirt

from hostdevd.core.model import Domain, HypervisorInfo, Network, NodeDevice, Vm, VmState, undescribed
from hostdevd.core.ports import HypervisorError, HypervisorGone, NoSuchObject
from hostdevd.virt.calls import Link, NoDaemon
from hostdevd.virt.handles import DomainHandle, NetworkHandle, NodeDeviceHandle
from hostdevd.virt.xml.capabilities import host_uuid
from hostdevd.virt.xml.domain import domain_def, is_running_xml, network_macs
from hostdevd.virt.xml.network import network

ParseNodeDevice = Callable[[str, str], NodeDevice]
"""The XML and libvirt's name of the device to the device. It never fails: see `xml.nodedev`."""

_ACTIVE: Mapping[int, VmState] = {
    libvirt.VIR_DOMAIN_NOSTATE: VmState.RUNNING,
    libvirt.VIR_DOMAIN_RUNNING: VmState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: VmState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: VmState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: VmState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: VmState.SUSPENDED,
    # A panicked guest that `on_crash` preserves: it runs no more, but holds what it held.
    libvirt.VIR_DOMAIN_CRASHED: VmState.PAUSED,
}
"""The state of a domain that has a guest. One state for what "shutting down" is: it holds until it is off."""

_LIVE_XML_TRIES = 3


def read_node_device(link: Link, device: NodeDeviceHandle, parse: ParseNodeDevice) -> NodeDevice:
    """One device; what libvirt cannot say of it, or says oddly, is a condition and not a gap in the list."""
    name = link.call(device.name)
    try:
        xml = link.call(device.XMLDesc)
    except (NoSuchObject, HypervisorGone):
        raise
    except HypervisorError as error:  # a sysfs file that cannot be read, a right that is missing
        return undescribed(name, error.text)
    return parse(xml, name)


def read_domain(link: Link, domain: DomainHandle) -> Domain:
    """One domain with both definitions, all of the same moment as far as `live` and `state` go."""
    persistent = bool(link.call(domain.isPersistent))
    config_xml = link.call(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE) if persistent else None
    state, live_xml = _state_and_live_xml(link, domain)
    pool_macs = frozenset[str]() if config_xml is None else network_macs(config_xml)
    return Domain(
        vm=Vm(
            name=link.call(domain.name),
            uuid=link.call(domain.UUIDString),
            state=state,
            persistent=persistent,
            managed_save=_managed_save(link, domain),
        ),
        live=None if live_xml is None else domain_def(live_xml, pool_macs),
        config=None if config_xml is None else domain_def(config_xml),
    )


def _state_and_live_xml(link: Link, domain: DomainHandle) -> tuple[VmState, str | None]:
    # Asked for the XML of a domain that stopped meanwhile, libvirt gives the inactive one without a word.
    for _ in range(_LIVE_XML_TRIES):
        state = link.call(domain.state)[0]
        if state == libvirt.VIR_DOMAIN_SHUTOFF:
            return VmState.SHUT_OFF, None
        xml = link.call(domain.XMLDesc)
        if is_running_xml(xml):
            return _ACTIVE.get(state, VmState.RUNNING), xml
        if state == libvirt.VIR_DOMAIN_CRASHED:
            return VmState.CRASHED, None
    raise HypervisorError(libvirt.VIR_ERR_OPERATION_INVALID, "the domain starts and stops faster than it is read")


def _managed_save(link: Link, domain: DomainHandle) -> bool:
    try:
        return bool(link.call(domain.hasManagedSaveImage))
    except HypervisorError as error:
        # A driver without saved images has none.
        if error.code == libvirt.VIR_ERR_NO_SUPPORT:
            return False
        raise


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
    return replace(found, name=link.call(handle.name)) if found is not None and not found.name else found


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
