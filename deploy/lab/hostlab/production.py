"""What the profile "systemd" has in place of the fast one's: confined QEMU, polkit, and hostdevd by its own unit.

The unit, the user, the rules of polkit are those that a package installs, at the same places.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

FILES = Path("/lab/service")
UNIT = "hostdevd.service"
RULES = Path("/usr/share/polkit-1/rules.d/50-hostdevd.rules")
CONFIG = Path("/etc/hostdevd/hostdevd.toml")

QEMU_CONF = "# Written by the lab: nothing set, so QEMU runs as its own user, in a mount namespace and a cgroup.\n"
LIBVIRTD_CONF = """# Written by the lab.
auth_unix_ro = "none"
auth_unix_rw = "polkit"
access_drivers = [ "polkit" ]
"""
_INSTALLED = {
    "systemd/hostdevd.service": Path("/usr/lib/systemd/system", UNIT),
    "systemd/hostdevd-sriov.service": Path("/usr/lib/systemd/system/hostdevd-sriov.service"),
    "systemd/hostdevd-sriov.socket": Path("/usr/lib/systemd/system/hostdevd-sriov.socket"),
    "systemd/hostdevd.sysusers": Path("/usr/lib/sysusers.d/hostdevd.conf"),
    "systemd/hostdevd.tmpfiles": Path("/usr/lib/tmpfiles.d/hostdevd.conf"),
    "polkit/50-hostdevd.rules": RULES,
}
# An interpreter with a library beside it looks for it where it was built, which the unit's user may not read; then it
# must not be the distribution's of the same name.
_PROGRAM = """#!/bin/sh
export LD_LIBRARY_PATH=/lab/python/lib
export PYTHONPATH=/lab/service/lib:/lab/site-packages PYTHONDONTWRITEBYTECODE=1
exec /lab/python/bin/{interpreter} -m {module} "$@"
"""
_PROGRAMS = {"hostdevd": "hostdevd", "hostdevd-sriov": "hostdevd.sriov"}


def install() -> None:
    """Put hostdevd where its package puts it; the helper for virtual functions is there, and off, as it is then."""
    for name, target in _INSTALLED.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FILES / name, target)
    for name, module in _PROGRAMS.items():
        program = Path("/usr/bin", name)
        program.write_text(_PROGRAM.format(interpreter=os.environ["LAB_SERVICE_PROGRAM"], module=module))
        program.chmod(0o755)
    _run("systemd-sysusers", "hostdevd.conf")
    _run("systemd-tmpfiles", "--create", "hostdevd.conf")
    CONFIG.write_text('listen = ["unix:/run/hostdevd/hostdevd.sock"]\n')
    _run("systemctl", "daemon-reload")


def start_service() -> None:
    """Start hostdevd; it is ready then. RuntimeError, with what it said, when it does not become so."""
    try:
        _run("systemctl", "start", UNIT)
    except subprocess.CalledProcessError as error:
        log = subprocess.run(
            ["journalctl", "--no-pager", "--output", "cat", "--lines", "20", "--unit", UNIT],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        raise RuntimeError(f"{UNIT} does not start: {log.stdout}") from error


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
