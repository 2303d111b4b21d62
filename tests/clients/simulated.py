"""The clients of other languages run against the service as a process, with the built-in simulated host."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Simulated:
    """A service with a state directory of its own. `unix` is `unix:/path`, `tcp` is `127.0.0.1:port`."""

    unix: str
    tcp: str
    process: subprocess.Popen[str]

    @property
    def addresses(self) -> tuple[str, str]:
        return self.unix, self.tcp


@contextmanager
def simulating() -> Iterator[Simulated]:
    """Runs until the block ends."""
    # Not under pytest's directory: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hostdevd-") as directory:
        listen = ("--listen", f"unix:{directory}/h.sock", "--listen", "127.0.0.1:0")
        command = [
            sys.executable,
            "-m",
            "hostdevd",
            "serve",
            "--simulate",
            *listen,
            "--state-dir",
            f"{directory}/state",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                told = [process.stdout.readline().strip().removeprefix("listening on ") for _ in range(2)]
                assert all(told), f"hostdevd did not start: exit status {process.wait(10)}"
                unix, tcp = sorted(told, key=lambda address: not address.startswith("unix:"))
                yield Simulated(unix, tcp, process)
            finally:
                process.terminate()
