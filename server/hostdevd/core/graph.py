"""The node devices of one host with the indexes that the rules ask: tree, addresses, IOMMU groups, paths."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from hostdevd.core.addresses import DeviceSource, MdevUuid, PciAddress, ScsiAddress, UsbAddress, UsbProduct
from hostdevd.core.model import MdevFacts, NetFacts, NodeDevice, PciFacts, ScsiFacts, UsbFacts, UsbInterfaceFacts
from hostdevd.core.multimap import MultiMap

BRIDGE_CLASS = 0x06
PCI_TO_PCI_BRIDGE = 0x0604
USB_HUB_CLASS = 0x09


class DeviceGraph:
    """All node devices; `put` and `remove` keep every index, the rest only reads.

    The tree follows the parents' names; a parent that libvirt does not list is tolerated (rules.md), its
    children are then roots.
    """

    def __init__(self, devices: Iterable[NodeDevice] = ()) -> None:
        self._nodes: dict[str, NodeDevice] = {}
        self._children: MultiMap[str, str] = MultiMap()
        self._iommu: MultiMap[int, str] = MultiMap()
        self._by_source: MultiMap[DeviceSource, str] = MultiMap()
        # Two for a moment while libvirt gives a device another name: the last to come may be the first to go.
        self._by_path: MultiMap[str, str] = MultiMap()
        self._by_interface: MultiMap[str, str] = MultiMap()
        self._of_function: MultiMap[PciAddress, str] = MultiMap()
        self._by_type: MultiMap[str, str] = MultiMap()
        # By path, as one may be known before the other is.
        self._disks_of: MultiMap[str, str] = MultiMap()
        self._functions_of: Mapping[str, tuple[str, ...]] = {}
        # In order, as they are asked for again and again; kept in order, or dropped, when a device comes or goes.
        self._children_sorted: dict[str, tuple[str, ...]] = {}
        self._members_sorted: dict[int, tuple[NodeDevice, ...]] = {}
        self.nodes = MappingProxyType(self._nodes)
        for device in devices:
            self.put(device)

    def put(self, device: NodeDevice) -> None:
        """Add a device, or replace the one of its name."""
        before = self._nodes.get(device.name)
        if before is None or (before.parent, before.type) != (device.parent, device.type):
            self.remove(device.name)
            self._join_tree(device)
        else:  # most changes: the tree, where one device may have thousands of children, stays as it is
            self._leave_places(before)
        self._nodes[device.name] = device
        group = iommu_group_of(device)
        if group is not None:
            self._iommu.add(group, device.name)
            self._members_sorted.pop(group, None)
        for source in sources_of(device):
            self._by_source.add(source, device.name)
        if device.path:
            self._by_path.add(device.path, device.name)
        if isinstance(device.facts, NetFacts):
            self._by_interface.add(device.facts.interface, device.name)
        if isinstance(device.facts, PciFacts) and device.facts.phys_function is not None:
            self._of_function.add(device.facts.phys_function, device.name)

    def remove(self, name: str) -> None:
        """Forget a device; nothing happens when it is not there. Its children stay, without parent."""
        device = self._nodes.pop(name, None)
        if device is None:
            return
        self._leave_places(device)
        self._by_type.discard(device.type, name)
        if device.parent is not None:
            self._children.discard(device.parent, name)
            known = self._children_sorted.get(device.parent)
            if known is not None:
                at = bisect_left(known, name)
                self._children_sorted[device.parent] = known[:at] + known[at + 1 :]

    def _join_tree(self, device: NodeDevice) -> None:
        self._by_type.add(device.type, device.name)
        if device.parent is not None:
            self._children.add(device.parent, device.name)
            known = self._children_sorted.get(device.parent)
            if known is not None:
                at = bisect_left(known, device.name)
                self._children_sorted[device.parent] = (*known[:at], device.name, *known[at:])

    def _leave_places(self, device: NodeDevice) -> None:
        name = device.name
        group = iommu_group_of(device)
        if group is not None:
            self._iommu.discard(group, name)
            self._members_sorted.pop(group, None)
        for source in sources_of(device):
            self._by_source.discard(source, name)
        if device.path:
            self._by_path.discard(device.path, name)
        if isinstance(device.facts, NetFacts):
            self._by_interface.discard(device.facts.interface, name)
        if isinstance(device.facts, PciFacts) and device.facts.phys_function is not None:
            self._of_function.discard(device.facts.phys_function, name)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, name: str) -> NodeDevice | None:
        """The device of this libvirt name."""
        return self._nodes.get(name)

    def of_type(self, kind: str) -> frozenset[str]:
        """Names of the devices of a type."""
        return frozenset(self._by_type.get(kind))

    def children(self, name: str) -> tuple[str, ...]:
        """Names of the devices directly below, sorted."""
        if name not in self._children:
            return ()
        known = self._children_sorted.get(name)
        if known is None:
            known = self._children_sorted[name] = tuple(sorted(self._children.get(name)))
        return known

    def descendants(self, name: str) -> Iterator[NodeDevice]:
        """Everything below a device, parents before children."""
        if name not in self._children:
            return
        seen = {name}
        todo = deque(self.children(name))
        while todo:
            child = todo.popleft()
            if child in seen:  # a loop in the parents' names: not from libvirt, but never hang on input
                continue
            seen.add(child)
            device = self._nodes.get(child)
            if device is not None:
                yield device
                todo.extend(self.children(child))

    def ancestors(self, name: str) -> Iterator[NodeDevice]:
        """Everything above a device, nearest first."""
        seen = {name}
        device = self._nodes.get(name)
        while device is not None and device.parent is not None and device.parent not in seen:
            seen.add(device.parent)
            device = self._nodes.get(device.parent)
            if device is not None:
                yield device

    def iommu_members(self, group: int) -> tuple[NodeDevice, ...]:
        """The members of an IOMMU group, by name."""
        known = self._members_sorted.get(group)
        if known is None:
            known = tuple(self._nodes[name] for name in sorted(self._iommu.get(group)))
            if known:
                self._members_sorted[group] = known
        return known

    def has_iommu_groups(self) -> bool:
        """Whether any device is in an IOMMU group: then the host's IOMMU is on."""
        return bool(self._iommu)

    def iommu_groups(self) -> tuple[int, ...]:
        """The numbers of all IOMMU groups that have a member."""
        return tuple(sorted(self._iommu))

    def at(self, source: DeviceSource) -> tuple[str, ...]:
        """Names of the devices at an address, UUID or vendor:product."""
        names = self._by_source.get(source)
        return tuple(sorted(names)) if len(names) > 1 else tuple(names)

    def by_path(self, path: str) -> str | None:
        """The device whose sysfs path is `path` or the nearest one above it."""
        while path and path != "/":
            if path in self._by_path:
                return min(self._by_path.get(path))
            path = path.rpartition("/")[0]
        return None

    def interfaces(self) -> frozenset[str]:
        """The names of all network interfaces (`eth0`)."""
        return frozenset(self._by_interface)

    def interface(self, interface: str) -> tuple[str, ...]:
        """Names of the devices that are this network interface: two for a moment while one is renamed."""
        return tuple(sorted(self._by_interface.get(interface)))

    def virtual_functions(self, function: PciFacts) -> tuple[PciAddress, ...]:
        """A function's VFs: those that it lists, and those that call it theirs.

        Its own list may be older than they are, and libvirt leaves it empty while the first VF is gone.
        """
        if not (function.virt_functions or self._of_function):
            return ()
        own = (self._nodes[name].facts for name in sorted(self._of_function.get(function.address)))
        theirs = (facts.address for facts in own if isinstance(facts, PciFacts))
        return tuple(dict.fromkeys((*function.virt_functions, *theirs)))

    def put_shared(self, functions_of: Mapping[str, tuple[str, ...]]) -> set[str]:
        """Learn by which PCI functions the disks are reached that lie below none (`HostUses.shared`).

        The paths of those for which that is another one than before.
        """
        before, now = _pairs(self._functions_of), _pairs(functions_of)
        if before == now:
            return set()
        self._functions_of = functions_of
        self._disks_of = MultiMap()
        for disk, function in now:
            self._disks_of.add(function, disk)
        return {path for pair in before ^ now for path in pair}

    def shared_disks(self, function: NodeDevice) -> tuple[NodeDevice, ...]:
        """The disks that a PCI function reaches and that lie below none in libvirt's tree, sorted."""
        return tuple(self._at_paths(self._disks_of.get(function.path)) if function.path else ())

    def _at_paths(self, paths: Iterable[str]) -> Iterator[NodeDevice]:
        return (self._nodes[name] for path in sorted(paths) for name in sorted(self._by_path.get(path)))

    # --- what the rules ask about one device ---------------------------------------------------------

    def is_usb_hub(self, device: NodeDevice) -> bool:
        """USB interface class 09, or a root hub (always device 1 of its bus)."""
        if not isinstance(device.facts, UsbFacts):
            return False
        if device.facts.address.device == 1:
            return True
        return any(
            isinstance(child.facts, UsbInterfaceFacts) and child.facts.interface_class == USB_HUB_CLASS
            for child in (self._nodes[name] for name in self.children(device.name))
        )

    def usb_parent(self, name: str) -> NodeDevice | None:
        """The USB device on which the host built this one (a stick's LUN), None for others."""
        return next((above for above in self.ancestors(name) if above.type == "usb_device"), None)

    def related(self, name: str) -> set[str]:
        """Every device whose rules may depend on this one: the tree above and below, groups, functions."""
        device = self._nodes.get(name)
        found = {name}
        if device is None:
            return found | {child.name for child in self.descendants(name)}
        found |= {above.name for above in self.ancestors(name)}
        found |= {below.name for below in self.descendants(name)}
        for member in tuple(found):
            node = self._nodes.get(member)
            if node is None:
                continue
            group = iommu_group_of(node)
            if group is not None:
                found.update(self._iommu.get(group))
            if isinstance(node.facts, PciFacts):
                linked = (node.facts.phys_function, *self.virtual_functions(node.facts))
                found |= {other for address in linked if address is not None for other in self.at(address)}
            if node.path:
                shared = (*self._disks_of.get(node.path), *self._functions_of.get(node.path, ()))
                found |= {other.name for other in self._at_paths(shared)}
        return found


def _pairs(functions_of: Mapping[str, tuple[str, ...]]) -> set[tuple[str, str]]:
    return {(disk, function) for disk, functions in functions_of.items() for function in functions}


def iommu_group_of(device: NodeDevice) -> int | None:
    """The number of a device's IOMMU group: PCI functions and mediated devices have one."""
    if isinstance(device.facts, PciFacts | MdevFacts):
        return device.facts.iommu_group
    return None


def is_bridge(device: NodeDevice) -> bool:
    """PCI class 0x06, or a header type that is told and is not an endpoint's."""
    facts = device.facts
    if not isinstance(facts, PciFacts):
        return False
    if facts.class_code is not None and facts.class_code >> 16 == BRIDGE_CLASS:
        return True
    return facts.header_type not in {None, "endpoint"}


def is_transparent_bridge(device: NodeDevice) -> bool:
    """A PCI-to-PCI bridge (0x0604): in a group, but no endpoint of it."""
    facts = device.facts
    return isinstance(facts, PciFacts) and facts.class_code is not None and facts.class_code >> 8 == PCI_TO_PCI_BRIDGE


def endpoints(members: Iterable[NodeDevice]) -> tuple[NodeDevice, ...]:
    """The members of a group that go away with it: all but PCI-to-PCI bridges."""
    return tuple(member for member in members if not is_transparent_bridge(member))


def group_mates_of(graph: DeviceGraph, device: NodeDevice) -> tuple[NodeDevice, ...]:
    """The endpoints that go with a device, itself first: of its IOMMU group, or itself alone."""
    group = iommu_group_of(device)
    if group is None:
        return (device,)
    others = (member for member in endpoints(graph.iommu_members(group)) if member.name != device.name)
    return (device, *others)


def names_twin(graph: DeviceGraph, source: UsbAddress) -> bool:
    """Whether a USB device has a twin: another present device of its vendor and product."""
    for name in graph.at(source):
        facts = graph.nodes[name].facts
        vendor, product = getattr(facts, "vendor_id", None), getattr(facts, "product_id", None)
        if vendor is not None and product is not None:
            return len(graph.at(UsbProduct(vendor, product))) > 1
    return False


def source_of(device: NodeDevice) -> PciAddress | UsbAddress | ScsiAddress | MdevUuid | None:
    """The address by which a domain's XML names this device; None for a type that cannot be assigned."""
    facts = device.facts
    if isinstance(facts, PciFacts | UsbFacts | ScsiFacts):
        return facts.address
    if isinstance(facts, MdevFacts):
        return facts.uuid
    return None


def sources_of(device: NodeDevice) -> tuple[DeviceSource, ...]:
    """All by which a domain's XML may name this device: its address, and of a USB device its vendor:product."""
    source = source_of(device)
    if source is None:
        return ()
    if isinstance(device.facts, UsbFacts):
        return (source, UsbProduct(device.facts.vendor_id, device.facts.product_id))
    return (source,)
