"""Overrides of functions, one of which is locked as by a driver that makes virtual functions."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator

import pytest

from hostdevd.host.drivers import PCI_DEVICES
from hostdevd.host.overrides import LOCKED_S, Overrides
from hostdevd.host.sysfs import HostTree, Unreadable
from unit.host.builder import HostBuilder

LOCKED, OTHER = "0000:00:02.0", "0000:00:03.0"


class Kernel(HostTree):
    """A tree that keeps the reader of one function's override waiting while that is locked."""

    __slots__ = ("free", "waiting")

    def __init__(self, host: HostBuilder) -> None:
        super().__init__(host.root)
        self.free = threading.Event()
        self.waiting = 0

    def value(self, path: str) -> str:
        if path == f"{PCI_DEVICES}/{LOCKED}/driver_override":
            self.waiting += 1
            assert self.free.wait(30)
        return super().value(path)


@pytest.fixture
def kernel(host: HostBuilder) -> Iterator[Kernel]:
    host.function(LOCKED, "mlx5_core", driver_override="(null)")
    host.function(OTHER, "e1000e", driver_override="(null)")
    kernel = Kernel(host)
    kernel.free.set()
    yield kernel
    kernel.free.set()


def write(host: HostBuilder, address: str, text: str) -> None:
    host.write(f"{host.tree.link(f'{PCI_DEVICES}/{address}')}/driver_override", text)


def test_an_override_is_remembered_and_read_again_when_asked(host: HostBuilder, kernel: Kernel) -> None:
    overrides = Overrides(kernel)
    assert overrides.look() == ((LOCKED, ""), (OTHER, ""))
    write(host, OTHER, "vfio-pci\n")
    assert overrides.of(OTHER) == ""
    assert overrides.look() == ((LOCKED, ""), (OTHER, "vfio-pci"))
    assert overrides.of(OTHER) == "vfio-pci"


def test_a_locked_function_keeps_what_it_had_and_nobody_waits_for_it(host: HostBuilder, kernel: Kernel) -> None:
    overrides = Overrides(kernel)
    overrides.look()
    kernel.free.clear()
    for address in (LOCKED, OTHER):
        write(host, address, "vfio-pci\n")
    began = time.monotonic()
    overrides.look()
    assert time.monotonic() - began < 20 * LOCKED_S
    assert kernel.waiting == 2
    assert overrides.of(OTHER) == "vfio-pci"  # though it comes behind the locked one
    assert overrides.look() == ((LOCKED, ""), (OTHER, "vfio-pci"))
    assert kernel.waiting == 2  # the locked one is not asked again
    assert overrides.of(LOCKED) == ""
    kernel.free.set()
    until = time.monotonic() + 10
    while overrides.of(LOCKED) != "vfio-pci":  # the reader that was left is done, and its answer counts
        assert time.monotonic() < until
        time.sleep(0.01)
    write(host, LOCKED, "\n")
    assert overrides.look() == ((LOCKED, ""), (OTHER, "vfio-pci"))


def test_of_a_function_that_was_locked_from_the_first_nothing_is_known(kernel: Kernel) -> None:
    overrides = Overrides(kernel)
    kernel.free.clear()
    with pytest.raises(Unreadable, match="locked"):
        overrides.of(LOCKED)
    kernel.free.set()
    until = time.monotonic() + 10
    while True:
        try:
            assert overrides.of(LOCKED) == ""
        except Unreadable:
            assert time.monotonic() < until
        else:
            break


def test_another_device_in_the_same_place_has_an_override_of_its_own(host: HostBuilder, kernel: Kernel) -> None:
    overrides = Overrides(kernel)
    write(host, OTHER, "vfio-pci\n")
    overrides.look()
    path = host.at(str(host.tree.link(f"{PCI_DEVICES}/{OTHER}")))
    shutil.move(path, path.with_name("before"))  # else its inode might be given to the next
    host.at(f"{PCI_DEVICES}/{OTHER}").unlink()
    assert overrides.look() == ((LOCKED, ""),)
    host.function(OTHER, "e1000e", driver_override="(null)")
    assert overrides.of(OTHER) == ""
