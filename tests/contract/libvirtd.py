"""libvirtd killed and started again in the lab, so that nobody meets a half of it."""

from __future__ import annotations

import subprocess

from api import Api, eventually
from readiness import in_step, noticed_that_libvirt_is_gone


def kill_libvirtd(api: Api | None = None) -> None:
    """Kill it with -9; it is gone then, and the service has noticed."""
    subprocess.run(["pkill", "-9", "-x", "libvirtd"], check=True)
    eventually(lambda: subprocess.run(["pgrep", "-x", "libvirtd"], check=False, capture_output=True).returncode, bool)
    if api is not None:
        noticed_that_libvirt_is_gone(api)


def start_libvirtd() -> None:
    """Start it; it takes connections then."""
    subprocess.run(["libvirtd", "--daemon"], check=True)


def restart_libvirtd(api: Api) -> None:
    """Kill it, start it, and wait until the service is in step with the new one."""
    kill_libvirtd(api)
    start_libvirtd()
    in_step(api)
