"""`driver_override` of PCI functions, read without waiting for whoever has a device locked.

The kernel keeps who reads this attribute waiting while the device is locked: by a driver's probe, by a reset as a guest
gets the device, by a driver that makes virtual functions, which may take a minute. The event loop must not wait for any
of that, nor a call about one device for another device. So it is read on a thread apart, and remembered.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from hostdevd.host.drivers import PCI_DEVICES
from hostdevd.host.sysfs import HostTree, Unreadable

LOCKED_S = 0.05
"""A file that is not read within this time is taken for locked; it is otherwise a matter of microseconds."""
_FIRST_S = 0.02
"""The same on the event loop, for a function that nobody has looked at yet."""


class Overrides:
    """What stands in the attribute, by address: as last read, for as long as the same device is there."""

    def __init__(self, tree: HostTree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, str]] = {}
        self._locked: set[str] = set()

    def of(self, address: str) -> str:
        """The override, empty without one; `Unreadable` while a device is locked that was never looked at."""
        path = f"{PCI_DEVICES}/{address}"
        device = self._tree.inode(path)
        known = self._known.get(address)
        if known is None or known[0] != device:
            self._look([address], _FIRST_S)
            known = self._known.get(address)
        if known is None or known[0] != device:
            raise Unreadable(f"{path}/driver_override", "the device is locked")
        return known[1]

    def look(self) -> tuple[tuple[str, str], ...]:
        """Read all again, but those that are locked, and tell all; call on a thread that may wait a little."""
        here = frozenset(self._tree.names(PCI_DEVICES))
        while not self._look(sorted(here), LOCKED_S):
            pass  # one more of them is known to be locked: the others are read all the same
        with self._lock:
            for gone in self._known.keys() - here:
                del self._known[gone]
            return tuple(sorted((address, override) for address, (_, override) in self._known.items()))

    def _look(self, addresses: Iterable[str], locked_s: float) -> bool:
        """Read these but the locked ones, one after the other; False where one takes too long, which is locked then."""
        reader = _Reader(self, [address for address in addresses if address not in self._locked])
        threading.Thread(target=reader.run, name="driver-override", daemon=True).start()
        at = 0
        while not reader.done.wait(locked_s):
            with self._lock:
                if reader.at == at < len(reader.addresses):
                    reader.left = True
                    self._locked.add(reader.addresses[at])
                    return False
                at = reader.at
        return True

    def read(self, address: str) -> None:
        """Read one, however long it takes."""
        path = f"{PCI_DEVICES}/{address}"
        try:
            device, override = self._tree.inode(path), self._tree.value(f"{path}/driver_override")
        except Unreadable:
            device, override = 0, ""  # nothing is known of it, which `of` tells
        with self._lock:
            if device:
                self._known[address] = device, "" if override == "(null)" else override
            else:
                self._known.pop(address, None)

    def go_on(self, reader: _Reader) -> bool:
        """Count what a reader has read; False when it has been left meanwhile: others have the rest."""
        with self._lock:
            if reader.left:
                self._locked.discard(reader.addresses[reader.at])
            reader.at += 1
            return not reader.left


class _Reader:
    """Reads on its thread; one that is `left` ends with the file that it is at."""

    def __init__(self, overrides: Overrides, addresses: list[str]) -> None:
        self._overrides = overrides
        self.addresses = addresses
        self.at = 0
        self.left = False
        self.done = threading.Event()

    def run(self) -> None:
        """Read all, unless it is left."""
        for address in self.addresses:
            self._overrides.read(address)
            if not self._overrides.go_on(self):
                return
        self.done.set()
