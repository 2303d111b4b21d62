"""Warnings about a guest's memory: what VFIO pins of it, and where a device's BARs are to lie.

Side effects of a plan and never blockers: libvirt and the firmware have the last word on both, and api.md
has no reason for either.
"""

from __future__ import annotations

from collections.abc import Iterator

from hostdevd.core.model import Domain, GuestHardware, HolderRole, NodeDevice, PciFacts
from hostdevd.core.plan import PlannedDevice, SideEffect
from hostdevd.core.store import Store

_GIB = 1 << 30
_MMIO_BYTES = _GIB
"""libvirt allows so much above the guest's memory for the regions of devices (`qemuDomainGetMemLockLimitBytes`)."""

_WINDOW_Q35_BYTES = 32 * _GIB
_WINDOW_PC_BYTES = 2 * _GIB
"""QEMU's `pci-hole64-size` where the definition has no `<pcihole64>`."""

_BELOW_4_GIB_BYTES = _GIB // 4
"""Regions of this size together find room below 4 GiB, however small the window above is."""

_X86 = frozenset({"x86_64", "i686"})


def memory_warnings(store: Store, domain: Domain, devices: tuple[PlannedDevice, ...]) -> Iterator[SideEffect]:
    """What may go wrong with the guest's memory, with what to do about it."""
    live = any(device.live for device in devices)
    definition = domain.live if live else domain.config
    taken = [device.node for device in devices if device.live or device.config]
    if definition is None or not any(node.type in {"pci", "mdev"} for node in taken):
        return
    before = tuple(_held(store, domain, live=live))
    yield from _locking(domain.vm.name, definition.hardware, len({*before} | {node.name for node in taken}))
    shown = [device.node for device in devices if device.role is HolderRole.VISIBLE and device.node in taken]
    yield from _window(store, domain.vm.name, definition.hardware, before, shown)


def _held(store: Store, domain: Domain, *, live: bool) -> Iterator[str]:
    """The VFIO devices that the VM has there already, by name."""
    for holder in store.holders.values():
        if holder.vm.uuid == domain.vm.uuid and (holder.live if live else holder.config):
            node = store.graph.get(holder.device)
            if node is not None and node.type in {"pci", "mdev"}:
                yield node.name


def _locking(name: str, hardware: GuestHardware, count: int) -> Iterator[SideEffect]:
    """Libvirt raises the limit of locked memory by itself, unless `<hard_limit>` is set: that is then the limit.

    Its own would be the guest's memory and 1 GiB; with a virtual IOMMU the memory once per device, as each
    then pins for itself. `<locked/>` alone has no limit at all.
    """
    limit, memory = hardware.hard_limit_bytes, hardware.memory_bytes
    if limit is None or memory is None:
        return
    needed = memory * (count if hardware.iommu else 1) + _MMIO_BYTES
    if limit < needed:
        outcome = "will fail" if limit < memory else "may fail"
        yield SideEffect(
            f"the hard_limit of {name} is {_size(limit)}, and libvirt lets it lock no more: pinning its memory"
            f" {outcome}; set <memtune><hard_limit> to {_size(needed)} or more, or remove it"
        )


def _window(
    store: Store, name: str, hardware: GuestHardware, before: tuple[str, ...], shown: list[NodeDevice]
) -> Iterator[SideEffect]:
    window = _window_bytes(hardware)
    if window is None:
        return
    news = sum(_wide_bytes(store, node) for node in shown)
    others = {node.name for node in shown}
    all_bytes = news + sum(_wide_bytes(store, store.graph.nodes[held]) for held in before if held not in others)
    if news and all_bytes > max(window, _BELOW_4_GIB_BYTES):
        yield SideEffect(
            f"the memory regions (BARs) of the devices are {_size(all_bytes)}, the window of {name} for them above"
            f" 4 GiB is {_size(window)}: the guest may not be able to use them; set <pcihole64> at its PCI root"
            f" controller to {_size(_power_of_2(all_bytes))} (firmware may keep a window of its own, as OVMF does)"
        )


def _window_bytes(hardware: GuestHardware) -> int | None:
    """None where it is not known: other architectures have windows that only their firmware tells."""
    if hardware.hole64_bytes is not None:
        return hardware.hole64_bytes
    if hardware.arch not in _X86:
        return None
    return _WINDOW_Q35_BYTES if hardware.pcie else _WINDOW_PC_BYTES


def _wide_bytes(store: Store, node: NodeDevice) -> int:
    """What the function wants above 4 GiB; a region lies at a multiple of its size, so they pack well."""
    if not isinstance(node.facts, PciFacts):
        return 0
    return sum(bar.size_bytes for bar in store.bars(node.facts.address) if bar.wide)


def _power_of_2(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _size(size: int) -> str:
    """In GiB where it is whole, else in MiB, rounded up."""
    if size % _GIB == 0 and size:
        return f"{size // _GIB} GiB"
    return f"{-(-size // (1 << 20))} MiB"
