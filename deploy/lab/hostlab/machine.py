"""One running lab, seen from outside: prepares its files, starts QEMU, cleans up after it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import initramfs, kernel, prerequisites, service_files, tools
from .errors import LabError
from .qemu import Boot, arguments, disk_image
from .remote import Remote
from .topology import Topology, parse

PROGRAM = Path(__file__).resolve().parents[1]
REPOSITORY = PROGRAM.parents[1]
SOCKET_IN_LAB = "/run/hostdevd/hostdevd.sock"
_STATE_MIB = 512
_BOOT_ATTEMPTS = 8
_SLOWNESS = {"fast": 1.0, "systemd": 2.0}
"""How many times as long as the fast one a profile may take to boot: polkit alone is asked a thousand times."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What ``run`` and ``up`` have in common."""

    topology: Path
    state: Path | None
    output: Path | None
    port: int | None
    boot_only_host: bool
    iommu: bool
    verbose: bool
    wait: bool
    profile: str = "fast"
    """"systemd" is closer to production: systemd, polkit, QEMU as its own user, hostdevd by its unit."""
    boot_timeout_s: float = 480.0
    """Three guests boot one after the other when none was kept; a machine that died is seen at once."""


class BootError(LabError):
    """The emulated machine died or hung while booting: worth another attempt."""


class Machine:
    """A started QEMU and the way to its agent."""

    def __init__(self, process: subprocess.Popen[bytes], remote: Remote, console: Path) -> None:
        self._process = process
        self.remote = remote
        self._console = console

    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self._process.poll() is None

    def ending(self) -> str:
        """How QEMU ended, in words."""
        status = self._process.returncode
        return (
            f"QEMU died of signal {-status}"
            if status is not None and status < 0
            else f"QEMU ended with status {status}"
        )

    def console_tail(self, lines: int = 80) -> str:
        """The last lines of the lab's console."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def power_off(self) -> None:
        """Ask the lab to switch off; kill it when it does not."""
        if self.alive():
            with contextlib.suppress(LabError, OSError):
                self.remote.power_off()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=15)
        self.kill()

    def kill(self) -> None:
        """End QEMU at once."""
        if self.alive():
            self._process.kill()
        self._process.wait()


def cache_dir() -> Path:
    """Where downloads, built images, the lock and the running lab's address are."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "hostdevd" / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def booted(options: Options) -> Iterator[Machine]:
    """A lab that has come up; it is off, and its files gone, when the block ends."""
    try:
        topology = parse(options.topology.read_text())
    except OSError as error:
        raise LabError(f"{options.topology}: {error.strerror}") from error
    cache = cache_dir()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(cache, wait=options.wait))
        prerequisites.ensure(memory_mib=topology.memory_mib, cache=cache, profile=options.profile)
        work = Path(tempfile.mkdtemp(prefix="hostdevd-lab-"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        boot, token = _prepare(options, topology, cache, work)
        stack.callback(_keep_console, boot)
        running = cache / "running.json"
        stack.callback(running.unlink, missing_ok=True)
        _write_private(running, json.dumps({"port": boot.agent_port, "token": token, "pid": os.getpid()}))
        if options.verbose:
            stack.enter_context(_shown(boot.console_log))
        for attempt in range(1, _BOOT_ATTEMPTS + 1):
            _make_disks(topology, boot.disk_dir)
            process = _start(arguments(topology, boot, verbose=options.verbose), work)
            machine = Machine(process, Remote(boot.agent_port, token), boot.console_log)
            stack.callback(machine.kill)
            try:
                _await_ready(machine, options.boot_timeout_s * _SLOWNESS[options.profile], work)
                break
            except BootError as error:
                machine.kill()
                if attempt == _BOOT_ATTEMPTS:
                    raise
                # Said aloud, never silent: a lab that needs this often is broken.
                print(f"lab: {error} Booting again.", file=sys.stderr, flush=True)
        yield machine
        machine.power_off()


@contextlib.contextmanager
def _shown(console: Path) -> Iterator[None]:
    tail = subprocess.Popen(
        ["tail", "-n", "+1", "-F", "-q", str(console)],
        stdout=sys.stderr, stderr=subprocess.DEVNULL, preexec_fn=_die_with_parent,
    )  # fmt: skip
    try:
        yield
    finally:
        tail.kill()
        tail.wait()


def _keep_console(boot: Boot) -> None:
    with contextlib.suppress(OSError):
        shutil.copy(boot.console_log, boot.output_dir / "console.log")


def _prepare(options: Options, topology: Topology, cache: Path, work: Path) -> tuple[Boot, str]:
    linux = kernel.obtain(cache)
    inside = PROGRAM / "inside"
    host_image = initramfs.build(linux, {"init": inside / "init"}, initramfs.HOST_MODULES, cache / "host")
    guest_files = {
        "init": inside / "guest-init",
        "bin/lspci": inside / "guest-lspci",
        "bin/lsusb": inside / "guest-lsusb",
    }
    guest_image = initramfs.build(linux, guest_files, initramfs.GUEST_MODULES, cache / "guest")
    config, disks = work / "config", work / "disks"
    config.mkdir()
    disks.mkdir()
    output = options.output or work / "output"
    output.mkdir(parents=True, exist_ok=True)
    state = (options.state or work) / "state.img"
    if not state.exists():
        state.parent.mkdir(parents=True, exist_ok=True)
        _make_disk(state, _STATE_MIB, "ext4")
    token = secrets.token_hex(24)
    shutil.copy(options.topology, config / "topology.toml")
    forward = {"port": options.port, "path": SOCKET_IN_LAB} if options.port else None
    settings = {
        "token": token,
        "forward": forward,
        "boot_only_host": options.boot_only_host,
        "inside": str(inside),
        "keeps_state": options.state is not None,
        "profile": options.profile,
    }
    _write_private(config / "config.json", json.dumps(settings))
    here = [Path.cwd().resolve(), PROGRAM, Path(sys.prefix).resolve()]
    below_tmp = any(path.is_relative_to("/tmp") for path in here)  # noqa: S108  nothing is written there
    if below_tmp and options.profile == "systemd":
        raise LabError("the profile systemd has a /tmp of its own", hint="use a checkout that is not below /tmp")
    variables = {
        "LAB_RELEASE": linux.release,
        "LAB_MODULES": str(linux.modules.resolve()),
        "LAB_KERNEL": str(linux.image.resolve()),
        "LAB_GUEST_INITRAMFS": str(guest_image.resolve()),
        "LAB_PROGRAM": str(PROGRAM),
        "LAB_TOOLS": str(tools.obtain(cache).resolve()),
        "LAB_PYTHON": os.path.realpath(sys.executable),
        # A checkout below /tmp must stay visible; else the lab gets a /tmp of its own.
        "LAB_KEEP_TMP": "1" if below_tmp else "0",
        "LAB_PROFILE": options.profile,
    }
    if options.profile == "systemd":
        variables |= service_files.prepare(REPOSITORY, config / "service")
    (config / "lab.env").write_text("".join(f"{k}={shlex.quote(v)}\n" for k, v in variables.items()))
    cpus = topology.cpus or min(max(os.cpu_count() or 2, 2), 4)
    capabilities = cache / "capabilities"
    guests = cache / "guests"
    for directory in (capabilities, guests):
        directory.mkdir(exist_ok=True)
    boot = Boot(
        kernel=linux.image, initramfs=host_image, config_dir=config, output_dir=output.resolve(),
        capabilities_dir=capabilities, guests_dir=guests, disk_dir=disks,
        state_disk=state.resolve(), qmp_socket=work / "qmp.sock", console_log=work / "console.log",
        agent_port=_free_port(), server_port=options.port, cpus=cpus, iommu=options.iommu,
    )  # fmt: skip
    return boot, token


def _start(command: list[str], work: Path) -> subprocess.Popen[bytes]:
    with open(work / "qemu.log", "wb") as log:
        return subprocess.Popen(
            [prerequisites.program("qemu-system-x86_64"), *command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent, process_group=0,
        )  # fmt: skip


def _die_with_parent() -> None:
    # Even `kill -9` of the launcher must leave no QEMU behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await_ready(machine: Machine, timeout_s: float, work: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        if not machine.alive():
            log = (work / "qemu.log").read_text(errors="replace").splitlines()
            said = [line for line in log if ": warning: " not in line][-3:]
            print(machine.console_tail(), file=sys.stderr)
            raise BootError(
                f"the lab ended while booting ({machine.ending()}). {' / '.join(said)}".strip(),
                hint="try again with --verbose",
            )
        try:
            machine.remote.await_ready(min(5.0, max(deadline - time.monotonic(), 0.1)))
        except TimeoutError:
            if time.monotonic() > deadline:
                print(machine.console_tail(), file=sys.stderr)
                raise BootError(
                    f"the lab did not come up in {timeout_s:.0f} s.", hint="try again with --verbose"
                ) from None
        except LabError:
            print(machine.console_tail(), file=sys.stderr)
            with contextlib.suppress(LabError, OSError):
                machine.remote.execute(
                    ["sh", "-c", "tail -n 20 /var/log/lab/bringup.log /var/log/lab/libvirtd.log >&2"]
                )
            raise
        else:
            return


@contextlib.contextmanager
def _only_one(cache: Path, *, wait: bool) -> Iterator[None]:
    with open(cache / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise LabError("another lab is running", hint="stop it, or leave out --no-wait") from None
            print("lab: another lab is running; waiting for it to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_disks(topology: Topology, directory: Path) -> None:
    """Fresh for each attempt: an array or a volume group left by one that died would be found by the next."""
    for device in topology.devices:
        if device.disk is not None:
            _make_disk(disk_image(device, directory), device.disk.size_mib, device.disk.format)


def _make_disk(path: Path, size_mib: int, kind: str) -> None:
    with open(path, "wb") as image:
        image.truncate(size_mib * 2**20)
    if kind == "ext4":
        subprocess.run([prerequisites.program("mke2fs"), "-q", "-F", "-t", "ext4", str(path)], check=True)
    elif kind == "swap":
        path.chmod(0o600)
        subprocess.run([prerequisites.program("mkswap"), str(path)], check=True, capture_output=True)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
