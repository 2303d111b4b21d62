"""What the profile "systemd" has in place of the fast one's: confined QEMU, polkit, and hostdevd by its own unit.

The unit, the user, the rules of polkit are those that a package installs, at the same places. Only /usr/bin/hostdevd
is not: it starts what lies in the checkout.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHECKOUT = Path("/lab/checkout")
UNIT = "hostdevd.service"
UNIT_LOG = Path("/var/log/lab/hostdevd-unit.log")
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
    "systemd/hostdevd.sysusers": Path("/usr/lib/sysusers.d/hostdevd.conf"),
    "systemd/hostdevd.tmpfiles": Path("/usr/lib/tmpfiles.d/hostdevd.conf"),
    "polkit/50-hostdevd.rules": RULES,
}
_PROGRAM = """#!/bin/sh
# The checkout's own server, where the service's user can read it.
export PYTHONPATH={paths} PYTHONPYCACHEPREFIX=/lab/pycache PYTHONDONTWRITEBYTECODE=1
exec {python} -m hostdevd "$@"
"""


def install(python: str) -> None:
    """Put hostdevd where its package puts it. RuntimeError when the checkout has no virtual environment."""
    site = next(CHECKOUT.glob(".venv/lib/python3*/site-packages"), None)
    if site is None:
        raise RuntimeError("the checkout has no .venv: deploy/setup --libvirt")
    for name, target in _INSTALLED.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / "deploy" / name, target)
    program = Path("/usr/bin/hostdevd")
    paths = ":".join(str(path) for path in (CHECKOUT / "server", CHECKOUT / "clients/python", site))
    program.write_text(_PROGRAM.format(paths=paths, python=python))
    program.chmod(0o755)
    for command in (
        ("systemd-sysusers", "hostdevd.conf"),
        ("systemd-tmpfiles", "--create", "hostdevd.conf"),
    ):
        subprocess.run(command, check=True)
    CONFIG.write_text('listen = ["unix:/run/hostdevd/hostdevd.sock"]\n')
    # polkitd was there before its new rule.
    subprocess.run(["systemctl", "daemon-reload"], check=True)


def start_service() -> None:
    """Start hostdevd; it is ready then."""
    subprocess.run(["systemctl", "start", UNIT], check=True)
