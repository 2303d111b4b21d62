"""Which domains a change among the host's devices concerns, found without a look at every domain."""

from __future__ import annotations

from collections.abc import Iterable

from hostdevd.core.addresses import BlockPath, DeviceSource
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.holders import BlockPaths, Held, devices_of
from hostdevd.core.model import Domain
from hostdevd.core.multimap import MultiMap


class Interest:
    """The domains by what their definitions name and by the devices that they hold."""

    def __init__(self, block_paths: BlockPaths) -> None:
        self._block_paths = block_paths
        self._by_source: MultiMap[DeviceSource, str] = MultiMap()
        self._by_device: MultiMap[str, str] = MultiMap()
        self._sources: dict[str, frozenset[DeviceSource]] = {}
        self._devices: dict[str, frozenset[str]] = {}
        self._disks: dict[str, frozenset[BlockPath]] = {}

    def put(self, domain: Domain, held: Iterable[Held]) -> None:
        """Replace what is known of a domain: its definitions, and the devices that it holds by them."""
        uuid = domain.vm.uuid
        self.remove(uuid)
        definitions = (definition for definition in (domain.live, domain.config) if definition is not None)
        sources = frozenset(entry.source for definition in definitions for entry in definition.entries)
        self._disks[uuid] = frozenset(source for source in sources if isinstance(source, BlockPath))
        self._sources[uuid] = sources - self._disks[uuid]
        self._devices[uuid] = frozenset(one.device for one in held)
        for source in self._sources[uuid]:
            self._by_source.add(source, uuid)
        for device in self._devices[uuid]:
            self._by_device.add(device, uuid)

    def remove(self, uuid: str) -> None:
        """Forget a domain; nothing happens when it is not known."""
        for source in self._sources.pop(uuid, ()):
            self._by_source.discard(source, uuid)
        for device in self._devices.pop(uuid, ()):
            self._by_device.discard(device, uuid)
        self._disks.pop(uuid, None)

    def holding(self, devices: Iterable[str]) -> set[str]:
        """The domains that hold one of these devices."""
        return self._by_device.of_any(devices)

    def naming(self, sources: Iterable[DeviceSource]) -> set[str]:
        """The domains of which a definition names one of these addresses."""
        return self._by_source.of_any(sources)

    def on_disks(self, graph: DeviceGraph, devices: set[str]) -> set[str]:
        """The domains with a block device that one of these devices carries now: each is looked up on the host."""
        return {
            uuid
            for uuid, disks in self._disks.items()
            if any(not devices.isdisjoint(devices_of(graph, disk, self._block_paths)) for disk in disks)
        }
