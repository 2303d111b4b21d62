"""What a real kernel tells of: after any change, a read of the host's uses is never taken for that of now."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from hosts import LabHost

from hostdevd.core.model import HostUses
from hostdevd.host.running import RunningHost

WAIT_S = 30.0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123  sysfs wants one plain write
        file.write(text)


def _mount(directory: Path, _: str) -> Callable[[], object]:
    _run("mount", "-t", "tmpfs", "none", str(directory))
    return lambda: _run("umount", str(directory))


def _address(_: Path, __: str) -> Callable[[], object]:
    _run("ip", "address", "add", "192.0.2.77/32", "dev", "lo")
    return lambda: _run("ip", "address", "delete", "192.0.2.77/32", "dev", "lo")


def _driver(_: Path, address: str) -> Callable[[], object]:
    _write(f"/sys/bus/pci/devices/{address}/driver/unbind", address)
    return lambda: _write("/sys/bus/pci/drivers_probe", address)


CHANGES = {"a mount": _mount, "an address": _address, "a driver": _driver}


@contextmanager
def mounted_elsewhere(block: str, directory: Path) -> Iterator[None]:
    """A file system that another mount namespace has, and process 1 has not."""
    command = f"mount {block} {directory} && echo there && exec sleep 60"
    with subprocess.Popen(["unshare", "-m", "sh", "-c", command], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            assert str(directory) not in Path("/proc/1/mountinfo").read_text(encoding="utf-8")
            yield
        finally:
            process.kill()


@asynccontextmanager
async def resting() -> AsyncIterator[tuple[RunningHost, HostUses]]:
    """The host, when nothing happens on it, and its uses as they were read then."""
    host = RunningHost()
    await host.start(lambda _: None)
    try:
        until = time.monotonic() + WAIT_S
        while not await host.is_still((uses := await host.uses()).as_of):
            assert time.monotonic() < until, "the host never rests"
            await asyncio.sleep(0.2)
        yield host, uses
    finally:
        await host.close()


@pytest.mark.parametrize("change", CHANGES)
async def test_no_change_is_missed(lab: LabHost, tmp_path: Path, change: str) -> None:
    address = lab.roles["nic_single"].removeprefix("pci_").replace("_", ":", 2).replace("_", ".")
    async with resting() as (host, uses):
        undo = CHANGES[change](tmp_path, address)
        try:
            assert not await host.is_still(uses.as_of)
        finally:
            undo()


async def test_a_file_system_that_only_a_container_has_mounted_is_seen(lab: LabHost, tmp_path: Path) -> None:
    lun = lab.roles["lun_1"]
    block = next(device for device in lab.api.devices(types=["storage"]) if device.parent == lun).storage.block
    _run("mkfs.ext4", "-q", "-F", block)
    async with resting() as (host, uses):
        with mounted_elsewhere(block, tmp_path):
            assert not await host.is_still(uses.as_of)
