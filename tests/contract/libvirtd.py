"""libvirtd killed and started again in the lab, so that nobody meets a half of it."""

from __future__ import annotations

import subprocess

from api import Api, eventually
from hosts import BY_UNIT
from readiness import in_step, noticed_that_libvirt_is_gone

_SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")


def kill_libvirtd(api: Api | None = None) -> None:
    """Kill it with -9; it is gone then, and the service has noticed."""
    if BY_UNIT:
        # Else systemd would have it back before anybody noticed.
        subprocess.run(["systemctl", "mask", "--runtime", "--quiet", "libvirtd.service"], check=True)
    subprocess.run(["pkill", "-9", "-x", "libvirtd"], check=True)
    eventually(lambda: subprocess.run(["pgrep", "-x", "libvirtd"], check=False, capture_output=True).returncode, bool)
    if BY_UNIT:
        subprocess.run(["systemctl", "stop", *_SOCKETS, "libvirtd.service"], check=True)
    if api is not None:
        noticed_that_libvirt_is_gone(api)


def start_libvirtd() -> None:
    """Start it; it takes connections then."""
    if BY_UNIT:
        subprocess.run(["systemctl", "unmask", "--runtime", "--quiet", "libvirtd.service"], check=True)
        subprocess.run(["systemctl", "reset-failed", *_SOCKETS, "libvirtd.service"], check=False)
        subprocess.run(["systemctl", "start", *_SOCKETS, "libvirtd.service"], check=True)
        return
    subprocess.run(["libvirtd", "--daemon"], check=True)


def restart_libvirtd(api: Api) -> None:
    """Kill it, start it, and wait until the service is in step with the new one."""
    kill_libvirtd(api)
    start_libvirtd()
    in_step(api)
