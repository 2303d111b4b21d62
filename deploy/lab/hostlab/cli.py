"""The commands ``run``, ``up`` and ``exec`` of the outer machine."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from .errors import LabError
from .machine import PROGRAM, REPOSITORY, SOCKET_IN_LAB, Machine, Options, booted, cache_dir
from .production import UNIT
from .remote import Remote

# Client's connection preface and an empty SETTINGS frame: any gRPC server answers SETTINGS.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4
TIMEOUT_STATUS = 124
_LAST_WORDS_S = 2.0
"""A machine that died takes its server along; until it is seen to be gone it looks like the server's end."""


def run() -> int:
    """``run [options] -- COMMAND…``: boot, run it inside, power off; its exit status."""
    parser = _parser("run", "boot the lab, run a command inside it, return its exit status")
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="for the command (default 1800)")
    parser.add_argument("--port", type=int, help=f"also forward this local port to {SOCKET_IN_LAB}")
    parser.add_argument("--quiet", action="store_true", help="say nothing of the boot")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    _sigterm_like_ctrl_c()
    started = time.monotonic()
    with booted(_options(options)) as machine:
        if not options.quiet:
            _tell_boot(machine, time.monotonic() - started)
        try:
            status = machine.remote.execute(options.command, timeout_s=options.timeout)
        except TimeoutError:
            print(f"lab: the command did not end in {options.timeout:.0f} s; the lab is stopped", file=sys.stderr)
            status = TIMEOUT_STATUS
        except LabError:
            if not machine.alive():
                print(machine.console_tail(), file=sys.stderr)
            raise
    return status


def up() -> int:
    """``up [options] [-- SERVER…]``: serve hostdevd from the lab until Ctrl-C or SIGTERM."""
    parser = _parser("up", "boot the lab and serve hostdevd from it on a local port")
    parser.add_argument("--port", type=int, default=50051)
    parser.add_argument(
        "--timeout", type=float, default=90.0, metavar="S", help="for the server to answer (default 90)"
    )
    parser.add_argument("command", nargs="*", metavar="SERVER COMMAND")
    options = parser.parse_args()
    server = REPOSITORY / ".venv/bin/hostdevd"
    default = [str(server), "serve", "--listen", f"unix:{SOCKET_IN_LAB}"]
    if options.profile == "systemd":
        default = ["journalctl", "--follow", "--output", "cat", "--unit", UNIT]  # it runs already
    if not options.command and not server.exists():
        raise LabError(f"{server} is missing", hint="make the virtual environment: deploy/setup --libvirt")
    _refuse_taken(options.port)
    _sigterm_like_ctrl_c()
    started = time.monotonic()
    with booted(_options(options)) as machine:
        _tell_boot(machine, time.monotonic() - started)
        ended: list[int] = []

        def serve() -> None:
            with contextlib.suppress(LabError, OSError):
                ended.append(machine.remote.execute(options.command or default))
            ended.append(1)

        threading.Thread(target=serve, daemon=True).start()
        deadline = time.monotonic() + options.timeout
        while not _answers(options.port):
            if ended:
                raise LabError(f"the server ended with status {ended[0]}", hint="its output is above")
            if time.monotonic() > deadline:
                raise LabError(f"the server does not answer after {options.timeout:.0f} s")
            time.sleep(0.5)
        print(
            f"lab is up: hostdevd answers on 127.0.0.1:{options.port}; "
            f"`{PROGRAM / 'exec'} -- virsh list` looks inside; Ctrl-C stops it",
            flush=True,
        )
        try:
            while machine.alive() and not ended:
                time.sleep(0.3)
        except KeyboardInterrupt:
            print("lab: stopping", flush=True)
            return 0
        time.sleep(_LAST_WORDS_S)
        raise LabError("the server ended" if machine.alive() else "the lab ended")


def execute() -> int:
    """``exec -- COMMAND…``: run a command in the lab that runs now."""
    parser = argparse.ArgumentParser("exec", description="run a command in the running lab")
    parser.add_argument("--timeout", type=float, default=None, metavar="S")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    _sigterm_like_ctrl_c()
    try:
        return Remote.running(cache_dir()).execute(options.command, timeout_s=options.timeout)
    except TimeoutError:
        print(f"lab: the command did not end in {options.timeout:.0f} s", file=sys.stderr)
        return TIMEOUT_STATUS


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(name, description=description)
    parser.add_argument("--topology", type=Path, default=PROGRAM / "topology.toml", metavar="FILE")
    parser.add_argument("--state", type=Path, metavar="DIR", help="keep libvirt's and hostdevd's state here")
    parser.add_argument("--output", type=Path, metavar="DIR", help="$LAB_OUTPUT inside; dmesg and logs come there too")
    parser.add_argument("--boot-only-host", action="store_true", help="start no guests")
    parser.add_argument("--profile", choices=("fast", "systemd"), default="fast", help="see README.md (default fast)")
    parser.add_argument("--iommu", choices=("on", "off"), default="on")
    parser.add_argument("--no-wait", action="store_true", help="fail when another lab is running")
    parser.add_argument("--verbose", action="store_true", help="show the lab's console")
    return parser


def _options(parsed: argparse.Namespace) -> Options:
    return Options(
        topology=parsed.topology,
        state=parsed.state,
        output=parsed.output,
        port=parsed.port,
        boot_only_host=parsed.boot_only_host,
        iommu=parsed.iommu == "on",
        verbose=parsed.verbose,
        wait=not parsed.no_wait,
        profile=parsed.profile,
    )


def _tell_boot(machine: Machine, seconds: float) -> None:
    steps = ", ".join(f"{name} {at} s" for name, at in machine.remote.times_s.items())
    print(f"lab: up in {seconds:.0f} s ({steps})", file=sys.stderr, flush=True)


def _answers(port: int) -> bool:
    """Whether a gRPC server speaks, and not QEMU's forwarder, which accepts always."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
            return answer[3:4] == bytes([_SETTINGS_FRAME])  # the type follows 24 bits of length
    except OSError:
        return False


def _refuse_taken(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise LabError(f"port {port}: {error.strerror}", hint="choose another with --port") from None


def _sigterm_like_ctrl_c() -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
