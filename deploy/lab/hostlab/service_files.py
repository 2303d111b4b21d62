"""hostdevd as it is installed in the profile "systemd": gathered and compiled outside, where that takes no time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .errors import LabError

_TAKEN = {
    "server/hostdevd": "lib/hostdevd",
    "clients/python/hostdev": "lib/hostdev",
    "deploy/systemd": "systemd",
    "deploy/polkit": "polkit",
}


def prepare(checkout: Path, target: Path) -> dict[str, str]:
    """Copy what a package has of hostdevd; variables for the lab's init. LabError without a virtual environment."""
    python = checkout / ".venv/bin/python"
    packages = next(checkout.glob(".venv/lib/python3*/site-packages"), None)
    if not python.exists() or packages is None:
        raise LabError(f"{python} is missing", hint="make the virtual environment: deploy/setup --libvirt")
    for source, place in _TAKEN.items():
        shutil.copytree(checkout / source, target / place, ignore=shutil.ignore_patterns("__pycache__"))
    # By content and not by date: the files are copied once more.
    compiling = [str(python), "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(target / "lib")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPYCACHEPREFIX"}
    subprocess.run(compiling, check=True, env=environment)
    interpreter = python.resolve()
    return {
        "LAB_SERVICE_PYTHON": str(interpreter.parents[1]),
        "LAB_SERVICE_PROGRAM": interpreter.name,
        "LAB_SERVICE_PACKAGES": str(packages.resolve()),
    }
