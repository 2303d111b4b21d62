"""How many connections there may be: of one visitor, of all, and at each kind of door whatever happens at the others.

Most places are for whoever comes first. A part of them is kept for each kind of door: those are given when the others
are taken, and few of them to the same visitor. So neither many addresses at one door nor one user at its own keep
the users of another door, or another user of the same, from coming in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

FEW = 8
"""A visitor has the eighth part of the places that are kept for a door, and one at least."""


class NoPlaceError(Exception):
    """There are too many connections: `of` one visitor, or, where that is empty, of all."""

    def __init__(self, of: str) -> None:
        super().__init__(of)
        self.of = of


@dataclass(frozen=True, slots=True)
class Place:
    """A visitor's, kept for a kind of door or not."""

    who: str
    door: Hashable | None


class Places:
    """All of them. Doors are kinds: any value that stands for one."""

    def __init__(self, of_one: int, total: int) -> None:
        self._of_one = of_one
        self._total = total
        self._kept: dict[Hashable, int] = {}
        self._taken: Counter[Hashable | None] = Counter()
        self._visitors: Counter[str] = Counter()
        self._in_kept: Counter[Place] = Counter()

    def keep(self, door: Hashable, part: int) -> None:
        """From now on one in `part` places is kept for this kind of door."""
        self._kept[door] = self._total // part

    def take(self, door: Hashable, who: str) -> Place:
        """A place for a connection; `NoPlaceError`."""
        if self._visitors[who] >= self._of_one:
            raise NoPlaceError(who)
        place = Place(who, None)
        if self._taken[None] >= self._total - sum(self._kept.values()):
            place = Place(who, door)
            kept = self._kept.get(door, 0)
            if self._taken[door] >= kept or self._in_kept[place] >= max(1, kept // FEW):
                raise NoPlaceError("")
            self._in_kept[place] += 1
        self._taken[place.door] += 1
        self._visitors[who] += 1
        return place

    def leave(self, place: Place) -> None:
        """Give a place back."""
        self._taken[place.door] -= 1
        self._visitors[place.who] -= 1
        if not self._visitors[place.who]:
            del self._visitors[place.who]
        if place.door is not None:
            self._in_kept[place] -= 1
            if not self._in_kept[place]:
                del self._in_kept[place]


class Strangers:
    """Connections that have not shown yet who is at their other end, by the visitor that they are counted as.

    There are few of them, and they are given up for new ones: whoever has a certificate shows it within milliseconds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: dict[str, dict[str, None]] = {}
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether one must go before another one comes."""
        return self._count >= self._most

    def came(self, who: str, name: str) -> None:
        """A new one."""
        self._names.setdefault(who, {})[name] = None
        self._count += 1

    def known(self, who: str, name: str) -> bool:
        """One that is none any more; whether it was."""
        names = self._names.get(who, {})
        if name not in names:
            return False
        del names[name]
        self._count -= 1
        if not names:
            del self._names[who]
        return True

    def first_to_go(self, who: str = "") -> str | None:
        """The oldest connection of a visitor, or of the one with the most; None: there is none."""
        names = self._names.get(who) if who else max(self._names.values(), key=len, default=None)
        return next(iter(names)) if names else None
