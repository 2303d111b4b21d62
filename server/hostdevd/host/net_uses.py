"""Which network interfaces the host uses: addresses, default routes, and what stands on them.

A use of an interface is a use of everything that it stands on: an address on a VLAN on a bond needs both
of the bond's members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hostdevd.core.model import HostUse, HostUseKind
from hostdevd.host.addresses import (
    addresses6,
    default_routes4,
    default_routes6,
    local_addresses4,
    place4,
    read_routes4,
)
from hostdevd.host.elsewhere import carriers
from hostdevd.host.findings import Findings
from hostdevd.host.interfaces import Interface, Interfaces, interface_names, read_interfaces
from hostdevd.host.rtnetlink import InterfaceAddress
from hostdevd.host.sysfs import HostTree

_NET = "net"
PPPOE = "/proc/1/net/pppoe"
_PPPOE_COLUMNS = 3
_ELSEWHERE = "(a VLAN, macvlan or ipvlan on it is in another network namespace)"

Addresses = Callable[[], Sequence[InterfaceAddress]]
"""Asks netlink for the addresses of process 1's network."""


def find_net_uses(tree: HostTree, findings: Findings, exact: Addresses | None = None) -> None:
    """Add the uses of all interfaces, under their sysfs paths.

    `exact` gives the addresses by netlink, for a process in process 1's network; without it, procfs is
    all there is.
    """
    with findings.source(_NET, "interfaces"):
        interfaces = read_interfaces(tree)
        uses = _Uses(interfaces, findings)
        with findings.source(_NET, "interfaces of process 1"):
            _one_view(tree, interfaces, findings)
        for interface in interfaces.by_name.values():
            for use in _enslaved(interface, interfaces):
                uses.add(interface.name, use)
        with findings.source(_NET, "IPv4 addresses"):
            for found in _addresses4(tree, findings, exact):
                uses.add(found.interface, HostUse(HostUseKind.GLOBAL_ADDRESS, found.address))
        with findings.source(_NET, "IPv6 addresses"):
            for found in addresses6(tree):
                uses.add(found.interface, HostUse(HostUseKind.GLOBAL_ADDRESS, found.address))
        with findings.source(_NET, "IPv4 default route"):
            for route in default_routes4(read_routes4(tree)):
                uses.add(route.interface, HostUse(HostUseKind.DEFAULT_ROUTE, route.family))
        with findings.source(_NET, "IPv6 default route"):
            for route in default_routes6(tree):
                uses.add(route.interface, HostUse(HostUseKind.DEFAULT_ROUTE, route.family))
        with findings.source(_NET, "interfaces of other network namespaces"):
            for name in carriers(tree, interfaces):
                uses.add(name, HostUse(HostUseKind.GLOBAL_ADDRESS, _ELSEWHERE))
        with findings.source(_NET, "PPPoE sessions"):
            for name in _pppoe_devices(tree):
                uses.add(name, HostUse(HostUseKind.GLOBAL_ADDRESS, "of a PPPoE session"))


class _Uses:
    """Writes a use of an interface to it and to all below it."""

    def __init__(self, interfaces: Interfaces, findings: Findings) -> None:
        self._interfaces = interfaces
        self._findings = findings

    def add(self, name: str, use: HostUse) -> None:
        interface = self._interfaces.by_name.get(name)
        if interface is None:
            self._findings.unknown(_NET, f"{name} has {use.detail or use.kind}, but sysfs has no such interface")
            return
        self._findings.add((interface.path,), use.kind, use.detail)
        layered = use.kind in {HostUseKind.GLOBAL_ADDRESS, HostUseKind.DEFAULT_ROUTE}
        detail = f"{use.detail} on {name}" if layered else use.detail
        for lower in self._interfaces.below(name):
            self._findings.add((self._interfaces.by_name[lower].path,), use.kind, detail)


def _one_view(tree: HostTree, interfaces: Interfaces, findings: Findings) -> None:
    """What sysfs shows and process 1 does not have is another namespace's: nothing here tells of it."""
    foreign = interfaces.by_name.keys() - interface_names(tree)
    for name in sorted(foreign):
        if tree.exists(f"/sys/class/net/{name}"):  # not just gone
            findings.unknown(_NET, f"{name} is not in the network of process 1")


def _enslaved(interface: Interface, interfaces: Interfaces) -> Iterator[HostUse]:
    master = interface.master
    if master is not None:
        above = interfaces.by_name.get(master)
        entries = above.entries if above else frozenset()
        if "brport" in interface.entries or "bridge" in entries:
            yield HostUse(HostUseKind.BRIDGE_PORT, master)
        elif "bonding_slave" in interface.entries or "bonding" in entries:
            yield HostUse(HostUseKind.BOND_MEMBER, master)
        elif master == "ovs-system":
            yield HostUse(HostUseKind.OVS_PORT, master)
        else:
            # sysfs says nothing of a team, nor of the other masters (VRF, failover, batman-adv).
            yield HostUse(HostUseKind.TEAM_MEMBER, master)
    if any(entry.startswith("upper_") for entry in interface.entries):
        for upper in interfaces.uppers(interface.name):
            # A VM's direct interface rides on this one, as a port of a bridge would.
            if "macvtap" in upper.entries:
                yield HostUse(HostUseKind.BRIDGE_PORT, upper.name)


def _addresses4(tree: HostTree, findings: Findings, exact: Addresses | None) -> Iterator[InterfaceAddress]:
    if exact is not None:
        yield from exact()
        return
    routes = read_routes4(tree)
    for address in sorted(local_addresses4(tree)):
        names = place4(address, routes)
        if not names:
            findings.unknown(_NET, f"the host has the address {address}, on which interface is not told")
        for name in sorted(names):
            yield InterfaceAddress(name, address)


def _pppoe_devices(tree: HostTree) -> Iterator[str]:
    """The interfaces below PPPoE sessions, which have neither address nor master of their own."""
    for line in (tree.read(PPPOE) or "").split("\n")[1:]:
        fields = line.split()
        if len(fields) == _PPPOE_COLUMNS:
            yield fields[2]
