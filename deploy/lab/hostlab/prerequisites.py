"""What the outer machine must have: installed where apt is, said clearly elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .errors import LabError

# Program or file that proves the package is there -> Debian and Ubuntu package.
_NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "udevadm": "udev",
    "/lib/systemd/systemd-udevd": "udev",
    "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so": "libvirt-daemon-driver-qemu",
    "modprobe": "kmod",
    "lspci": "pciutils",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
    "mkswap": "util-linux",
}
_NEEDED_BY = {
    "systemd": {
        "/lib/systemd/systemd": "systemd",
        "dbus-daemon": "dbus",
        "pkcheck": "polkitd",
        "/lib/systemd/system/libvirtd.socket": "libvirt-daemon-system",
    },
}
"""The same, for one profile."""
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_MIN_DISK_MIB = 1500


def program(name: str) -> str:
    """Full path of a system program, also for a user whose PATH lacks sbin."""
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        raise LabError(f"{name} is missing", hint=f"install {_NEEDED.get(name, name)}")
    return found


def apt(*arguments: str, cwd: Path | None = None) -> None:
    """Run apt-get quietly; its last lines go into the error."""
    command = ["apt-get", "-q", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = " / ".join((done.stderr or done.stdout).strip().splitlines()[-2:])
        raise LabError(f"apt-get {' '.join(arguments)} failed: {tail}", hint="try it by hand")


def ensure(*, memory_mib: int, cache: Path, profile: str = "fast") -> None:
    """Install what is missing, and check memory and disk space. Raises LabError."""
    if os.uname().machine != "x86_64":
        raise LabError("the lab needs an x86_64 machine (its kernel and guests are amd64)")
    needed = _NEEDED | _NEEDED_BY.get(profile, {})
    missing = sorted({package for proof, package in needed.items() if not _present(proof)})
    if missing:
        _install(missing)
    _check_memory(memory_mib)
    free_mib = shutil.disk_usage(cache).free // 2**20
    if free_mib < _MIN_DISK_MIB:
        raise LabError(
            f"{cache}: {free_mib} MiB free, the lab needs {_MIN_DISK_MIB}", hint="set XDG_CACHE_HOME to a larger disk"
        )


def _present(proof: str) -> bool:
    if proof.startswith("/"):
        return Path(proof).exists()
    return shutil.which(proof) is not None or shutil.which(proof, path=_SYSTEM_PATH) is not None


def _install(packages: list[str]) -> None:
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise LabError(f"missing here (Debian's names): {names}", hint="install them with this distribution's tool")
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise LabError(f"missing: {names}", hint=f"as root: apt-get install {names}")
        command = ["sudo", *command]
    print(f"lab: installing {names}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # /dev/null on stdin: dpkg must not ask; sudo asks on the terminal itself.
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = done.stderr.strip().splitlines()[-1:] or ["?"]
        raise LabError(f"apt-get install failed: {tail[0]}", hint=f"apt-get update && apt-get install {names}")


def _check_memory(memory_mib: int) -> None:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) // 1024
            # Guests touch about half of the lab's memory; QEMU takes pages as they are touched.
            if available < memory_mib // 2 + 512:
                raise LabError(
                    f"{available} MiB of memory available, the lab needs about {memory_mib // 2 + 512}",
                    hint="set machine.memory_mib lower in a topology of your own",
                )
