"""Faults at named calls: an error once, at the nth call that fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hostdevd.core.ports import HypervisorError
from hostdevd.sim.extras import Fault
from hostdevd.sim.faults import raised


@dataclass(slots=True)
class _Armed:
    fault: Fault
    seen: int = 0


class Faults:
    """The faults that are still to come."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._armed = [_Armed(fault) for fault in faults]

    def arm(self, fault: Fault) -> None:
        """Add one; calls are counted from now."""
        self._armed.append(_Armed(fault))

    def meet(self, call: str, domain: str = "", device: str = "") -> Fault | None:
        """A call begins: the fault that it meets, which is then spent."""
        for armed in self._armed:
            fault = armed.fault
            if fault.call != call or fault.domain not in {"", domain} or fault.device not in {"", device}:
                continue
            armed.seen += 1
            if armed.seen >= fault.nth:
                self._armed.remove(armed)
                return fault
        return None


def error_of(fault: Fault) -> HypervisorError:
    """The exception that the port raises for it."""
    return raised(fault.code, fault.text, gone=fault.gone)
