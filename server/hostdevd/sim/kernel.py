"""The simulated kernel: devices that come and go, drivers, IOMMU groups.

What the host built on a device (interfaces, disks, LUNs, USB devices, VFs) is not on the host while the
device is bound away, and comes back with its driver. (Real VFs would have to be made again.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hostdevd.core.addresses import DeviceSource, PciAddress
from hostdevd.core.graph import DeviceGraph, endpoints, iommu_group_of, is_transparent_bridge
from hostdevd.core.model import NodeDevice, PciFacts, UsbFacts
from hostdevd.core.ports import DriverState, Event, HostChanged, HypervisorError, NodeDeviceChanged
from hostdevd.sim.extras import DriverExtras
from hostdevd.sim.faults import ErrorNumber, no_node_device, refusal
from hostdevd.sim.listed import MdevKind, mdev_kinds, with_neighbours
from hostdevd.virt.xml.nodedev import node_device

VFIO = "vfio-pci"
_STUBS = frozenset({VFIO, "pci-stub"})


@dataclass(slots=True)
class SimDevice:
    """One device: its document as read, and what the kernel knows beside it.

    `native` is the driver that probing finds. `boot_driver` and `boot_override` are what the operator's
    set-up gives it at every boot. An unplugged device is remembered, to be plugged again.
    """

    xml: str
    node: NodeDevice
    native: str | None
    driver: str | None
    override: str | None
    boot_driver: str | None
    boot_override: str | None
    plugged: bool = True
    lasting: bool = True
    """Still there after a reboot; a mediated device that is not defined goes with it."""

    @property
    def bound_away(self) -> bool:
        """Not with the host's own driver, so nothing is built on it."""
        return self.driver in _STUBS or (self.driver is None and self.native is not None)


class Kernel:
    """All devices.

    `held` tells whether a guest has a device open, `emit` gets the kernel's events, `drivers` tells by name
    what the documents do not.
    """

    def __init__(
        self,
        held: Callable[[DeviceSource], bool],
        emit: Callable[[Event], None],
        drivers: Mapping[str, DriverExtras],
    ) -> None:
        self.devices: dict[str, SimDevice] = {}
        self.graph = DeviceGraph()
        self._drivers = drivers
        self._held = held
        self._emit = emit
        self._first_mdevs: Counter[MdevKind] = Counter()

    # --- coming and going ----------------------------------------------------------------------------

    def add(self, xml: str) -> SimDevice:
        """Put a device into the machine; no event, as for one that is there at boot."""
        node = node_device(xml)
        told = self._drivers.get(node.name, DriverExtras())
        device = SimDevice(
            xml=xml,
            node=node,
            native=told.native or (None if node.driver in _STUBS else node.driver),
            driver=node.driver,
            override=told.override or None,
            boot_driver=node.driver,
            boot_override=told.override or None,
        )
        self.devices[node.name] = device
        self.graph.put(node)
        return device

    def complete(self) -> None:
        """All that the machine begins with is there."""
        self._first_mdevs = mdev_kinds(self.graph.nodes.values())

    def plug(self, xml: str) -> str:
        """A device is plugged in, new or again; its name."""
        before = self.devices.get(node_device(xml).name)
        if before is None:
            device = self.add(xml)
        else:
            device = replace(before, xml=xml, node=node_device(xml), plugged=True)
            device.driver, device.override = device.boot_driver, device.boot_override
            self.devices[device.node.name] = device
            self.graph.put(device.node)
        self._emit(NodeDeviceChanged(device.node.name))
        return device.node.name

    def unplug(self, name: str) -> list[str]:
        """The device is pulled out with all below it; the names that went, children first."""
        self.device(name)
        below = [each.name for each in self.graph.descendants(name)]
        gone = [*reversed(below), name]
        seen = [each for each in gone if self.visible(each)]
        for each in gone:
            self.devices[each].plugged = False
            self.graph.remove(each)
        for each in seen:
            self._emit(NodeDeviceChanged(each))
        return gone

    def forget(self, name: str) -> None:
        """A device that was made is removed for good."""
        self.unplug(name)
        del self.devices[name]

    def rewrite(self, document: Callable[[str], str], name: Callable[[str], str]) -> None:
        """Give every device its document anew, with the name in it; `name` tells the new one. No event."""
        moved = {}
        for device in self.devices.values():
            xml = document(device.xml)
            # libvirt's driver in the document is the one of when it was read first.
            node = node_device(xml)
            moved[node.name] = replace(device, xml=xml, node=node)
        self.devices.clear()
        self.devices.update(moved)
        self.graph = DeviceGraph(device.node for device in moved.values() if device.plugged)
        self._drivers = {name(old): told for old, told in self._drivers.items()}

    def boot(self) -> None:
        """All drivers as the operator's set-up has them after a boot; what does not last is gone."""
        for name in [name for name, device in self.devices.items() if not device.lasting]:
            del self.devices[name]
            self.graph.remove(name)
        for device in self.devices.values():
            device.driver, device.override = device.boot_driver, device.boot_override

    # --- looking -------------------------------------------------------------------------------------

    def device(self, name: str) -> SimDevice:
        """A device that is plugged and seen by the host; error 53 otherwise."""
        device = self.devices.get(name)
        if device is None or not self.visible(name):
            raise no_node_device(name)
        return device

    def node(self, name: str) -> NodeDevice:
        """The device as libvirt tells of it now: it reads the driver and the neighbours anew each time."""
        device = self.device(name)
        node = device.node if device.node.driver == device.driver else replace(device.node, driver=device.driver)
        here = (one for one in self._neighbours(node) if self.visible(one.name))
        return with_neighbours(node, here, self._first_mdevs)

    def _neighbours(self, node: NodeDevice) -> Iterator[NodeDevice]:
        number = iommu_group_of(node)
        if number is not None:
            yield from self.graph.iommu_members(number)
        if "virt_functions" in node.detail:
            yield from self.graph.nodes.values()
        elif "mdev_types" in node.detail:
            yield from (self.graph.nodes[name] for name in self.graph.children(node.name))

    def visible(self, name: str) -> bool:
        """Whether the host sees the device: it is plugged, and nothing above it is bound away."""
        device = self.devices.get(name)
        if device is None or not device.plugged:
            return False
        facts = device.node.facts
        if isinstance(facts, PciFacts):
            return facts.phys_function is None or not self._bound_away(facts.phys_function)
        return not any(self._hides(self.devices[above.name], device.node) for above in self.graph.ancestors(name))

    def names(self) -> frozenset[str]:
        """All devices that the host sees."""
        return frozenset(filter(self.visible, self.graph.nodes))

    def at(self, source: DeviceSource) -> list[SimDevice]:
        """The devices that the host sees at an address."""
        return [self.devices[name] for name in self.graph.at(source) if self.visible(name)]

    def pci(self, address: PciAddress) -> SimDevice | None:
        """The PCI function at an address."""
        return next(iter(self.at(address)), None)

    def driver(self, address: PciAddress) -> DriverState:
        """What sysfs says of the function."""
        device = self.pci(address)
        if device is None:
            return DriverState(present=False)
        return DriverState(present=True, driver=device.driver, override=device.override)

    def _bound_away(self, address: PciAddress) -> bool:
        return any(self.devices[name].bound_away for name in self.graph.at(address))

    def _hides(self, above: SimDevice, node: NodeDevice) -> bool:
        if isinstance(above.node.facts, PciFacts):
            return above.bound_away
        if isinstance(above.node.facts, UsbFacts) and node.type not in {"usb_device", "usb_interface"}:
            # QEMU takes the interfaces from their drivers, so the stick's disk goes.
            return self._held(above.node.facts.address)
        return False

    # --- drivers -------------------------------------------------------------------------------------

    def bind_vfio(self, device: SimDevice) -> None:
        """Unbind from the host's driver and bind to vfio-pci, which refuses bridges and what has no group."""
        facts = _pci_facts(device)
        if is_transparent_bridge(device.node) or facts.header_type not in {None, "endpoint"}:
            raise _not_bound(facts.address)
        if facts.iommu_group is None:
            raise _not_bound(facts.address)
        if device.driver != VFIO:
            self._rebind(device, VFIO, VFIO)

    def give_back(self, device: SimDevice) -> None:
        """Unbind from vfio-pci, clear driver_override and probe.

        The host's driver does not get a function whose IOMMU group a guest has open (kernel 5.19 and
        later); nothing probes again by itself when the guest has let go.
        """
        if device.driver is not None and device.driver not in _STUBS:
            return
        opened = any(self._held(_pci_facts(self.devices[mate.name]).address) for mate in self._group(device))
        self._rebind(device, None if opened else device.native, None)

    def not_viable(self, device: SimDevice) -> int | None:
        """The number of the device's IOMMU group when another endpoint in it has a driver of the host's."""
        for mate in self._group(device):
            driver = self.devices[mate.name].driver
            if driver is not None and driver not in _STUBS:
                return iommu_group_of(device.node)
        return None

    def _group(self, device: SimDevice) -> tuple[NodeDevice, ...]:
        group = iommu_group_of(device.node)
        if group is None:
            return (device.node,)
        return tuple(mate for mate in endpoints(self.graph.iommu_members(group)) if isinstance(mate.facts, PciFacts))

    def _rebind(self, device: SimDevice, driver: str | None, override: str | None) -> None:
        with self.watching(device.node):
            device.driver, device.override = driver, override
        # Binding makes a uevent; node devices say nothing of it.
        self._emit(HostChanged(device.node.path or ""))

    @contextmanager
    def watching(self, *nodes: NodeDevice) -> Iterator[None]:
        """While in it, devices below these may appear or vanish; those that did are told at the end."""
        below: dict[str, bool] = {}
        for node in nodes:
            names = [each.name for each in self.graph.descendants(node.name)]
            if isinstance(node.facts, PciFacts):
                names += [name for address in node.facts.virt_functions for name in self.graph.at(address)]
            below |= {name: self.visible(name) for name in names}
        yield
        for name, before in below.items():
            if self.visible(name) != before:
                self._emit(NodeDeviceChanged(name))


def _pci_facts(device: SimDevice) -> PciFacts:
    if not isinstance(device.node.facts, PciFacts):
        raise refusal(ErrorNumber.INVALID_ARG, f"device {device.node.name} is not a PCI device")
    return device.node.facts


def _not_bound(address: PciAddress) -> HypervisorError:
    return refusal(ErrorNumber.INTERNAL_ERROR, f"Failed to bind PCI device '{address}' to {VFIO}: Invalid argument")
