"""The servers of the benchmark: a private libvirtd with a host of any size, and hostdevd on it, each a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.nodefile import node_file
from rpc.conftest import Daemon

ROOT = Path(__file__).resolve().parents[2]
_WAIT_S = 120.0


@contextmanager
def libvirtd(directory: Path) -> Iterator[Daemon]:
    """A session libvirtd whose test driver serves any node file that it may read."""
    program = shutil.which("libvirtd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise SystemExit("bench: libvirtd is needed: deploy/setup --libvirt --dev")
    directory.chmod(0o755)
    for name in ("run", "config", "cache", "data"):
        (directory / name).mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(directory / name, "nobody")
    daemon = Daemon(program, directory)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.kill()


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory with a path short enough for a socket's, which another user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="hb"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def host_file(directory: Path, devices: int, domains: int) -> Path:
    """A node file of that size."""
    path = node_file(directory / f"host-{devices}-{domains}.xml", devices, domains)
    path.chmod(0o644)
    return path


@dataclass(frozen=True, slots=True)
class Service:
    """A running hostdevd: its gRPC address, its process, and where its metrics are."""

    address: str
    pid: int
    metrics: str
    log: Path

    def libvirt_calls(self) -> dict[str, int]:
        """Calls into libvirt so far, by function."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        start = 'hostdevd_libvirt_calls_total{call="'
        found = (line.removeprefix(start).rpartition('"} ') for line in lines if line.startswith(start))
        return {name: int(float(count)) for name, _, count in found}

    def memory_kib(self) -> int:
        """Resident memory of the process that is its own: what is mapped from files does not count."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        raise RuntimeError("no RssAnon")


@contextmanager
def hostdevd(directory: Path, *arguments: str, name: str = "service") -> Iterator[Service]:
    """hostdevd with these arguments, answering."""
    place = directory / name
    place.mkdir()
    socket = f"unix:{place}/s"
    command = [sys.executable, str(ROOT / "tests/bench/launch.py"), "serve", "--listen", socket, "--state-dir"]
    command += [str(place / "state"), "--metrics", "127.0.0.1:0", *arguments]
    log = place / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        if process.stdout is None or not process.stdout.readline().startswith("listening on"):
            raise RuntimeError(log.read_text())
        yield Service(socket, process.pid, f"127.0.0.1:{_metrics_port(log)}", log)
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def _metrics_port(log: Path) -> int:
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        for line in log.read_text().splitlines():
            if "serving metrics" in line:
                return int(line.partition('"port": ')[2].partition(",")[0].rstrip("}"))
        time.sleep(0.01)
    raise RuntimeError(log.read_text())
