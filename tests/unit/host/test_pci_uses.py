"""The boot console and user-space drivers; and what a gap about PCI functions means."""

from __future__ import annotations

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import HostUse, HostUseKind
from hostdevd.core.ports import DriverState
from hostdevd.host.drivers import driver_state
from hostdevd.host.overrides import Overrides
from unit.host.builder import HostBuilder

CONSOLE = (HostUse(HostUseKind.PRIMARY_CONSOLE),)


def test_boot_vga_with_a_frame_buffer_is_the_console(host: HostBuilder) -> None:
    vga = host.function("0000:00:02.0", "i915", boot_vga="1")
    host.link("/sys/class/graphics/fb0", host.directory(f"{vga}/graphics/fb0"))
    assert host.uses_of(vga) == CONSOLE


def test_boot_vga_below_the_firmwares_frame_buffer_is_the_console(host: HostBuilder) -> None:
    vga = host.function("0000:00:02.0", boot_vga="1")
    path = host.directory("/sys/devices/platform/efi-framebuffer.0/graphics/fb0")
    host.link("/sys/class/graphics/fb0", path)
    assert host.uses_of(vga) == CONSOLE


def test_boot_vga_with_the_text_console_is_the_console(host: HostBuilder) -> None:
    vga = host.function("0000:00:02.0", boot_vga="1")
    host.write("/sys/class/vtconsole/vtcon0/name", "(S) VGA+\n")
    host.write("/sys/class/vtconsole/vtcon0/bind", "1\n")
    assert host.uses_of(vga) == CONSOLE


def test_a_second_graphics_card_and_a_bare_boot_vga_are_no_console(host: HostBuilder) -> None:
    vga = host.function("0000:00:02.0", "vfio-pci", boot_vga="1", enable="0")
    second = host.function("0000:00:04.0", "amdgpu", boot_vga="0")
    host.link("/sys/class/drm/card1", host.directory(f"{second}/drm/card1"))
    assert host.uses_of(vga) == ()
    assert host.uses_of(second) == ()


def test_without_vga_a_frame_buffer_is_the_console(host: HostBuilder) -> None:
    display = host.function("0000:00:02.0", "ast")
    host.link("/sys/class/graphics/fb0", host.directory(f"{display}/graphics/fb0"))
    assert host.uses_of(display) == CONSOLE


def test_an_open_vfio_device_is_told_and_a_bound_one_is_not(host: HostBuilder) -> None:
    bound = host.function("0000:00:02.0", "vfio-pci", enable="0")
    taken = host.function("0000:00:03.0", "vfio-pci", enable="1")
    variant = host.function("0000:00:04.0", "mlx5_vfio_pci", enable="2")
    assert host.uses_of(bound) == ()
    assert host.uses_of(taken) == (HostUse(HostUseKind.VFIO_USER, "vfio-pci"),)
    assert host.uses_of(variant) == (HostUse(HostUseKind.VFIO_USER, "mlx5_vfio_pci"),)


@pytest.mark.parametrize("driver", ["uio_pci_generic", "igb_uio"])
def test_a_device_on_uio_is_told(host: HostBuilder, driver: str) -> None:
    path = host.function("0000:00:02.0", driver)
    assert host.uses_of(path) == (HostUse(HostUseKind.VFIO_USER, driver),)


def test_an_interface_lent_to_another_namespace_is_a_use(host: HostBuilder) -> None:
    path = host.function("0000:00:02.0", "e1000e")
    host.directory(f"{path}/net")
    assert [use.kind for use in host.uses_of(path)] == [HostUseKind.GLOBAL_ADDRESS]


@pytest.mark.parametrize(
    ("bus", "carrier"),
    [
        ("usb", "0000:00:14.0/usb1/1-1/1-1:1.0"),
        ("auxiliary", "0000:03:00.0/mlx5_core.sf.4"),
    ],
)
def test_an_interface_lent_from_deeper_below_is_a_use(host: HostBuilder, bus: str, carrier: str) -> None:
    path = host.directory(f"/sys/devices/pci0000:00/{carrier}")
    host.link(f"/sys/bus/{bus}/devices/{carrier.rpartition('/')[2]}", path)
    host.directory(f"{path}/net/eth7")
    assert host.uses_of(path) == ()
    host.at(f"{path}/net/eth7").rmdir()
    assert [use.kind for use in host.uses_of(path)] == [HostUseKind.GLOBAL_ADDRESS]


@pytest.mark.parametrize(
    ("driver", "tag", "uses"),
    [
        ("9pnet_virtio", "root", [HostUse(HostUseKind.MOUNT, "(shared directory root)")]),
        ("virtiofs", None, [HostUse(HostUseKind.MOUNT, "(shared directory)")]),
        ("virtio_rng", None, []),
        (None, "root", []),
    ],
)
def test_a_directory_shared_by_an_outer_host_is_in_use_while_its_driver_has_it(
    host: HostBuilder, driver: str | None, tag: str | None, uses: list[HostUse]
) -> None:
    path = host.function("0000:00:02.0", "virtio-pci")
    device = host.directory(f"{path}/virtio3")
    if driver is not None:
        host.link(f"{device}/driver", host.directory(f"/sys/bus/virtio/drivers/{driver}"))
    if tag is not None:
        host.write(f"{device}/mount_tag", f"{tag}\0")
    assert list(host.uses_of(path)) == uses


def test_a_vfio_device_that_does_not_say_is_unknown(host: HostBuilder) -> None:
    host.function("0000:00:02.0", "vfio-pci")
    assert [kind for kind, _ in host.uses().unknown] == ["pci"]


def test_no_pci_bus_in_sight_is_unknown(host: HostBuilder) -> None:
    host.at("/sys/bus/pci/devices").rmdir()
    host.at("/sys/bus/pci").rmdir()
    host.at("/sys/bus").rmdir()
    assert [kind for kind, _ in host.uses().unknown] == ["pci"]


# --- drivers -----------------------------------------------------------------------------------------

ADDRESS = PciAddress.parse("0000:00:02.0")


def state_of(host: HostBuilder) -> DriverState:
    return driver_state(host.tree, ADDRESS, Overrides(host.tree).of)


def test_the_driver_and_its_override(host: HostBuilder) -> None:
    host.function("0000:00:02.0", "vfio-pci", driver_override="vfio-pci")
    assert state_of(host) == DriverState(present=True, driver="vfio-pci", override="vfio-pci")


def test_no_driver_and_no_override(host: HostBuilder) -> None:
    host.function("0000:00:02.0", driver_override="(null)")
    assert state_of(host) == DriverState(present=True)


def test_a_function_that_is_gone(host: HostBuilder) -> None:
    assert state_of(host) == DriverState(present=False)


def test_an_unreadable_override_counts_as_one(host: HostBuilder) -> None:
    path = host.function("0000:00:02.0", "e1000e", driver_override="")
    host.unreadable(f"{path}/driver_override")
    assert state_of(host).override == "unreadable"
