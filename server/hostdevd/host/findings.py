"""Collects what the readers of the host's uses find, and what they could not find out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from hostdevd.core.model import HostUse, HostUseKind, HostUses
from hostdevd.host.sysfs import Unreadable, printable

# A container host binds one disk to hundreds of places; nobody reads more than the first few.
_MOST_DETAILS = 8


class Findings:
    """Uses by sysfs path, and gaps by node device type; each reader of a source writes into it."""

    def __init__(self) -> None:
        self._uses: dict[str, dict[HostUseKind, dict[str, None]]] = {}
        self._weak: dict[str, dict[HostUseKind, dict[str, None]]] = {}
        self._unknown: dict[tuple[str, str], None] = {}
        self._shared: dict[str, Collection[str]] = {}

    def add(self, paths: Iterable[str], kind: HostUseKind, detail: str = "", *, weak: bool = False) -> None:
        """A use of the devices at these sysfs paths.

        A weak one counts only where no other of its kind is found: a signature on a disk says the same as
        the active volume group on it, but without its name.
        """
        uses = self._weak if weak else self._uses
        for path in paths:
            uses.setdefault(path, {}).setdefault(kind, {})[printable(detail)] = None

    def share(self, disk: str, functions: Collection[str]) -> None:
        """The PCI functions, if any, that reach a disk which lies below none of them (`HostUses.shared`)."""
        if functions:
            self._shared[disk] = functions

    def unknown(self, device_type: str, message: str) -> None:
        """What could not be read, and which type of device it may be in use by."""
        self._unknown[device_type, printable(message)] = None

    def lacks(self, device_type: str) -> bool:
        """Whether something of this type is unknown."""
        return any(kind == device_type for kind, _ in self._unknown)

    @contextmanager
    def source(self, device_type: str, what: str) -> Iterator[None]:
        """One source of knowledge: when it fails, the others still count, and its gap is told."""
        try:
            yield
        except Unreadable as error:
            self.unknown(device_type, f"{what}: {error}")
        except Exception as error:  # noqa: BLE001  whatever went wrong, not to know is the only safe answer
            self.unknown(device_type, f"{what}: {type(error).__name__}: {error}")

    def result(self) -> HostUses:
        """All of it, in an order that does not change between two reads of the same host."""
        by_path: dict[str, tuple[HostUse, ...]] = {}
        for path in sorted({*self._uses, *self._weak}):
            strong, weak = self._uses.get(path, {}), self._weak.get(path, {})
            by_path[path] = tuple(
                HostUse(kind, detail)
                for kind in HostUseKind
                for detail in _shortened(strong.get(kind) or weak.get(kind) or {})
            )
        shared = {disk: tuple(sorted(functions)) for disk, functions in sorted(self._shared.items())}
        return HostUses(by_path=by_path, unknown=tuple(self._unknown), shared=shared)


def _shortened(details: Iterable[str]) -> list[str]:
    ordered = sorted(details, key=lambda detail: (len(detail), detail))
    if len(ordered) > _MOST_DETAILS:
        rest = len(ordered) - _MOST_DETAILS
        return [*ordered[:_MOST_DETAILS], f"{rest} more"]
    return ordered
