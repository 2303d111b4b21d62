"""The lab's kernel and busybox: the distribution's packages, downloaded and unpacked, never installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .prerequisites import apt, program


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: ``base/lib/modules/release`` holds its modules, with modules.dep."""

    release: str
    image: Path
    base: Path
    busybox: Path

    @property
    def modules(self) -> Path:
        """The release's module directory."""
        return self.base / "lib" / "modules" / self.release


def obtain(cache: Path) -> Kernel:
    """The kernel of this distribution from the cache, or downloaded into it."""
    record = cache / "kernel.json"
    if record.exists():
        kernel = _from_record(json.loads(record.read_text()), cache)
        if kernel.image.exists() and kernel.modules.exists() and kernel.busybox.exists():
            return kernel
    print("lab: downloading the kernel and busybox", flush=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=cache) as work:
        tree = Path(work) / "tree"
        for package in [*_kernel_packages(), "busybox-static"]:
            unpack(package, Path(work), tree)
        fields = _prepare(tree)
        target = cache / f"kernel-{fields['release']}"
        shutil.rmtree(target, ignore_errors=True)
        tree.rename(target)
    fields["tree"] = target.name
    record.write_text(json.dumps(fields))
    return _from_record(fields, cache)


def _from_record(fields: dict[str, str], cache: Path) -> Kernel:
    tree = cache / fields["tree"]
    return Kernel(fields["release"], tree / fields["image"], tree, tree / fields["busybox"])


def _kernel_packages() -> list[str]:
    if shutil.which("apt-get") is None:
        raise LabError(
            "no apt-get here: the lab takes its kernel from Debian or Ubuntu packages",
            hint="run it in a Debian container",
        )
    identity = Path("/etc/os-release").read_text()
    if re.search(r"^ID(_LIKE)?=.*ubuntu", identity, re.MULTILINE):
        image = _dependency("linux-image-generic", r"linux-image-\d\S+-generic")
        release = image.removeprefix("linux-image-")
        return [image, f"linux-modules-{release}", f"linux-modules-extra-{release}"]
    return [_dependency("linux-image-amd64", r"linux-image-\d\S+-amd64")]


def _dependency(meta: str, pattern: str) -> str:
    done = subprocess.run(["apt-cache", "depends", meta], capture_output=True, text=True, check=False)
    found = re.search(rf"Depends: ({pattern})", done.stdout)
    if found is None:
        raise LabError(f"apt knows no {meta}", hint="apt-get update")
    return found.group(1)


def unpack(package: str, work: Path, tree: Path) -> None:
    """Download a package into ``work`` and unpack it over ``tree``; nothing of it runs."""
    # As root apt wants to download as its own user, which may not write here.
    apt("download", "-o", "APT::Sandbox::User=root", package, cwd=work)
    archives = list(work.glob("*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(tree)], check=True)
    archives[0].unlink()


def _prepare(tree: Path) -> dict[str, str]:
    """Make modules.dep (a package's own script would) and record where things are."""
    modules = next((p for p in (tree / "lib/modules", tree / "usr/lib/modules") if p.is_dir()), None)
    image = next(tree.glob("boot/vmlinuz-*"), None)
    if modules is None or image is None:
        raise LabError("the kernel package has no modules or no image", hint="please report the distribution")
    if modules.parts[-3] == "usr":
        (tree / "lib").mkdir(exist_ok=True)
        (tree / "lib/modules").symlink_to("../usr/lib/modules")
    release = image.name.removeprefix("vmlinuz-")
    subprocess.run([program("depmod"), "-b", str(tree), release], check=True)
    busybox = next(p for p in (tree / "bin/busybox", tree / "usr/bin/busybox") if p.exists())
    os.chmod(image, 0o644)
    return {"release": release, "image": str(image.relative_to(tree)), "busybox": str(busybox.relative_to(tree))}
