"""How many of what the store holds, kept up to date with every change: to tell it costs nothing then.

The store calls it with each item before and after (None where it was not there). It is read from other
threads: `read` copies in one step, so that what it gives never changes under its reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from hostdevd.core.assignments import Assignment
from hostdevd.core.model import Eligibility, Holder
from hostdevd.core.views import DeviceView, GroupView

Key = tuple[str, ...]


class Count:
    """Numbers by key; one that came to 0 stays, so that a graph of it shows the 0."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()

    def move(self, before: Iterable[Key], after: Iterable[Key]) -> None:
        """Something is counted under other keys now."""
        for key in before:
            self._counts[key] -= 1
        for key in after:
            self._counts[key] += 1

    def read(self) -> Mapping[Key, int]:
        """The numbers of now; from any thread."""
        return dict(self._counts)


class Tally:
    """The numbers of one store."""

    def __init__(self) -> None:
        self.devices = Count()
        """By type and state: `eligible` (and free), `taken` (eligible, but in use), `ineligible`."""
        self.device_reasons = Count()
        """By type and reason, of devices that are not eligible; one with several reasons counts under each."""
        self.groups = Count()
        """By state, as devices."""
        self.group_reasons = Count()
        """By reason."""
        self.holders = Count()
        """By the way in which they hold, and whose work that is: `hostdevd` or `other`."""
        self.assignments = Count()
        """By state."""
        self.conditions = Count()
        """Of assignments, by code and the assignment's state; one for each device. A closed one keeps what it left."""
        self._open: dict[str, float] = {}

    def device(self, before: DeviceView | None, after: DeviceView | None) -> None:
        """A device came, went or changed."""
        self.devices.move(_device(before), _device(after))
        self.device_reasons.move(_device_reasons(before), _device_reasons(after))

    def group(self, before: GroupView | None, after: GroupView | None) -> None:
        """A group came or went."""
        self.groups.move(_group(before), _group(after))
        self.group_reasons.move(_group_reasons(before), _group_reasons(after))

    def holder(self, before: Holder | None, after: Holder | None) -> None:
        """A holder came, went or changed."""
        self.holders.move(_holder(before), _holder(after))

    def assignment(self, before: Assignment | None, after: Assignment | None) -> None:
        """An assignment came, went or changed."""
        self.assignments.move(_state(before), _state(after))
        self.conditions.move(_conditions(before), _conditions(after))
        if before is not None:
            self._open.pop(before.name, None)
        if after is not None and after.state.in_flight:
            self._open[after.name] = after.update_time.timestamp()

    def oldest_open(self) -> float | None:
        """Since when (seconds since the epoch) the oldest operation in flight is there; from any thread."""
        return min(dict(self._open).values(), default=None)


def _state_of(eligibility: Eligibility) -> str:
    if not eligibility.eligible:
        return "ineligible"
    return "eligible" if eligibility.available else "taken"


def _reasons_of(eligibility: Eligibility) -> frozenset[str]:
    return frozenset(reason.code for reason in eligibility.reasons)


def _device(view: DeviceView | None) -> tuple[Key, ...]:
    return () if view is None else ((view.node.type, _state_of(view.eligibility)),)


def _device_reasons(view: DeviceView | None) -> tuple[Key, ...]:
    return () if view is None else tuple((view.node.type, code) for code in _reasons_of(view.eligibility))


def _group(view: GroupView | None) -> tuple[Key, ...]:
    return () if view is None else ((_state_of(view.eligibility),),)


def _group_reasons(view: GroupView | None) -> tuple[Key, ...]:
    return () if view is None else tuple((code,) for code in _reasons_of(view.eligibility))


def _holder(holder: Holder | None) -> tuple[Key, ...]:
    return () if holder is None else ((str(holder.via), "other" if holder.assignment is None else "hostdevd"),)


def _state(assignment: Assignment | None) -> tuple[Key, ...]:
    return () if assignment is None else ((str(assignment.state),),)


def _conditions(assignment: Assignment | None) -> tuple[Key, ...]:
    if assignment is None:
        return ()
    return tuple((str(condition.code), str(assignment.state)) for condition in assignment.conditions)
