"""Which devices belong to libvirt's networks: the pools that `<forward mode='hostdev'>` hands out from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import Holder, HolderVia, HostUse, HostUseKind, Network, PciFacts

_NET = "net"  # a pool is of VFs of network cards: what is not known of pools, is not known of these


@dataclass(frozen=True, slots=True)
class PoolUses:
    """What libvirt's networks own, free or handed out, by device name.

    `gaps`: why it may be more than that.
    """

    by_device: Mapping[str, tuple[HostUse, ...]] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()

    @property
    def unknown(self) -> tuple[tuple[str, str], ...]:
        """The gaps as `HostUses.unknown` has them: every network function may be in a pool."""
        return tuple((_NET, gap) for gap in self.gaps)


def pool_uses(networks: Iterable[Network], fault: str, graph: DeviceGraph) -> PoolUses:
    """Join the networks with the devices; `fault` is why there may be other networks, empty text otherwise."""
    by_device: defaultdict[str, tuple[HostUse, ...]] = defaultdict(tuple)
    gaps = [f"libvirt's networks cannot be read: {fault}"] if fault else []
    for network in networks:
        pool, gap = _pool(network, graph)
        for name in sorted(pool):
            by_device[name] += (HostUse(HostUseKind.NETWORK_POOL, network.name),)
        if gap:
            gaps.append(f"the pool of libvirt's network {network.name} is not known: {gap}")
    return PoolUses(dict(by_device), tuple(gaps))


def is_given(holder: Holder) -> bool:
    """Whether a guest has the device from a pool now, which is then not free.

    libvirt 9.0.0 shows such a function as a plain interface where the VM has no configuration to tell.
    """
    return holder.live and holder.via in {HolderVia.NETWORK_POOL, HolderVia.INTERFACE}


def _pool(network: Network, graph: DeviceGraph) -> tuple[set[str], str]:
    """The names of a network's devices, and what is not known of them.

    libvirt lists the addresses of a pool as they were when the network started. The VFs of its interface
    count all the same: it takes them in when it starts again.
    """
    addresses = set(network.addresses)
    gap = network.gap
    if network.pf is not None:
        functions = tuple(_functions_of(network.pf, graph))
        for function in functions:
            addresses |= set(graph.virtual_functions(function))
        if not functions and not network.addresses:
            gap = gap or f"libvirt lists no PCI function for its interface {network.pf}"
    return {name for address in addresses for name in graph.at(address)}, gap


def _functions_of(interface: str, graph: DeviceGraph) -> Iterator[PciFacts]:
    """The PCI function that an interface stands on."""
    for name in graph.interface(interface):
        above = (device.facts for device in graph.ancestors(name))
        function = next((facts for facts in above if isinstance(facts, PciFacts)), None)
        if function is not None:
            yield function
