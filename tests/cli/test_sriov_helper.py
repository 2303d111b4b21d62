"""The root helper as systemd starts it: a process of its own, with a socket that it is given."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("hostdevd-sriov")
NONE_HERE = {"device": "ffff:ff:1f.7", "count": 1}
# Like systemd: the socket is descriptor 3, and the variable names the process that it is for.
LAUNCHER = """
import os, sys
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.dup2(int(sys.argv[1]), 3)
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def activated(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    path = directory / "sriov.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        os.set_inheritable(listener.fileno(), True)  # noqa: FBT003  its only form
        command = [sys.executable, "-c", LAUNCHER, str(listener.fileno()), str(PROGRAM), *options]
        with subprocess.Popen(command, close_fds=False, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process, path
            finally:
                process.kill()


def ask(path: Path, request: Any) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, peer.makefile("rb") as answers:
        peer.settimeout(60.0)
        peer.connect(str(path))
        peer.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(answers.readline())


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def test_it_answers_logs_and_ends_when_nobody_comes(tmp_path: Path) -> None:
    with activated(tmp_path, "--user", user(), "--idle", "0.5") as (process, path):
        answer = ask(path, NONE_HERE)
        assert answer["outcome"] == "INVALID"
        assert "no PCI function ffff:ff:1f.7" in answer["message"]
        assert ask(path, {"device": "../../x", "count": 1})["outcome"] == "INVALID"
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "ffff:ff:1f.7" in log


def test_a_stop_ends_it_cleanly(tmp_path: Path) -> None:
    with activated(tmp_path, "--user", user()) as (process, path):
        ask(path, NONE_HERE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_without_a_socket_it_says_who_starts_it() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LISTEN_")}
    done = subprocess.run([PROGRAM], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("hostdevd-sriov: no socket was passed")
    assert done.stderr.count("\n") == 1


def test_it_loads_nothing_but_the_standard_library_and_itself() -> None:
    script = "import sys; before = set(sys.modules); import hostdevd.sriov.__main__; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}
    assert ours == {
        "hostdevd",
        "hostdevd.core",
        "hostdevd.core.drivers",
        "hostdevd.sriov",
        "hostdevd.sriov.__main__",
        "hostdevd.sriov.function",
        "hostdevd.sriov.messages",
        "hostdevd.sriov.service",
    }
