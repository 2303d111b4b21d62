"""polkit's actions by the function of libvirt's that needs them (from its `remote_protocol.x`): all that are called."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_API = "org.libvirt.api."
RIGHTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "open": ("org.libvirt.unix.manage", f"{_API}connect.getattr"),
        **dict.fromkeys(
            (
                f"virConnect.{name}"
                for name in ("getURI", "getType", "getVersion", "getLibVersion", "registerCloseCallback")
            ),
            (f"{_API}connect.getattr",),
        ),
        "virConnect.getHostname": (f"{_API}connect.read",),
        "virConnect.getCapabilities": (f"{_API}connect.read",),
        "virConnect.domainEventRegisterAny": (f"{_API}connect.search-domains",),
        "virConnect.listAllDomains": (f"{_API}connect.search-domains", f"{_API}domain.getattr"),
        "virConnect.lookupByUUIDString": (f"{_API}domain.getattr",),
        "virConnect.listDevices": (f"{_API}connect.search-node-devices", f"{_API}node-device.getattr"),
        "virConnect.listAllDevices": (f"{_API}connect.search-node-devices", f"{_API}node-device.getattr"),
        "virConnect.nodeDeviceEventRegisterAny": (f"{_API}connect.search-node-devices",),
        "virConnect.nodeDeviceLookupByName": (f"{_API}node-device.getattr",),
        "virConnect.listAllNetworks": (f"{_API}connect.search-networks", f"{_API}network.getattr"),
        "virConnect.networkEventRegisterAny": (f"{_API}connect.search-networks",),
        "virDomain.XMLDesc": (f"{_API}domain.read",),
        "virDomain.hasManagedSaveImage": (f"{_API}domain.read",),
        "virDomain.isPersistent": (f"{_API}domain.read",),
        "virDomain.state": (f"{_API}domain.read",),
        "virDomain.attachDeviceFlags": (f"{_API}domain.write", f"{_API}domain.save"),
        "virDomain.detachDeviceAlias": (f"{_API}domain.write", f"{_API}domain.save"),
        "virDomain.detachDeviceFlags": (f"{_API}domain.write", f"{_API}domain.save"),
        "virNetwork.XMLDesc": (f"{_API}network.read",),
        "virNodeDevice.XMLDesc": (f"{_API}node-device.read",),
        "virNodeDevice.isActive": (f"{_API}node-device.read",),
        "virNodeDevice.isPersistent": (f"{_API}node-device.read",),
        "virConnect.nodeDeviceCreateXML": (f"{_API}node-device.write", f"{_API}node-device.start"),
        "virConnect.nodeDeviceDefineXML": (f"{_API}node-device.write",),
        "virNodeDevice.setAutostart": (f"{_API}node-device.write",),
        "virNodeDevice.create": (f"{_API}node-device.start",),
        "virNodeDevice.destroy": (f"{_API}node-device.stop",),
        "virNodeDevice.undefine": (f"{_API}node-device.delete",),
        "virNodeDevice.detachFlags": (f"{_API}node-device.detach",),
        "virNodeDevice.reAttach": (f"{_API}node-device.detach",),
    }
)
