"""A hostdevd of a test's own, beside the suite's: it may be killed, and has its own state and socket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from api import Api
from readiness import in_step


def address_in(directory: Path) -> str:
    """Where a service with its state in this directory listens."""
    return f"unix:{directory}/own.sock"


@contextmanager
def serving(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Api]]:
    """One life of it, in step with libvirt; killed at the end when it still runs."""
    address = address_in(directory)
    command = [sys.executable, "-m", "hostdevd", "serve", "--listen", address, "--state-dir", str(directory / "state")]
    log = Path(os.environ.get("LAB_OUTPUT", str(directory))) / "hostdevd-own.log"
    with (
        log.open("a") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("listening on"), log.read_text()
            with grpc.insecure_channel(address) as channel:
                api = Api(channel)
                in_step(api)
                yield process, api
        finally:
            process.kill()
