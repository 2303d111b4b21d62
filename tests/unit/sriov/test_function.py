"""What the root helper checks and writes, in a sysfs of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hostdevd.sriov.function import PhysicalFunction, Refused, set_count
from hostdevd.sriov.messages import Outcome

PF = "0000:0b:00.0"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A physical function with none of four, and a function that cannot have any."""
    device(tmp_path, PF, sriov_totalvfs="4\n", sriov_numvfs="0\n")
    device(tmp_path, "0000:01:00.0")
    return tmp_path


def device(sysfs: Path, address: str, **files: str) -> Path:
    real = sysfs / "devices/pci0000:00" / address
    real.mkdir(parents=True)
    entry = sysfs / "bus/pci/devices" / address
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.symlink_to(os.path.relpath(real, entry.parent))
    for name, text in files.items():
        (real / name).write_text(text)
    return real


def outcome_of(act: Callable[[], object]) -> Outcome:
    with pytest.raises(Refused) as caught:
        act()
    return caught.value.outcome


def opened(address: str, sysfs: Path) -> None:
    with PhysicalFunction.at(address, sysfs):
        pass


def test_a_physical_function_is_found(sysfs: Path) -> None:
    with PhysicalFunction.at(PF, sysfs) as function:
        assert (function.total(), function.count()) == (4, 0)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "0000:0B:00.0",
        "0000:0b:00.0/",
        "0000:0b:00.0\n",
        "0000:0b:00.8",
        "0000:0b:20.0",
        "../../devices/pci0000:00/0000:0b:00.0",
        "/sys/bus/pci/devices/0000:0b:00.0",
        "0000:0b:00.0\x00",
        "\u0660\u0660\u0660\u0660:0b:00.0",  # digits all the same, elsewhere
        "0000:0c:00.0",
        "0000:01:00.0",
    ],
)
def test_what_is_no_physical_function_is_refused(sysfs: Path, address: str) -> None:
    assert outcome_of(lambda: opened(address, sysfs)) is Outcome.INVALID


def test_an_entry_that_leads_elsewhere_is_refused(sysfs: Path) -> None:
    outside = sysfs.parent / f"{sysfs.name}-outside" / "0000:0c:00.0"
    outside.mkdir(parents=True)
    (outside / "sriov_totalvfs").write_text("4")
    (sysfs / "bus/pci/devices/0000:0c:00.0").symlink_to(outside)
    assert outcome_of(lambda: opened("0000:0c:00.0", sysfs)) is Outcome.INVALID
    (sysfs / "bus/pci/devices/0000:0d:00.0").symlink_to(sysfs / "devices/pci0000:00" / PF)
    assert outcome_of(lambda: opened("0000:0d:00.0", sysfs)) is Outcome.INVALID


def test_a_link_in_the_place_of_an_attribute_is_not_followed(sysfs: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("7")
    real = device(sysfs, "0000:0c:00.0", sriov_totalvfs="4")
    (real / "sriov_numvfs").symlink_to(target)
    with PhysicalFunction.at("0000:0c:00.0", sysfs) as function, pytest.raises(OSError, match="symbolic link"):
        function.write(1)
    assert target.read_text() == "7"


def test_those_bound_to_vfio_are_found(sysfs: Path) -> None:
    for number, driver in ((1, "vfio-pci"), (2, "nvme"), (3, "mlx5_vfio_pci"), (4, None)):
        real = device(sysfs, f"0000:0b:00.{number}")
        (sysfs / "bus/pci/devices" / PF / f"virtfn{number - 1}").symlink_to(f"../0000:0b:00.{number}")
        if driver:
            (real / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    with PhysicalFunction.at(PF, sysfs) as function:
        assert function.bound_to_vfio() == ["0000:0b:00.1", "0000:0b:00.3"]
        assert outcome_of(lambda: set_count(function, 1)) is Outcome.IN_USE
        assert function.count() == 0


class Kernel(PhysicalFunction):
    """Takes numbers as the kernel does: from one to another by way of 0."""

    def __init__(self, now: int, refuses: tuple[int, ...] = (), gives: int | None = None) -> None:
        super().__init__(-1, PF)
        self.now = now
        self.refuses = refuses
        self.gives = gives
        self.written: list[int] = []
        self.bound: list[str] = []

    def total(self) -> int:
        return 4

    def count(self) -> int:
        return self.now

    def bound_to_vfio(self) -> list[str]:
        return self.bound

    def write(self, count: int) -> None:
        self.written.append(count)
        if count in self.refuses or (self.now and count):
            raise OSError(16, "Device or resource busy")
        self.now = count if self.gives is None else self.gives


@pytest.mark.parametrize(
    ("now", "count", "written"), [(0, 4, [4]), (4, 0, [0]), (2, 4, [0, 4]), (4, 4, []), (0, 0, [])]
)
def test_from_one_number_to_another_goes_by_way_of_none(now: int, count: int, written: list[int]) -> None:
    kernel = Kernel(now)
    answer = set_count(kernel, count)
    assert (answer.outcome, answer.count, kernel.written) == (Outcome.DONE, count, written)


@pytest.mark.parametrize("count", [-1, 5, 1 << 40])
def test_a_number_that_it_cannot_have_is_not_tried(count: int) -> None:
    kernel = Kernel(2)
    assert outcome_of(lambda: set_count(kernel, count)) is Outcome.INVALID
    assert kernel.written == []


def test_one_that_is_bound_to_vfio_stops_a_change_and_nothing_else() -> None:
    kernel = Kernel(2)
    kernel.bound = ["0000:0b:00.1"]
    assert set_count(kernel, 2).outcome is Outcome.DONE
    assert outcome_of(lambda: set_count(kernel, 0)) is Outcome.IN_USE
    assert kernel.written == []


def test_a_second_write_that_fails_brings_back_what_was_there() -> None:
    kernel = Kernel(2, refuses=(4,))
    answer = set_count(kernel, 4)
    assert (answer.outcome, answer.count, kernel.written) == (Outcome.FAILED, 2, [0, 4, 2])
    assert "busy" in answer.message


def test_what_does_not_come_back_is_told() -> None:
    kernel = Kernel(2, refuses=(2, 4))
    answer = set_count(kernel, 4)
    assert (answer.outcome, answer.count) == (Outcome.FAILED, 0)
    assert "do not come back" in answer.message


def test_a_kernel_that_will_not_remove_them_is_believed() -> None:
    answer = set_count(Kernel(2, refuses=(0,)), 4)
    assert (answer.outcome, answer.count) == (Outcome.FAILED, 2)


def test_a_kernel_that_takes_a_number_and_has_another_is_told_of() -> None:
    answer = set_count(Kernel(0, gives=3), 4)
    assert (answer.outcome, answer.count) == (Outcome.FAILED, 3)
