"""Mediated devices through libvirt's node device calls (jobs for a thread)."""

from __future__ import annotations

import libvirt

from hostdevd.core.ports import HypervisorError, MdevSpec, NoSuchObject
from hostdevd.virt.calls import Link
from hostdevd.virt.handles import NodeDeviceHandle
from hostdevd.virt.xml.mdev import build_mdev
from hostdevd.virt.xml.parser import parse


def create_mdev(spec: MdevSpec, link: Link) -> str:
    """Make what `spec` asks for, or what is missing of it; libvirt's name of the device."""
    xml = build_mdev(spec)
    found = _find(link, spec)
    if found is None and not spec.persistent:
        return link.call(link.call(link.handle.nodeDeviceCreateXML, xml, 0).name)
    defined = None
    if spec.persistent and (found is None or not link.call(found.isPersistent)):
        defined = found = link.call(link.handle.nodeDeviceDefineXML, xml, 0)
    if found is None:  # what the two lines above leave out, and the checker cannot see
        raise AssertionError(spec)
    try:
        if spec.persistent:
            link.call(found.setAutostart, 1)
        if not link.call(found.isActive):
            link.call(found.create, 0)
    except HypervisorError:
        if defined is not None and not link.call(defined.isActive):
            link.call(defined.undefine, 0)
        raise
    return link.call(found.name)


def delete_mdev(name: str, link: Link) -> None:
    """Stop it where it runs, and remove its definition where it has one."""
    device = link.call(link.handle.nodeDeviceLookupByName, name)
    persistent = link.call(device.isPersistent)  # first: one that is not is gone when it has stopped
    if link.call(device.isActive):
        link.call(device.destroy)
    if persistent:
        link.call(device.undefine, 0)


def _find(link: Link, spec: MdevSpec) -> NodeDeviceHandle | None:
    """The device of this UUID on this parent, running or only defined."""
    for device in link.call(link.handle.listAllDevices, libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV):
        try:
            root = parse(link.call(device.XMLDesc, 0))
        except NoSuchObject:
            continue
        if (root.findtext("capability/uuid", "").lower(), root.findtext("parent", "")) == (spec.uuid, spec.parent):
            return device
    return None
