"""Interfaces that stand on a card from another network namespace: a container's VLAN, macvlan or ipvlan.

Nothing of them is in the sysfs of this namespace. But each that is up has the card below receive what is for the group
of all hosts, 224.0.0.1, and the kernel counts who asks for its Ethernet address: the host's own IPv4 for a group, each
interface that stands on the card here, and each that does elsewhere (`dev_mc_sync` in vlan_dev.c, macvlan.c and
ipvlan_main.c of Linux). An interface that itself asks another one is counted once more for each of those
(`__hw_addr_sync_one`), and a card once more by many drivers (`__hw_addr_sync_dev`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from hostdevd.host.addresses import address4
from hostdevd.host.drivers import driver_of
from hostdevd.host.interfaces import SYS_NET, Interfaces
from hostdevd.host.sysfs import HostTree, Unreadable

_DEV_MCAST = "/proc/1/net/dev_mcast"
_IGMP = "/proc/1/net/igmp"
_GROUP_LINE = "\t\t\t\t"
_ALL_HOSTS = "01005e000001"
_GROUP_BITS = 0x7FFFFF
"""Of a group's IPv4 address only these are in its Ethernet address, so 239.0.0.1 has the same one (RFC 1112, 6.4)."""
_IFF_UP = 0x1
COUNT_NOTHING = frozenset({
    "8139cp", "8139too", "amd-xgbe", "asix", "atlantic", "ax88179_178a", "bnx2", "bnx2x", "bnxt_en", "cdc_ether",
    "cdc_ncm", "e1000", "e1000e", "ena", "gve", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "mlx4_core", "mlx5_core",
    "qede", "qlcnic", "r8152", "r8169", "sfc", "tg3", "virtio_net", "vmxnet3",
})  # fmt: skip
"""Drivers that do not count (no `__dev_mc_sync` in Linux 6.1).

Any other one is taken to do, as i40e, iavf and ice do: else each of its cards that is up would be in use. If it does
not, what a single container has on such a card is missed.
"""


def carriers(tree: HostTree, interfaces: Interfaces) -> Iterator[str]:
    """The interfaces that somebody stands on who is not to be seen here; `Unreadable`."""
    own = _own(tree)
    for name, count in all_hosts(tree).items():
        interface = interfaces.by_name.get(name)
        if interface is None or interface.master is not None:
            continue  # gone, or used already by a master, which may ask too
        unexplained = count - own[name] - len(interfaces.lowers(name)) - _by_its_driver(tree, name)
        if unexplained > 0 and unexplained > sum(_is_up(tree, upper.name) for upper in interfaces.uppers(name)):
            yield name


def all_hosts(tree: HostTree) -> Mapping[str, int]:
    """How many ask each interface for the Ethernet address of all hosts; `Unreadable`."""
    found = {}
    for line in (tree.read(_DEV_MCAST) or "").splitlines():
        if line.endswith(_ALL_HOSTS):
            try:
                _, name, count, _, _ = line.split()
                found[name] = int(count)
            except ValueError as error:
                raise Unreadable(_DEV_MCAST, f"not understood: {line!r}") from error
    return found


def _own(tree: HostTree) -> Counter[str]:
    """How many groups of the host's own IPv4 have that Ethernet address, by interface."""
    found = Counter[str]()
    name = ""
    for line in (tree.read(_IGMP) or "").splitlines()[1:]:
        try:
            if not line.startswith(_GROUP_LINE):
                name = line.split()[1].rstrip(":")
            elif int(address4(line.split()[0])) & _GROUP_BITS == 1:
                found[name] += 1
        except (IndexError, ValueError, OverflowError) as error:
            raise Unreadable(_IGMP, f"not understood: {line!r}") from error
    return found


def _by_its_driver(tree: HostTree, interface: str) -> int:
    driver = driver_of(tree, f"{SYS_NET}/{interface}/device")
    return 0 if driver is None or driver in COUNT_NOTHING else 1


def _is_up(tree: HostTree, interface: str) -> bool:
    try:
        return bool(int(tree.value(f"{SYS_NET}/{interface}/flags") or "0", 16) & _IFF_UP)
    except ValueError as error:
        raise Unreadable(f"{SYS_NET}/{interface}/flags", "no number") from error
