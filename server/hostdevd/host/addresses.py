"""Global addresses and default routes of process 1's network, from `/proc/1/net`.

procfs names the interface of every IPv6 address, but of IPv4 ones only whether they are local
(`fib_trie`) and which interface their network is on (`route`). Where this process shares process 1's
network namespace, netlink tells it exactly; where not, the two files are joined, and an address that no
connected network explains is a gap.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from hostdevd.host.rtnetlink import InterfaceAddress
from hostdevd.host.sysfs import HostTree, Unreadable

_ROUTE = "/proc/1/net/route"
_FIB_TRIE = "/proc/1/net/fib_trie"
_IPV6_ROUTE = "/proc/1/net/ipv6_route"
_IF_INET6 = "/proc/1/net/if_inet6"
_RTF_UP, _RTF_REJECT = 0x0001, 0x0200
_ROUTE_COLUMNS = 8
_IPV6_ROUTE_COLUMNS = 10
_IF_INET6_COLUMNS = 6
_SCOPE_HOST, _SCOPE_LINK = 0x10, 0x20
_LEAF = re.compile(r"\|-- (\S+)")


@dataclass(frozen=True, slots=True)
class Route4:
    """A line of the main IPv4 routing table; `direct` has no gateway: its network is on the interface."""

    interface: str
    network: IPv4Network
    direct: bool


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """An interface that the default route of a family (`IPv4`, `IPv6`) leads to."""

    interface: str
    family: str


def read_routes4(tree: HostTree) -> list[Route4]:
    """The usable routes of the main IPv4 table."""
    routes = []
    for line in tree.require(_ROUTE).split("\n")[1:]:
        fields = line.split()
        if not fields:
            continue
        if len(fields) < _ROUTE_COLUMNS:
            raise Unreadable(_ROUTE, f"not understood: {line!r}")
        try:
            target, gateway, mask = (address4(fields[column]) for column in (1, 2, 7))
            flags = int(fields[3], 16)
            network = IPv4Network((int(target), int(mask).bit_count()), strict=False)
        except (ValueError, OverflowError) as error:
            raise Unreadable(_ROUTE, f"not understood: {line!r}") from error
        if flags & _RTF_UP and not flags & _RTF_REJECT:
            routes.append(Route4(fields[0], network, int(gateway) == 0))
    return routes


def default_routes4(routes: Sequence[Route4]) -> Iterator[DefaultRoute]:
    """The interfaces of the IPv4 default routes."""
    return (DefaultRoute(route.interface, "IPv4") for route in routes if route.network.prefixlen == 0)


def default_routes6(tree: HostTree) -> Iterator[DefaultRoute]:
    """The interfaces of the IPv6 default routes, of all tables; none on a kernel without IPv6."""
    for line in _ipv6_lines(tree, _IPV6_ROUTE):
        fields = line.split()
        try:
            prefix = int(fields[1], 16)
            flags = int(fields[8], 16)
            interface = fields[_IPV6_ROUTE_COLUMNS - 1]
        except (IndexError, ValueError) as error:
            raise Unreadable(_IPV6_ROUTE, f"not understood: {line!r}") from error
        # The kernel ends its table with a default route that refuses, on `lo`.
        if prefix == 0 and not flags & _RTF_REJECT:
            yield DefaultRoute(interface, "IPv6")


def addresses6(tree: HostTree) -> Iterator[InterfaceAddress]:
    """The IPv6 addresses of wider than link scope."""
    for line in _ipv6_lines(tree, _IF_INET6):
        fields = line.split()
        try:
            packed = bytes.fromhex(fields[0])
            scope = int(fields[3], 16)
            address = IPv6Address(packed)
            interface = fields[_IF_INET6_COLUMNS - 1]
        except (IndexError, ValueError) as error:
            raise Unreadable(_IF_INET6, f"not understood: {line!r}") from error
        if scope not in {_SCOPE_HOST, _SCOPE_LINK}:
            yield InterfaceAddress(interface, str(address))


def local_addresses4(tree: HostTree) -> set[str]:
    """The host's own IPv4 addresses, of whatever table, without loopback and link-local ones."""
    found = set()
    leaf = None
    text = tree.require(_FIB_TRIE)
    if text and ":" not in text:
        raise Unreadable(_FIB_TRIE, f"not understood: {text[:40]!r}")
    for line in text.split("\n"):
        match = _LEAF.search(line)
        if match:
            leaf = match[1]
        elif leaf is not None and line.strip() == "/32 host LOCAL":
            try:
                address = IPv4Address(leaf)
            except ValueError as error:
                raise Unreadable(_FIB_TRIE, f"not understood: {leaf!r}") from error
            if not address.is_loopback and not address.is_link_local:
                found.add(str(address))
    return found


def place4(address: str, routes: Sequence[Route4]) -> set[str]:
    """The interfaces whose connected network holds the address, the narrowest network only."""
    fitting = [route for route in routes if route.direct and IPv4Address(address) in route.network]
    narrowest = max((route.network.prefixlen for route in fitting), default=0)
    # A default route without a gateway (a tunnel, PPP) fits every address and proves nothing.
    return {route.interface for route in fitting if route.network.prefixlen == narrowest and narrowest > 0}


def _ipv6_lines(tree: HostTree, path: str) -> list[str]:
    text = tree.read(path)
    if text is None:
        other = _IPV6_ROUTE if path == _IF_INET6 else _IF_INET6
        # Without IPv6 the kernel has neither file; one without the other is no kernel's view.
        if tree.exists("/proc/1/net/dev") and not tree.exists(other):
            return []
        raise Unreadable(path, "missing")
    return [line for line in text.split("\n") if line]


def address4(text: str) -> IPv4Address:
    """An address as procfs has it: as a hexadecimal number of the machine's own byte order."""
    return IPv4Address(int(text, 16).to_bytes(4, sys.byteorder))
