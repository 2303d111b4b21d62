"""Small initial file systems: busybox, an init script, and the modules it loads, in order."""

from __future__ import annotations

import hashlib
import lzma
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .errors import LabError
from .kernel import Kernel
from .prerequisites import program

# What the lab needs before it has its root file system.
HOST_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_PADDING_BYTES = 2 * 2**20
# What a guest needs to show its devices with drivers on.
GUEST_MODULES = (
    "virtio_pci", "virtio_console", "virtio_scsi", "sd_mod", "e1000e", "e1000", "8139cp", "nvme",
    "xhci_pci", "ehci_pci", "uhci_hcd", "usb_storage", "uas", "usbhid", "hid_generic",
)  # fmt: skip


def build(kernel: Kernel, files: dict[str, Path], modules: Iterable[str], target: Path) -> Path:
    """Write ``target`` unless it is there already for the same content.

    ``files`` maps a path in the image to the file outside; ``/init`` must be among them.
    Returns the image's path, which carries the content's hash.
    """
    paths = _modules_in_order(kernel, modules)
    digest = hashlib.sha256(f"{kernel.release} {_PADDING_BYTES}".encode())
    for name, source in sorted(files.items()):
        digest.update(name.encode() + source.read_bytes())
    digest.update("\n".join(paths).encode())
    image = target.with_name(f"{target.name}-{digest.hexdigest()[:16]}.cpio")
    if image.exists():
        return image
    archive = _Cpio()
    for directory in ("bin", "dev", "proc", "sys", "tmp", "run", "modules"):
        archive.directory(directory)
    archive.file("bin/busybox", kernel.busybox.read_bytes(), 0o755)
    archive.symlink("bin/sh", "busybox")
    for name, source in sorted(files.items()):
        archive.file(name.lstrip("/"), source.read_bytes(), 0o755)
    names = []
    for path in paths:
        name = Path(path).name.split(".ko")[0] + ".ko"
        archive.file(f"modules/{name}", _decompressed(Path(path)), 0o644)
        names.append(name)
    archive.file("modules.list", ("\n".join(names) + "\n").encode(), 0o644)
    for old in target.parent.glob(f"{target.name}-*.cpio"):
        old.unlink()
    partial = image.with_suffix(".partial")
    partial.write_bytes(archive.finished())
    partial.rename(image)
    return image


def _modules_in_order(kernel: Kernel, modules: Iterable[str]) -> list[str]:
    """Module files with their dependencies before them; built-in ones fall away."""
    command = [program("modprobe"), "-d", str(kernel.base), "-S", kernel.release, "-C", "/dev/null", "--show-depends"]
    found: dict[str, None] = {}
    for module in modules:
        done = subprocess.run([*command, module], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            if line.startswith("insmod "):
                found[line.split()[1]] = None
        if done.returncode != 0 and module in HOST_MODULES:
            raise LabError(f"kernel {kernel.release} has no module {module}", hint=done.stderr.strip())
    return list(found)


def _decompressed(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run([program("zstd"), "-dcq", str(path)], capture_output=True, check=True).stdout
    return path.read_bytes()


class _Cpio:
    """The kernel's "newc" archive: written here so that no cpio program is needed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def directory(self, name: str) -> None:
        self._add(name, b"", 0o040755)

    def file(self, name: str, content: bytes, mode: int) -> None:
        self._add(name, content, 0o100000 | mode)

    def symlink(self, name: str, to: str) -> None:
        self._add(name, to.encode(), 0o120777)

    def finished(self) -> bytes:
        self._add("TRAILER!!!", b"", 0)
        # QEMU puts the image at the top of low memory, where the firmware's tables grow
        # downwards with the number of devices: zeros at its end are what they may overwrite.
        return b"".join(self._parts) + bytes(_PADDING_BYTES)

    def _add(self, name: str, content: bytes, mode: int) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts.append(_padded(header + raw) + _padded(content))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
