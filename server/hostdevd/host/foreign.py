"""A host that cannot be seen: libvirt answers from another machine, and this one's /sys says nothing of it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.model import Bar, Check, CheckCode, CheckStatus, HostUses, NodeDevice
from hostdevd.core.ports import (
    DriverState,
    EventSink,
    FunctionCounts,
    FunctionsError,
    FunctionsFault,
    IdentityFacts,
    Listed,
    nothing_listed,
)

_WHY = "libvirt is on another machine, whose mounts, interfaces and drivers cannot be read from here"
_REMEDY = "run hostdevd on the hypervisor itself, with qemu:///system"


class ForeignHost:
    """`HostPort` that fails closed: every device's use is unknown, so none is eligible (rules.md)."""

    async def start(self, sink: EventSink) -> None:
        """There is nothing to watch."""

    async def close(self) -> None:
        """There is nothing to stop."""

    async def uses(self, listed: Listed = nothing_listed) -> HostUses:  # noqa: ARG002
        """All unknown."""
        return HostUses(unknown=(("pci", _WHY),))

    async def is_still(self, as_of: Hashable, listed: Listed = nothing_listed) -> bool:  # noqa: ARG002
        """Nothing is known."""
        return False

    def driver(self, address: PciAddress) -> DriverState:  # noqa: ARG002
        """Not known here; what libvirt last saw is shown."""
        return DriverState(present=False)

    def identity(self, device: NodeDevice) -> IdentityFacts:  # noqa: ARG002
        """Nothing beyond libvirt's XML."""
        return IdentityFacts()

    def block_paths(self, path: str) -> tuple[str, ...]:  # noqa: ARG002
        """Not known here."""
        return ()

    def bars(self, address: PciAddress) -> tuple[Bar, ...]:  # noqa: ARG002
        """Not known here."""
        return ()

    def has_generic_node(self, address: ScsiAddress) -> bool:  # noqa: ARG002
        """Not known here."""
        return True

    def kernel_release(self) -> str:
        """Not known here."""
        return ""

    async def functions(self, address: PciAddress) -> FunctionCounts | None:  # noqa: ARG002
        """Not known here: the call fails before anything depends on it."""
        raise FunctionsError(FunctionsFault.NO_HELPER, f"{_WHY}; {_REMEDY}")

    async def set_functions(self, address: PciAddress, count: int) -> None:  # noqa: ARG002
        """Not from here."""
        raise FunctionsError(FunctionsFault.NO_HELPER, f"{_WHY}; {_REMEDY}")

    def boot_id(self) -> str:
        """Not known here."""
        return ""

    async def checks(self, listed: Listed = nothing_listed) -> Sequence[Check]:  # noqa: ARG002
        """What matters is that the host cannot be seen."""
        unseen = (CheckCode.IOMMU, CheckCode.INTERRUPT_REMAPPING, CheckCode.VFIO, CheckCode.PERMISSIONS)
        return (
            *(Check(code, CheckStatus.WARN, _WHY, _REMEDY) for code in unseen),
            Check(CheckCode.HOST_USES, CheckStatus.FAIL, _WHY, _REMEDY),
        )
