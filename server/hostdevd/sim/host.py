"""The host port on the simulated host: drivers, uses, identities."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Hashable, Sequence

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.model import Bar, Check, CheckCode, CheckStatus, HostUse, HostUses, NodeDevice, StorageFacts
from hostdevd.core.ports import (
    DriverState,
    Event,
    EventSink,
    FunctionCounts,
    HostChanged,
    IdentityFacts,
    Listed,
    nothing_listed,
)
from hostdevd.sim.functions import counts, set_count
from hostdevd.sim.identity import identity_of
from hostdevd.sim.world import World

_PARTITION = re.compile(r"(/dev/(?:sd[a-z]+|vd[a-z]+))[0-9]+|(/dev/(?:nvme[0-9]+n[0-9]+|mmcblk[0-9]+))p[0-9]+")


class SimHost:
    """`HostPort` over a `World`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sink: EventSink | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._setting = asyncio.Lock()
        self.before_functions: Callable[[PciAddress, int], Awaitable[None]] | None = None
        """What a driver does before it makes functions: it may wait, or raise `FunctionsError`."""

    async def start(self, sink: EventSink) -> None:
        """Begin to tell of changed drivers and uses."""
        self._sink = sink
        self._unsubscribe = self._world.subscribe(self._forward)

    async def close(self) -> None:
        """Stop telling."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._unsubscribe = self._sink = None

    def _forward(self, event: Event) -> None:
        if isinstance(event, HostChanged):
            asyncio.get_running_loop().call_soon(self._hand_over, event)

    def _hand_over(self, event: Event) -> None:
        if self._sink is not None:
            self._sink(event)

    async def uses(self, listed: Listed = nothing_listed) -> HostUses:  # noqa: ARG002  it is the host of its own libvirt
        """The uses of devices that the host sees: without its disk there is no mount."""
        kernel = self._world.kernel
        by_path: dict[str, tuple[HostUse, ...]] = {}
        for name, uses in self._world.uses.items():
            path = kernel.devices[name].node.path if kernel.visible(name) else None
            if path and uses:
                by_path[path] = (*by_path.get(path, ()), *uses)
        unknown = tuple(sorted(self._world.extras.host.unknown_uses.items()))
        return HostUses(by_path, unknown, as_of=self._world.changes)

    async def is_still(self, as_of: Hashable, listed: Listed = nothing_listed) -> bool:  # noqa: ARG002
        """Whether nothing at all has changed since."""
        return as_of == self._world.changes

    def driver(self, address: PciAddress) -> DriverState:
        """The driver bound to a PCI function now."""
        return self._world.kernel.driver(address)

    def identity(self, device: NodeDevice) -> IdentityFacts:
        """What sysfs tells of the device's identity; empty facts when it is gone."""
        kernel = self._world.kernel
        if not kernel.visible(device.name):
            return IdentityFacts()
        return identity_of(kernel.graph, kernel.node(device.name), self._world.identities)

    def block_paths(self, path: str) -> tuple[str, ...]:
        """The sysfs paths of the whole disks below a block device's path, links and stacks followed."""
        kernel = self._world.kernel
        stacked = self._world.extras.stacks.get(path, ())
        partition = _PARTITION.fullmatch(path)
        whole = (partition[1] or partition[2]) if partition else re.sub(r"-part[0-9]+$", "", path)
        found = [
            node.path
            for name in sorted(kernel.names())
            if (node := kernel.node(name)).path
            and isinstance(node.facts, StorageFacts)
            and (name in stacked or whole == node.facts.block or whole in node.devnodes)
        ]
        return tuple(each for each in found if each)

    def bars(self, address: PciAddress) -> tuple[Bar, ...]:
        """The memory regions that the extras give the function, all of them 64 bits wide."""
        device = self._world.kernel.pci(address)
        extras = self._world.extras.drivers.get(device.node.name) if device is not None else None
        return tuple(Bar(mib * 1024 * 1024, wide=True) for mib in extras.bars_mib) if extras is not None else ()

    def has_generic_node(self, address: ScsiAddress) -> bool:  # noqa: ARG002  a module for all
        """Whether the extras let `sg` be loaded."""
        return self._world.extras.host.sg

    def kernel_release(self) -> str:
        """The release that the extras give the kernel."""
        return self._world.extras.host.kernel

    async def functions(self, address: PciAddress) -> FunctionCounts | None:
        """The virtual functions of a function now; None where it cannot have any."""
        async with self._setting:
            return counts(self._world, address)

    async def set_functions(self, address: PciAddress, count: int) -> None:
        """Make or remove virtual functions, as the helper and the kernel would; a test's driver may take its time."""
        async with self._setting:
            if self.before_functions is not None:
                await self.before_functions(address, count)
            set_count(self._world, address, count)

    def boot_id(self) -> str:
        """The kernel's boot id."""
        return self._world.boot_id

    async def checks(self, listed: Listed = nothing_listed) -> Sequence[Check]:  # noqa: ARG002
        """Everything passes, except what the extras take away."""
        host = self._world.extras.host
        unknown = "; ".join(f"{kind}: {text}" for kind, text in sorted(host.unknown_uses.items()))
        return (
            _check(CheckCode.IOMMU, "the IOMMU isolates devices" if host.iommu else "", _ENABLE_IOMMU),
            _check(
                CheckCode.INTERRUPT_REMAPPING,
                "interrupts are remapped" if host.interrupt_remapping else "",
                "enable interrupt remapping in the firmware",
                otherwise=CheckStatus.WARN,
            ),
            _check(CheckCode.VFIO, "vfio-pci is loaded" if host.vfio else "", "modprobe vfio-pci"),
            _check(CheckCode.HOST_USES, "" if unknown else "all uses can be read", f"cannot be read: {unknown}"),
            Check(CheckCode.PERMISSIONS, CheckStatus.PASS, "a simulated host asks for none"),
        )


_ENABLE_IOMMU = "enable the IOMMU in the firmware, and with intel_iommu=on on the kernel's command line"


def _check(code: CheckCode, good: str, remedy: str, otherwise: CheckStatus = CheckStatus.FAIL) -> Check:
    if good:
        return Check(code, CheckStatus.PASS, good)
    return Check(code, otherwise, f"the simulated host has no {code.lower().replace('_', ' ')}", remedy)
