"""What GetHost says of a machine that cannot pass devices through, and what to do about it."""

from __future__ import annotations

from hostdevd.core.model import Check, CheckCode, CheckStatus, HostUses
from hostdevd.host.checks import read_checks
from unit.host.builder import HostBuilder

PASS, WARN, FAIL = CheckStatus.PASS, CheckStatus.WARN, CheckStatus.FAIL


def check(host: HostBuilder, code: CheckCode, uses: HostUses | None = None, gaps: tuple[str, ...] = ()) -> Check:
    checks = read_checks(host.tree, uses or host.uses(), gaps)
    assert [one.code for one in checks] == [
        CheckCode.IOMMU,
        CheckCode.INTERRUPT_REMAPPING,
        CheckCode.VFIO,
        CheckCode.HOST_USES,
        CheckCode.PERMISSIONS,
    ]
    assert all(one.remedy for one in checks if one.status is not PASS)
    return next(one for one in checks if one.code is code)


def test_groups_mean_an_iommu(host: HostBuilder) -> None:
    host.directory("/sys/kernel/iommu_groups/0")
    assert check(host, CheckCode.IOMMU).status is PASS


def test_without_groups_the_remedy_is_the_vendors(host: HostBuilder) -> None:
    host.write("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n")
    intel = check(host, CheckCode.IOMMU)
    assert intel.status is FAIL
    assert "intel_iommu=on" in intel.remedy
    assert "VT-d" in intel.remedy
    host.write("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\n")
    assert "amd_iommu" in check(host, CheckCode.IOMMU).remedy
    host.write("/proc/cpuinfo", "CPU implementer : 0x41\n")
    assert "SMMU" in check(host, CheckCode.IOMMU).remedy


def test_interrupt_remapping_by_the_names_of_the_chips(host: HostBuilder) -> None:
    head = "           CPU0       CPU1\n"
    assert check(host, CheckCode.INTERRUPT_REMAPPING).status is WARN
    host.directory("/sys/kernel/iommu_groups/0")
    host.write("/proc/interrupts", f"{head} 24:  1  0  IO-APIC   2-edge      timer\nNMI: 0 0 Non-maskable\n")
    assert check(host, CheckCode.INTERRUPT_REMAPPING).status is FAIL
    host.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n")
    assert check(host, CheckCode.INTERRUPT_REMAPPING).status is WARN
    host.write("/proc/interrupts", f"{head} 24:  1  0  IR-IO-APIC   2-edge      timer\n")
    assert check(host, CheckCode.INTERRUPT_REMAPPING).status is PASS


def test_interrupt_remapping_by_sysfs(host: HostBuilder) -> None:
    host.write("/sys/kernel/irq/24/chip_name", "IR-PCI-MSI\n")
    assert check(host, CheckCode.INTERRUPT_REMAPPING).status is PASS


def test_vfio_loaded_loadable_or_missing(host: HostBuilder) -> None:
    host.write("/proc/sys/kernel/osrelease", "6.1.0\n")
    assert check(host, CheckCode.VFIO).status is FAIL
    host.write("/lib/modules/6.1.0/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko: x.ko\n")
    assert check(host, CheckCode.VFIO).status is WARN
    assert "modprobe vfio-pci" in check(host, CheckCode.VFIO).remedy
    host.directory("/sys/bus/pci/drivers/vfio-pci")
    assert check(host, CheckCode.VFIO).status is WARN
    host.write("/dev/vfio/vfio", "")
    assert check(host, CheckCode.VFIO).status is PASS


def test_host_uses_fail_with_what_cannot_be_seen(host: HostBuilder) -> None:
    assert check(host, CheckCode.HOST_USES).status is PASS
    assert check(host, CheckCode.HOST_USES, gaps=("mounts are not watched",)).status is WARN
    host.unreadable("/proc/swaps")
    told = check(host, CheckCode.HOST_USES)
    assert told.status is FAIL
    assert "/proc/swaps" in told.message


def test_permissions_name_what_is_hidden(host: HostBuilder) -> None:
    assert check(host, CheckCode.PERMISSIONS).status is PASS
    host.disk("sda")
    host.at("/dev/sda").unlink()
    host.unreadable("/proc/1/mountinfo")
    told = check(host, CheckCode.PERMISSIONS)
    assert told.status is FAIL
    assert "/proc/1/mountinfo" in told.message
    assert "/dev" in told.message
