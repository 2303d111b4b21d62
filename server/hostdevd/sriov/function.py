"""A physical function in sysfs: found without leaving it, and its number of virtual functions written.

Files are opened by names that are fixed here, without following links, below a directory that was found to be the PCI
function's own. What a caller sends is compared with patterns and numbers, and never becomes part of another path.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostdevd.core.drivers import is_vfio_driver
from hostdevd.sriov.messages import Answer, Outcome

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", re.ASCII)
_FUNCTION_LINK = re.compile(r"virtfn[0-9]{1,5}", re.ASCII)


class Refused(Exception):
    """The request is not carried out."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class PhysicalFunction:
    """One, by the descriptor of its directory; `sysfs` is `/sys` where no test has made another."""

    def __init__(self, directory: int, name: str) -> None:
        self._directory = directory
        self.name = name

    @classmethod
    @contextmanager
    def at(cls, address: str, sysfs: Path = Path("/sys")) -> Iterator[PhysicalFunction]:
        """The function at an address; `Refused` when there is none, or it cannot have virtual ones."""
        if _ADDRESS.fullmatch(address) is None:
            raise Refused(Outcome.INVALID, f"not a PCI address: {address[:64]!r}")
        link = sysfs / "bus/pci/devices" / address
        try:
            real = Path(os.path.realpath(link, strict=True))
            device = real.stat().st_dev
        except OSError as error:
            raise Refused(Outcome.INVALID, f"there is no PCI function {address}: {error.strerror}") from None
        top = Path(os.path.realpath(sysfs))
        # The bus's own entry leads to a directory of the same name below /sys/devices, and nowhere else.
        if real.name != address or top / "devices" not in real.parents or device != top.stat().st_dev:
            raise Refused(Outcome.INVALID, f"{link} leads out of the devices of sysfs")
        descriptor = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            function = cls(descriptor, address)
            function.total()
            yield function
        finally:
            os.close(descriptor)

    def total(self) -> int:
        """How many virtual functions it can have; `Refused` when it cannot have any."""
        try:
            return self._number("sriov_totalvfs")
        except FileNotFoundError:
            raise Refused(Outcome.INVALID, f"{self.name} cannot have virtual functions (it has no SR-IOV)") from None

    def count(self) -> int:
        """How many it has."""
        return self._number("sriov_numvfs")

    def bound_to_vfio(self) -> list[str]:
        """Those of its virtual functions that are bound to a VFIO driver, by address."""
        links = sorted(name for name in os.listdir(self._directory) if _FUNCTION_LINK.fullmatch(name))  # noqa: PTH208  by descriptor
        found = []
        for link in links:
            try:
                driver = os.readlink(f"{link}/driver", dir_fd=self._directory)
                address = os.readlink(link, dir_fd=self._directory)
            except FileNotFoundError:
                continue  # it has no driver
            if is_vfio_driver(driver.rpartition("/")[2]):
                found.append(address.rpartition("/")[2])
        return found

    def write(self, count: int) -> None:
        """Tell the kernel; returns when the driver is done, however long it takes. OSError when it refuses."""
        descriptor = self._open("sriov_numvfs", os.O_WRONLY)
        try:
            os.write(descriptor, str(count).encode())
        finally:
            os.close(descriptor)

    def _number(self, name: str) -> int:
        descriptor = self._open(name, os.O_RDONLY)
        try:
            text = os.read(descriptor, 64).decode("ascii", "replace").strip()
        finally:
            os.close(descriptor)
        if not text.isdecimal():
            raise Refused(Outcome.FAILED, f"{name} of {self.name} is no number: {text!r}")
        return int(text)

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused(Outcome.INVALID, f"{name} of {self.name} is no file")
        return descriptor


def set_count(function: PhysicalFunction, count: int) -> Answer:
    """Have it have so many. From one number to another the kernel wants 0 in between.

    When the second write fails, the number from before is asked for again: the answer tells what there is then.
    """
    total, before = function.total(), function.count()
    if not 0 <= count <= total:
        raise Refused(Outcome.INVALID, f"{function.name} can have from 0 to {total} virtual functions, not {count}")
    if count == before:
        return Answer(Outcome.DONE, count=before)
    bound = function.bound_to_vfio()
    if bound:
        # To remove one that a guest has open would block, with locks of the kernel's held, until the guest lets go.
        raise Refused(Outcome.IN_USE, f"virtual functions of {function.name} are bound to VFIO: {', '.join(bound)}")
    try:
        if before:
            function.write(0)
        if count:
            function.write(count)
    except OSError as error:
        why = f"the kernel refused: {error.strerror}"
        if before and function.count() == 0:
            try:
                function.write(before)
            except OSError as again:
                why += f"; and the {before} from before do not come back: {again.strerror}"
        return Answer(Outcome.FAILED, why, function.count())
    now = function.count()
    if now != count:
        return Answer(Outcome.FAILED, f"the kernel took {count} and has {now}", now)
    return Answer(Outcome.DONE, count=now)
