"""What `GetHost` says of the machine: can it pass devices through, and can the service see enough of it?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from hostdevd.core.model import Check, CheckCode, CheckStatus, HostUses
from hostdevd.host.blocks import SYS_BLOCK
from hostdevd.host.sysfs import HostTree, Unreadable

_IOMMU_GROUPS = "/sys/kernel/iommu_groups"
_VFIO_PCI = "/sys/bus/pci/drivers/vfio-pci"
_VFIO_NODE = "/dev/vfio/vfio"
_UNSAFE = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
_MSI_CHIPS = re.compile(r"\b(IO-APIC|PCI-MSIX?)\b")
_REMAPPED = re.compile(r"\b(?:IR-|ITS-|AMD-Vi)\S*")
_READ_ALWAYS = (
    "/proc/1/mountinfo",
    "/proc/1/net/dev",
    "/proc/1/net/route",
    "/proc/swaps",
)

_Outcome = tuple[CheckStatus, str, str]
_Look = Callable[[HostTree], _Outcome]


def read_checks(tree: HostTree, uses: HostUses, watch_gaps: tuple[str, ...] = ()) -> tuple[Check, ...]:
    """The checks of the host. Never raises.

    `watch_gaps` are changes that the service is not told of: uses are then read later than they change.
    """
    return (
        _told(CheckCode.IOMMU, tree, _iommu),
        _told(CheckCode.INTERRUPT_REMAPPING, tree, _interrupt_remapping),
        _told(CheckCode.VFIO, tree, _vfio),
        _host_uses(uses, watch_gaps),
        _told(CheckCode.PERMISSIONS, tree, _permissions),
    )


def _told(code: CheckCode, tree: HostTree, look: _Look) -> Check:
    try:
        status, message, remedy = look(tree)
    except Unreadable as error:
        return Check(code, CheckStatus.WARN, f"cannot be told: {error}", "let the service read it")
    return Check(code, status, message, remedy)


# --- IOMMU -------------------------------------------------------------------------------------------


def _iommu(tree: HostTree) -> _Outcome:
    groups = tree.names(_IOMMU_GROUPS)
    if groups:
        return CheckStatus.PASS, f"the IOMMU is on, with {len(groups)} groups", ""
    units = tree.names("/sys/class/iommu")
    asked = [word for word in tree.value("/proc/cmdline").split() if "iommu" in word]
    message = "there are no IOMMU groups, so no PCI device can be passed through"
    if units:
        message += f"; the kernel has found an IOMMU ({', '.join(sorted(units)[:4])}) and does not use it"
    elif asked:
        message += f"; the kernel was started with {' '.join(asked)} and found no IOMMU"
    return CheckStatus.FAIL, message, _iommu_remedy(tree.read("/proc/cpuinfo") or "")


def _iommu_remedy(cpuinfo: str) -> str:
    vendor = re.search(r"^vendor_id\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    match vendor[1] if vendor else "":
        case "GenuineIntel":
            return "switch on VT-d in the BIOS, add intel_iommu=on to the kernel's command line, and reboot"
        case "AuthenticAMD" | "HygonGenuine":
            return (
                "switch on AMD-Vi (IOMMU, SVM) in the BIOS, see that the kernel's command line has no "
                "amd_iommu=off, and reboot"
            )
        case _:
            return (
                "switch on the IOMMU (VT-d, AMD-Vi, SMMU) in the firmware, with intel_iommu=on on Intel "
                "(on AMD no amd_iommu=off), and reboot"
            )


def _interrupt_remapping(tree: HostTree) -> _Outcome:
    chips = set(_interrupt_chips(tree))
    remapped = sorted(chip for chip in chips if _REMAPPED.match(chip))
    if remapped:
        return CheckStatus.PASS, f"interrupts are remapped ({remapped[0]})", ""
    remedy = (
        "switch on x2APIC and interrupt remapping in the BIOS and remove intremap=off; where the hardware has "
        "none and the guests are trusted: options vfio_iommu_type1 allow_unsafe_interrupts=1"
    )
    if tree.value(_UNSAFE) in {"Y", "1"}:
        message = "interrupts are not known to be remapped, and unsafe interrupts are allowed: guests can forge them"
        return CheckStatus.WARN, message, remedy
    if any(_MSI_CHIPS.search(chip) for chip in chips) and tree.names(_IOMMU_GROUPS):
        message = "no interrupt goes through remapping, without which VFIO refuses devices"
        return CheckStatus.FAIL, message, remedy
    return CheckStatus.WARN, "whether interrupts are remapped cannot be told", remedy


def _interrupt_chips(tree: HostTree) -> Iterator[str]:
    """The controllers behind the interrupts, by name: `IR-PCI-MSI` is remapped on x86, `ITS-MSI` on Arm."""
    for line in (tree.read("/proc/interrupts") or "").split("\n")[1:]:
        number, _, rest = line.partition(":")
        if number.strip().isdecimal():
            yield from (word for word in rest.split() if not word.isdecimal())
    for number in tree.names("/sys/kernel/irq"):
        chip = tree.value(f"/sys/kernel/irq/{number}/chip_name")
        if chip:
            yield chip


# --- VFIO --------------------------------------------------------------------------------------------


def _vfio(tree: HostTree) -> _Outcome:
    if tree.exists(_VFIO_PCI):
        if tree.exists(_VFIO_NODE):
            return CheckStatus.PASS, "vfio-pci is loaded", ""
        message = f"vfio-pci is loaded, but {_VFIO_NODE} is not in sight"
        return CheckStatus.WARN, message, "modprobe vfio_iommu_type1, and run hostdevd without PrivateDevices="
    release = tree.value("/proc/sys/kernel/osrelease")
    for index in ("modules.dep", "modules.builtin"):
        if re.search(r"\bvfio[-_]pci\.ko", tree.read(f"/lib/modules/{release}/{index}") or ""):
            message = "vfio-pci is not loaded; libvirt loads it with the first device"
            return CheckStatus.WARN, message, "modprobe vfio-pci, and name it in /etc/modules-load.d"
    message = f"the kernel {release} has no vfio-pci that could be found"
    return CheckStatus.FAIL, message, "modprobe vfio-pci; install the kernel's full set of modules if there is none"


# --- the host seen from here -------------------------------------------------------------------------


def _host_uses(uses: HostUses, watch_gaps: tuple[str, ...]) -> Check:
    if uses.unknown:
        gaps = "; ".join(f"{kind}: {message}" for kind, message in uses.unknown)
        return Check(
            CheckCode.HOST_USES,
            CheckStatus.FAIL,
            f"not all of what the host uses can be seen: {gaps}",
            "run hostdevd on the very host of the libvirt that it is connected to, in its network namespace, with "
            "its /proc, /sys and /run/udev in view and udev running",
        )
    found = f"what the host uses can be seen: {len(uses.by_path)} devices are in use"
    if watch_gaps:
        return Check(
            CheckCode.HOST_USES,
            CheckStatus.WARN,
            f"{found}; changes are seen late: {'; '.join(watch_gaps)}",
            "run hostdevd in the host's network namespace, with libudev installed",
        )
    return Check(CheckCode.HOST_USES, CheckStatus.PASS, found)


def _permissions(tree: HostTree) -> _Outcome:
    missing = []
    for path in _READ_ALWAYS:
        try:
            tree.require(path)
        except Unreadable as error:
            missing.append(str(error))
    # Domains name disks by nodes and links in /dev; without them a disk in a VM is not recognised.
    disks = [name for name in tree.names(SYS_BLOCK) if not name.startswith(("loop", "ram", "zram", "nbd"))]
    if disks and not any(tree.exists(f"/dev/{name.replace('!', '/')}") for name in disks):
        missing.append("/dev: the host's block devices are not there")
    if missing:
        remedy = "lift the sandbox: no PrivateDevices=, ProtectProc= or PrivateNetwork=, no container of its own"
        return CheckStatus.FAIL, f"the service may not see: {'; '.join(missing)}", remedy
    who = f"user {os.geteuid()}" if tree.live else "the service"
    return CheckStatus.PASS, f"{who} reads all of the host that it needs", ""
