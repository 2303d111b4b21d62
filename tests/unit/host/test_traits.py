"""The memory regions, the generic node and the kernel's release as /sys and /proc tell them."""

from __future__ import annotations

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.model import Bar
from hostdevd.host.running import RunningHost
from hostdevd.host.traits import read_bars
from unit.host.builder import HostBuilder

GPU = "0000:01:00.0"
RESOURCE = """\
0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200
0x000000e000000000 0x000000efffffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000001ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000000000e000 0x000000000000e07f 0x0000000000040101
0x00000000f7000000 0x00000000f707ffff 0x0000000000046200
0x000000f000000000 0x000000f3ffffffff 0x000000000014220c
"""


def test_memory_bars_without_ports_rom_and_what_virtual_functions_get(host: HostBuilder) -> None:
    host.function(GPU, resource=RESOURCE)
    assert read_bars(host.tree, PciAddress.parse(GPU)) == (
        Bar(16 << 20),
        Bar(64 << 30, wide=True),
        Bar(32 << 20, wide=True),  # one that got no room
    )


def test_what_cannot_be_read_is_left_out(host: HostBuilder) -> None:
    assert read_bars(host.tree, PciAddress.parse(GPU)) == ()
    path = host.function(GPU, resource="0x1\nfour words are here\n0x0 0xff 0x200")
    assert read_bars(host.tree, PciAddress.parse(GPU)) == (Bar(256),)
    host.unreadable(f"{path}/resource")
    assert read_bars(host.tree, PciAddress.parse(GPU)) == ()


def test_a_lun_has_a_generic_node_where_libvirt_looks_for_it(host: HostBuilder) -> None:
    running, address = RunningHost(host.root), ScsiAddress(2, 0, 0, 1)
    assert running.has_generic_node(address)  # not known
    host.directory(f"/sys/bus/scsi/devices/{address}")
    assert not running.has_generic_node(address)
    host.directory(f"/sys/bus/scsi/devices/{address}/scsi_generic/sg1")
    assert running.has_generic_node(address)


def test_the_kernel_tells_its_release(host: HostBuilder) -> None:
    running = RunningHost(host.root)
    assert running.kernel_release() == ""
    host.write("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
    assert running.kernel_release() == "6.1.0-18-amd64"
