"""libvirt's networks on the simulated host: which run, and which functions of their pools guests have."""

from __future__ import annotations

from lxml import etree

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import Network, PciFacts
from hostdevd.core.pools import pool_uses
from hostdevd.core.ports import NetworksChanged
from hostdevd.sim.faults import ErrorNumber, invalid, no_network, refusal
from hostdevd.sim.guestxml import GuestXml
from hostdevd.sim.simnetwork import SimNetwork
from hostdevd.sim.world import World


def active_pools(world: World) -> list[Network]:
    """The networks as the port tells of them."""
    pools = (each.pool() for each in world.networks.values() if each.active)
    return [pool for pool in pools if pool is not None]


def define(world: World, found: SimNetwork) -> None:
    """Define a network, or its configuration anew: what runs goes on as it was until it is started again."""
    before = world.networks.get(found.name)
    if before is not None and before.active:
        raise invalid(f"network is already active as '{found.name}'")
    with world.changing():
        world.networks[found.name] = found
        world.emit(NetworksChanged())


def set_active(world: World, name: str, *, active: bool) -> None:
    """Start or stop a network; guests keep what they have of it."""
    found = world.networks.get(name)
    if found is None:
        raise no_network(name)
    if found.active is active:
        raise invalid(f"network is {'already' if active else 'not'} active")
    with world.changing():
        found.active = active
        world.emit(NetworksChanged())


def give_from_pools(world: World, guest: GuestXml) -> None:
    """Give each interface on a network with a pool a free function of it, as libvirt does when a guest starts.

    libvirt 9.0.0 then shows it as an interface of type hostdev, which only its MAC ties to the network.
    """
    given: set[PciAddress] = set()
    for interface in guest.devices.iterfind("interface[@type='network']"):
        source = interface.find("source")
        found = world.networks.get("" if source is None else source.get("network", ""))
        pool = None if found is None else found.pool()
        if source is None or found is None or pool is None:
            continue
        if not found.active:
            raise invalid(f"network '{found.name}' is not active")
        address = next((each for each in _functions(world, pool) if each not in given and _free(world, each)), None)
        if address is None:
            text = f"network '{found.name}' requires exclusive access to interfaces, but none are available"
            raise refusal(ErrorNumber.INTERNAL_ERROR, text)
        given.add(address)
        _give(interface, source, address)
        guest.place_pci(interface, express=True, grow=True)


def _functions(world: World, pool: Network) -> list[PciAddress]:
    graph = world.kernel.graph
    facts = (graph.nodes[name].facts for name in pool_uses([pool], "", graph).by_device)
    return sorted(each.address for each in facts if isinstance(each, PciFacts))


def _free(world: World, address: PciAddress) -> bool:
    return bool(world.kernel.at(address)) and world.in_use_by(address) is None


def _give(interface: etree._Element, source: etree._Element, address: PciAddress) -> None:
    interface.set("type", "hostdev")
    interface.set("managed", "yes")
    source.attrib.clear()
    etree.SubElement(
        source,
        "address",
        type="pci",
        domain=f"{address.domain:#06x}",
        bus=f"{address.bus:#04x}",
        slot=f"{address.slot:#04x}",
        function=f"{address.function:#x}",
    )
