"""Programs that only the lab needs (LVM, mdadm), with their udev rules: downloaded and unpacked, never installed.

Installed on the outer machine they would look for volume groups and arrays on its own disks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .errors import LabError
from .kernel import unpack

_PACKAGES = ("lvm2", "mdadm")
# On a merged root these are links into /usr, which a directory of the same name must not hide.
_MERGED = ("bin", "sbin", "lib", "lib64")


def obtain(cache: Path) -> Path:
    """The tree with what the outer machine lacks of the packages; it is copied over the lab's root."""
    tree = cache / "tools"
    record = tree / "packages.json"
    if record.exists() and set(json.loads(record.read_text())) >= set(_PACKAGES):
        return tree
    packages = _missing()
    print(f"lab: downloading {' '.join(packages) or 'no tools: all are installed'}", flush=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=cache) as work:
        fresh = Path(work) / "tree"
        fresh.mkdir()
        for package in packages:
            unpack(package, Path(work), fresh)
        _merge(fresh)
        shutil.rmtree(fresh / "usr/share", ignore_errors=True)
        (fresh / record.name).write_text(json.dumps([*_PACKAGES, *packages]))
        shutil.rmtree(tree, ignore_errors=True)
        fresh.rename(tree)
    return tree


def _missing() -> list[str]:
    """The packages and all that they depend on, as far as it is not installed here."""
    command = ["apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", *_PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"apt knows no way to {' and '.join(_PACKAGES)}: {done.stderr.strip()}", hint="apt-get update")
    # 'http://…/lvm2_2.03_amd64.deb' lvm2_2.03_amd64.deb SIZE MD5Sum:…
    return [line.split()[1].partition("_")[0] for line in done.stdout.splitlines() if line.startswith("'")]


def _merge(tree: Path) -> None:
    """Move `/sbin/lvm` and its like to where `/sbin` points on this machine."""
    for name in _MERGED:
        if Path("/", name).is_symlink() and (tree / name).is_dir():
            target = tree / os.path.relpath(Path("/", name).resolve(), "/")
            shutil.copytree(tree / name, target, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(tree / name)
