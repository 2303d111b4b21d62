"""Whether libvirt still tells of node devices that come and go.

Their events may end in silence while every call is answered: virtnodedevd tells of them, and may restart apart
from the daemon that is connected to. So what a comparison finds is held against what was told.
"""

from __future__ import annotations

from collections.abc import Iterable


class Announcements:
    """What was told, and what should have been. Looks are about five seconds apart: an event is never that late."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._told_before: set[str] = set()
        self._untold: set[str] = set()
        self._blamed: set[str] = set()

    def told(self, name: str) -> None:
        """An event named this device."""
        self._told.add(name)
        self._untold.discard(name)

    def found(self, names: Iterable[str]) -> None:
        """A look found that these, and no others, came or went.

        The event may be on its way still, or have come before the look. What was missed once and is found again
        (a name that libvirt lists and cannot look up) says nothing new.
        """
        found = set(names)
        self._blamed &= found
        self._untold.update(found - self._told - self._told_before - self._blamed)
        self._told, self._told_before = set(), self._told

    def missed(self) -> frozenset[str]:
        """What the look before found and no event has told of since."""
        missed, self._untold = frozenset(self._untold), set()
        self._blamed |= missed
        return missed

    def forget(self) -> None:
        """Begin anew: with this connection, nothing was told and nothing missed."""
        self._told, self._told_before, self._untold, self._blamed = set(), set(), set(), set()
