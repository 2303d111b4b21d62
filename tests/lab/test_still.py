"""What a real kernel tells of: after any change, a read of the host's uses is never taken for that of now."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import LabHost

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


def _elsewhere(directory: Path, _: str) -> Callable[[], object]:
    """A file system that only another mount namespace has."""
    image = directory / "image"
    _run("truncate", "-s", "4M", str(image))
    _run("mkfs.ext4", "-q", str(image))
    command = ["unshare", "-m", "sh", "-c", f"mount -o loop {image} /mnt && echo there && sleep 60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"

    def undo() -> None:
        process.kill()
        process.wait()

    return undo


def _address(_: Path, __: str) -> Callable[[], object]:
    _run("ip", "address", "add", "192.0.2.77/32", "dev", "lo")
    return lambda: _run("ip", "address", "delete", "192.0.2.77/32", "dev", "lo")


def _driver(_: Path, address: str) -> Callable[[], object]:
    _write(f"/sys/bus/pci/devices/{address}/driver/unbind", address)
    return lambda: _write("/sys/bus/pci/drivers_probe", address)


CHANGES = {"a mount": _mount, "a mount elsewhere": _elsewhere, "an address": _address, "a driver": _driver}


@pytest.mark.parametrize("change", CHANGES)
async def test_no_change_is_missed(lab: LabHost, tmp_path: Path, change: str) -> None:
    address = lab.roles["nic_single"].removeprefix("pci_").replace("_", ":", 2).replace("_", ".")
    host = RunningHost()
    await host.start(lambda _: None)
    try:
        until = time.monotonic() + WAIT_S
        while not await host.is_still((uses := await host.uses()).as_of):
            assert time.monotonic() < until, "the host never rests"
            await asyncio.sleep(0.2)
        undo = CHANGES[change](tmp_path, address)
        try:
            assert not await host.is_still(uses.as_of)
        finally:
            undo()
    finally:
        await host.close()
