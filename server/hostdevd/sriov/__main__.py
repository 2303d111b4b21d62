"""`hostdevd-sriov`: started by systemd for a connection, as root; ends when nobody has come for a while."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys

from hostdevd.sriov.service import Service, StartError, allowed_uids, inherited


def main() -> int:
    """Run it; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        prog="hostdevd-sriov",
        description="Sets the number of a device's SR-IOV virtual functions for hostdevd. Socket-activated: "
        "systemctl enable --now hostdevd-sriov.socket",
    )
    parser.add_argument("--user", default="hostdevd", help="who may ask beside root (default: hostdevd)")
    parser.add_argument(
        "--idle", type=float, default=60.0, metavar="SECONDS", help="end when nobody has come for so long (default: 60)"
    )
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    stop, woken = socket.socketpair()
    woken.settimeout(0)  # what is written in a signal handler must not block
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # the byte that it writes is what counts
    try:
        listener = inherited(os.environ, os.getpid())
        Service(listener, allowed_uids(arguments.user)).serve(arguments.idle, stop.fileno())
    except StartError as error:
        print(f"hostdevd-sriov: {error}", file=sys.stderr)  # noqa: T201  one clear line
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
