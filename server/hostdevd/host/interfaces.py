"""The host's network interfaces in sysfs, and which of them stand on which."""

from __future__ import annotations

from dataclasses import dataclass

from hostdevd.host.sysfs import HostTree, Unreadable

SYS_NET = "/sys/class/net"
_PROC_NET_DEV = "/proc/1/net/dev"
_HEADER_LINES = 2


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface: its sysfs path, its own entries there, and its master's name if it has one."""

    name: str
    path: str
    entries: frozenset[str]
    master: str | None


class Interfaces:
    """All interfaces of one read, with the layers between them."""

    def __init__(self, by_name: dict[str, Interface]) -> None:
        self.by_name = by_name
        self._lower: dict[str, set[str]] = {name: set() for name in by_name}
        for name, interface in by_name.items():
            for entry in interface.entries:
                if entry.startswith("lower_"):
                    self._stand(name, entry.removeprefix("lower_"))
                elif entry.startswith("upper_"):
                    self._stand(entry.removeprefix("upper_"), name)
            if interface.master is not None:
                self._stand(interface.master, name)

    def below(self, name: str) -> set[str]:
        """Every interface that this one stands on, itself not among them."""
        found: set[str] = set()
        todo = [name]
        while todo:
            for lower in self._lower.get(todo.pop(), ()):
                if lower not in found and lower != name:
                    found.add(lower)
                    todo.append(lower)
        return found

    def lowers(self, name: str) -> set[str]:
        """The interfaces that this one stands right on."""
        return self._lower.get(name, set())

    def uppers(self, name: str) -> list[Interface]:
        """The interfaces that stand right on this one."""
        return [interface for upper, interface in self.by_name.items() if name in self._lower[upper]]

    def _stand(self, upper: str, lower: str) -> None:
        # A layer in another namespace has a link but no entry here.
        if upper in self.by_name and lower in self.by_name:
            self._lower[upper].add(lower)


def read_interfaces(tree: HostTree) -> Interfaces:
    """The interfaces that sysfs shows; `Unreadable` when it does not show any."""
    found = {}
    for name in tree.require_names(SYS_NET):
        entries = frozenset(tree.names(f"{SYS_NET}/{name}"))
        path = tree.link(f"{SYS_NET}/{name}")
        # `bonding_masters` is a file beside the interfaces; anything else may vanish as we look.
        if path is None or not entries:
            continue
        found[name] = Interface(name, path, entries, _master(tree, name, entries))
    return Interfaces(found)


def interface_names(tree: HostTree) -> frozenset[str]:
    """The interfaces that process 1 has: one that libvirt lists beside these is another host's.

    `Unreadable` when process 1's network cannot be seen.
    """
    lines = tree.require(_PROC_NET_DEV).split("\n")[_HEADER_LINES:]
    names = []
    for line in filter(None, lines):
        name, colon, _ = line.partition(":")
        if not colon:
            raise Unreadable(_PROC_NET_DEV, f"not understood: {line!r}")
        names.append(name.strip())
    return frozenset(names)


def foreign_interfaces(tree: HostTree, listed: frozenset[str]) -> frozenset[str]:
    """Which of libvirt's interfaces process 1 lacks; none where its network cannot be seen, which is told as such."""
    if not listed:
        return frozenset()
    try:
        return listed - interface_names(tree)
    except Unreadable:
        return frozenset()


def _master(tree: HostTree, name: str, entries: frozenset[str]) -> str | None:
    for entry, link in (("master", "master"), ("brport", "brport/bridge")):
        if entry in entries:
            target = tree.linked_name(f"{SYS_NET}/{name}/{link}")
            if target is not None:
                return target
    return None
