"""No text in any file makes a reader raise: it is understood, ignored, or told as a gap."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostdevd.core.addresses import PciAddress, ScsiAddress, UsbAddress
from hostdevd.core.model import HostUses, NodeDevice, PciFacts, ScsiFacts, UsbFacts
from hostdevd.host.blocks import block_paths
from hostdevd.host.checks import read_checks
from hostdevd.host.drivers import driver_state
from hostdevd.host.identity import identity_facts
from hostdevd.host.overrides import Overrides
from unit.host.builder import HostBuilder

LUN = "/sys/devices/pci0000:00/0000:00:05.0/host0/target0:0:0/0:0:0:0"
USB = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2"
PCI = "/sys/devices/pci0000:00/0000:00:02.0"
FILES = (
    "/proc/1/mountinfo",
    "/proc/swaps",
    "/proc/1/net/dev",
    "/proc/1/net/route",
    "/proc/1/net/fib_trie",
    "/proc/1/net/ipv6_route",
    "/proc/1/net/if_inet6",
    "/proc/1/net/pppoe",
    "/proc/interrupts",
    "/proc/cpuinfo",
    "/proc/cmdline",
    "/run/udev/data/b8:1",
    f"{LUN}/block/sda/dev",
    f"{LUN}/wwid",
    f"{LUN}/vpd_pg80",
    f"{USB}/serial",
    f"{USB}/1-2:1.0/bInterfaceClass",
    "/sys/devices/virtual/block/dm-0/dm/name",
    "/sys/devices/virtual/block/dm-0/dm/uuid",
    "/sys/devices/virtual/block/loop0/loop/backing_file",
    f"{PCI}/boot_vga",
    f"{PCI}/enable",
    f"{PCI}/driver_override",
    f"{PCI}/subsystem_vendor",
    "/sys/class/vtconsole/vtcon0/name",
    "/sys/fs/btrfs/1/label",
    "/sys/devices/pci0000:00/firmware_node/path",
)
PIECES = st.sampled_from(
    [
        " ",
        "\n",
        "\t",
        ":",
        "-",
        "=",
        "/",
        "0",
        "8:1",
        " - ",
        "E:ID_FS_TYPE=",
        "/dev/sda",
        r"\040",
        "|-- ",
        "/32 host LOCAL",
        "eth0",
        "00000000",
        "0003",
        "partition",
        "btrfs",
        "Iface\n",
        "0" * 32,
        "ffffffff",
        "\x00",
        "\x1b[2J",
        "\ud7ff",
    ]
)
TEXT = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=40).map(lambda parts: "".join(parts).encode()))


@pytest.fixture(scope="module")
def whole_host(tmp_path_factory: pytest.TempPathFactory) -> HostBuilder:
    host = HostBuilder(tmp_path_factory.mktemp("host"))
    host.disk("sda", parent=LUN)
    host.stacked("dm-0", "sda", dm=("vg0-root", "LVM-1"))
    host.write(f"{host.stacked('loop0')}/loop/backing_file", "/dev/sda\n")
    host.mount(host.number_of("dm-0"), "/")
    host.nic("eth0")
    host.address4("eth0", "192.0.2.2", "000200C0", "00FFFFFF")
    host.function("0000:00:02.0", "vfio-pci", enable="0", boot_vga="1")
    for path in FILES:
        if not host.at(path).exists():
            host.write(path, "")
    return host


def look_at_everything(host: HostBuilder) -> HostUses:
    tree = host.tree
    uses = host.uses()
    read_checks(tree, uses)
    address = PciAddress.parse("0000:00:02.0")
    driver_state(tree, address, Overrides(tree).of)
    for path, of in (
        (PCI, PciFacts(address, 0, 0, 0)),
        (USB, UsbFacts(UsbAddress(1, 2), 0, 0)),
        (LUN, ScsiFacts(ScsiAddress(0, 0, 0, 0))),
    ):
        identity_facts(tree, NodeDevice(name="d", type="t", path=path, facts=of))
    for path in ("/dev/sda", "/dev/mapper/vg0-root", "/dev/loop0"):
        block_paths(tree, path)
    return uses


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(FILES), text=TEXT)
def test_any_text_in_any_file(whole_host: HostBuilder, path: str, text: bytes) -> None:
    before = whole_host.at(path).read_bytes()
    whole_host.write(path, text)
    try:
        uses = look_at_everything(whole_host)
    finally:
        whole_host.write(path, before)
    for _, message in uses.unknown:
        assert message.isprintable()
    for found in uses.by_path.values():
        assert all(use.detail.isprintable() for use in found)


@settings(max_examples=200, deadline=None)
@given(path=st.text(max_size=60) | st.text(max_size=60).map(lambda text: f"/dev/{text}"))
def test_any_path_of_a_disk(whole_host: HostBuilder, path: str) -> None:
    block_paths(whole_host.tree, path)


@pytest.mark.parametrize("path", FILES)
def test_any_file_may_be_unreadable(whole_host: HostBuilder, path: str) -> None:
    before = whole_host.at(path).read_bytes()
    whole_host.unreadable(path)
    try:
        uses = look_at_everything(whole_host)
    finally:
        whole_host.at(path).unlink()
        whole_host.write(path, before)
    told_of_uses = ("/proc/1/", "/proc/swaps", "/run/udev", "/sys/devices/virtual/block", f"{PCI}/enable")
    if path.startswith(told_of_uses):
        assert uses.unknown
