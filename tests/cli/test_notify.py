"""The service as systemd starts it: a process with `$NOTIFY_SOCKET` and a watchdog."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_S = 30.0


class Manager:
    """Hears what the service tells, in order."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(LIMIT_S)
        self.told = list[str]()

    def until(self, wanted: str) -> None:
        """Wait for a message that begins so, not counting those that were waited for already."""
        while True:
            told = self.socket.recv(4096).decode()
            self.told.append(told)
            if told.startswith(wanted):
                return

    def is_silent_for(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.told.append(self.socket.recv(4096).decode())
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(LIMIT_S)
        return False


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].startswith("T")


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def test_a_life_as_systemd_sees_it(tmp_path: Path, manager: Manager) -> None:
    listening, policy = tmp_path / "h.sock", tmp_path / "policy.toml"
    policy.touch()
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "800000"}
    command = [
        sys.executable, "-m", "hostdevd", "serve", "--simulate", "--listen", f"unix:{listening}",
        "--state-dir", str(tmp_path / "state"), "--policy", str(policy),
    ]  # fmt: skip
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            manager.until("READY=1")
            assert connects(listening)
            manager.until("STATUS=")
            while "libvirt connected" not in manager.told[-1]:
                manager.until("STATUS=")
            assert manager.told[-1].removeprefix("STATUS=")[0].isdigit()
            manager.until("WATCHDOG=1")
            # A loop that stands still is not fed, and is again when it goes on.
            process.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + LIMIT_S
            while not is_stopped(process):
                assert time.monotonic() < deadline
            manager.socket.settimeout(0)
            try:
                while True:
                    manager.socket.recv(4096)
            except BlockingIOError:
                manager.socket.settimeout(LIMIT_S)
            assert manager.is_silent_for(0.8)
            process.send_signal(signal.SIGCONT)
            manager.until("WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            manager.until("RELOADING=1\nMONOTONIC_USEC=")
            manager.until("READY=1")
            process.terminate()
            manager.until("STOPPING=1")
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
