"""The machine that hostdevd runs on, as the core asks for it (`HostPort`)."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.model import Bar, Check, HostUses, NodeDevice
from hostdevd.core.ports import DriverState, EventSink, FunctionCounts, IdentityFacts, Listed, nothing_listed
from hostdevd.host.blocks import block_paths
from hostdevd.host.checks import read_checks
from hostdevd.host.drivers import driver_state
from hostdevd.host.identity import identity_facts
from hostdevd.host.interfaces import foreign_interfaces
from hostdevd.host.overrides import Overrides
from hostdevd.host.sriov import SriovHelper
from hostdevd.host.sysfs import HostTree, Unreadable
from hostdevd.host.traits import has_generic_node, kernel_release, read_bars
from hostdevd.host.untold import Untold, untold
from hostdevd.host.uses import read_uses
from hostdevd.host.watch import HostWatch

SETTLE_S = 3.0
"""How long a use that was known and is not any more may stay unknown.

udev writes of a new disk a little late, and libvirt tells of an interface that went or was renamed a little
later than the kernel.
"""

_LOOK_AGAIN_S = 0.1

NO_SOCKET = Path("/nonexistent")
"""Where no helper listens."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """What the host tells that it is still as it was: equal moments have equal uses, unless `told` is None.

    `told` is the watch's number, `foreign` libvirt's interfaces that this host lacks, `untold` what is not announced,
    nor `overrides`.
    """

    told: int | None
    foreign: frozenset[str]
    untold: Untold
    overrides: tuple[tuple[str, str], ...]


class RunningHost:
    """Reads the host below `root`: `/sys`, `/proc`, `/run/udev` and `/dev`.

    With another root than `/` the tree is taken as a recording: the kernel's events and netlink, which
    know no root, are left alone.
    """

    def __init__(self, root: Path = Path("/"), sriov_socket: Path = NO_SOCKET) -> None:
        self._tree = HostTree(root)
        self._sriov = SriovHelper(self._tree, sriov_socket)
        self._watch = HostWatch(self._tree)
        self._overrides = Overrides(self._tree)
        self._unknown: tuple[tuple[str, str], ...] | None = None  # nothing was told yet
        self._foreign = frozenset[str]()

    async def start(self, sink: EventSink) -> None:
        """Begin to watch for changes of drivers and uses."""
        self._watch.open(sink)

    async def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    async def uses(self, listed: Listed = nothing_listed) -> HostUses:
        """What the host uses now, read anew in a thread; never raises.

        What becomes unknown is looked at again for `SETTLE_S` before it is told: a stick that was just
        plugged in must not have every device of the host refused until udev has seen it, nor an interface
        that was just renamed until libvirt has. The first answer does not wait: the service must start on a
        host whose gaps stay.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_S
        while True:
            found = await self._read(listed())
            if self._unknown is None or set(found.unknown) <= set(self._unknown) or loop.time() >= until:
                self._unknown = found.unknown
                return found
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def is_still(self, as_of: Hashable, listed: Listed = nothing_listed) -> bool:
        """Whether nothing that a read of the uses looks at has changed since."""
        return as_of == await asyncio.to_thread(self._moment, self._watch.told(), listed())

    async def _read(self, listed: frozenset[str] | None) -> HostUses:
        if not self._tree.live:
            await asyncio.to_thread(self._overrides.look)
            return await asyncio.to_thread(read_uses, self._tree)
        before = await asyncio.to_thread(self._moment, self._watch.told(), listed)
        self._foreign = before.foreign
        found = await asyncio.to_thread(read_uses, self._tree, before.foreign)
        if found.unknown or before.told is None:
            return found
        # What changed meanwhile, and changed back, was read as it never is again.
        after = await asyncio.to_thread(self._moment, self._watch.told(), listed)
        return replace(found, as_of=before) if before == after else found

    def _moment(self, told: int | None, listed: frozenset[str] | None) -> _Moment:
        # While libvirt is silent, what it last listed in vain stays another host's.
        foreign = foreign_interfaces(self._tree, self._foreign if listed is None else listed)
        try:
            return _Moment(told, foreign, untold(self._tree), self._overrides.look())
        except Unreadable:
            return _Moment(None, foreign, (), ())

    def driver(self, address: PciAddress) -> DriverState:
        """The driver bound to a PCI function now."""
        return driver_state(self._tree, address, self._overrides.of)

    def identity(self, device: NodeDevice) -> IdentityFacts:
        """What sysfs tells of the device's identity; empty facts when it is gone."""
        return identity_facts(self._tree, device)

    def block_paths(self, path: str) -> tuple[str, ...]:
        """The sysfs paths of the whole disks below a block device's path, links and stacks followed."""
        return block_paths(self._tree, path)

    def bars(self, address: PciAddress) -> tuple[Bar, ...]:
        """The memory regions of a PCI function; none where they cannot be told."""
        return read_bars(self._tree, address)

    def has_generic_node(self, address: ScsiAddress) -> bool:
        """Whether a LUN has a SCSI generic node: looked for where libvirt looks for its name."""
        return has_generic_node(self._tree, address)

    def kernel_release(self) -> str:
        """The running kernel's release; empty where it cannot be told."""
        return kernel_release(self._tree)

    async def functions(self, address: PciAddress) -> FunctionCounts | None:
        """The virtual functions of a function now; None where it cannot have any."""
        return await self._sriov.counts(address)

    async def set_functions(self, address: PciAddress, count: int) -> None:
        """Have the root helper set their number."""
        await self._sriov.set(address, count)

    def boot_id(self) -> str:
        """The kernel's boot id; `Unreadable` without one, since no guess would be safe."""
        return self._tree.require("/proc/sys/kernel/random/boot_id").strip()

    async def checks(self, listed: Listed = nothing_listed) -> Sequence[Check]:
        """IOMMU, INTERRUPT_REMAPPING, VFIO, HOST_USES and PERMISSIONS."""
        uses = await self.uses(listed)
        return await asyncio.to_thread(read_checks, self._tree, uses, self._watch.gaps)
