"""A private libvirtd with the test driver behind its real protocol: it can be killed and frozen.

libvirt is imported where it is used: without it the tests are skipped, not broken.

`/default` is one host for all connections of the daemon; a file gives each connection a host of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from another_user import NOBODY, as_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostdevd.core.ports import Event
    from hostdevd.virt.libvirt_port import LibvirtPort

T = TypeVar("T")

GUARD_S = 60.0
"""How long a test waits for what must happen before it is called hung; no statement about speed."""


class Daemon:
    """A session libvirtd under a directory of its own, as an ordinary user."""

    def __init__(self, program: str, root: Path) -> None:
        self.root = root
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = root / "run" / "libvirt" / "libvirt-sock"

    def uri(self, host: str = "/default") -> str:
        """The host in the file `host`, or the daemon's built-in one."""
        return f"test+unix://{host}?socket={self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        environment = {
            "PATH": f"{self.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.root),
            "XDG_RUNTIME_DIR": str(self.root / "run"),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_DATA_HOME": str(self.root / "data"),
        }
        # Privileged, it would take the machine's own sockets.
        command = as_user(NOBODY, pwd.getpwnam(NOBODY).pw_gid, [self._program]) if _is_root() else [self._program]
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + GUARD_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"libvirtd does not answer: {(self.root / 'log').read_text(errors='replace')}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        import libvirt  # noqa: PLC0415

        try:
            libvirt.open(self.uri()).close()
        except libvirt.libvirtError:
            return False
        return True


def _is_root() -> bool:
    return os.geteuid() == 0


@pytest.fixture(scope="session")
def libvirtd() -> str:
    """The daemon's program; without it or the binding the tests are skipped, unless they are required."""
    program = shutil.which("libvirtd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None or importlib.util.find_spec("libvirt") is None:
        missing = "libvirtd and libvirt-python are needed"
        if os.environ.get("HOSTDEVD_REQUIRE_LIBVIRT") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return program


@contextmanager
def private_daemon(program: str, prepare: Callable[[Path], None] = lambda _: None) -> Iterator[Daemon]:
    """A running daemon of its own; `prepare` gets its directory first, whose `bin` has its programs."""
    # Not tmp_path: a socket's path has at most 107 characters, and another user must get there.
    root = Path(tempfile.mkdtemp(prefix="hv"))
    root.chmod(0o755)
    for name in ("run", "config", "cache", "data"):
        (root / name).mkdir(mode=0o700)
        if _is_root():
            shutil.chown(root / name, NOBODY)
    # Registers the event loop before the first open of this process, as the service does.
    from hostdevd.virt.events import EVENT_THREAD  # noqa: PLC0415

    EVENT_THREAD.acquire()
    private = Daemon(program, root)
    try:
        prepare(root)
        private.start()
        yield private
    finally:
        private.signal(signal.SIGCONT)
        private.kill()
        EVENT_THREAD.release()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def daemon(libvirtd: str) -> Iterator[Daemon]:
    """A running daemon."""
    with private_daemon(libvirtd) as private:
        yield private


class Recorder:
    """An event sink that keeps all and can be waited on."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._more = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.all.append(event)
        self._more.set()

    def clear(self) -> None:
        """Forget what came until now."""
        self.all.clear()

    async def wait_for(self, *wanted: Event | type[Event]) -> None:
        """Until these have come, in this order, others between them or not."""
        try:
            async with asyncio.timeout(GUARD_S):
                while not self._holds(wanted):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            pytest.fail(f"{wanted} did not come; there were {self.all}")

    def _holds(self, wanted: tuple[Event | type[Event], ...]) -> bool:
        events = iter(self.all)
        return all(
            any(isinstance(event, want) if isinstance(want, type) else event == want for event in events)
            for want in wanted
        )


@pytest.fixture
def recorder() -> Recorder:
    """A sink."""
    return Recorder()


Connect = Callable[[str], AbstractAsyncContextManager[tuple["LibvirtPort", Recorder]]]


@pytest.fixture
def connect() -> Connect:
    """A port on a URI, started, that has connected."""
    from hostdevd.core.ports import Connected  # noqa: PLC0415
    from hostdevd.virt.libvirt_port import LibvirtPort  # noqa: PLC0415
    from hostdevd.virt.xml.nodedev import node_device  # noqa: PLC0415

    @asynccontextmanager
    async def connected(uri: str) -> AsyncIterator[tuple[LibvirtPort, Recorder]]:
        port, events = LibvirtPort(uri, node_device), Recorder()
        await port.start(events)
        try:
            await events.wait_for(Connected)
            yield port, events
        finally:
            await port.close()

    return connected


OtherTool = Callable[[str, Callable[[object], T]], Awaitable[T]]


@pytest.fixture
def other_tool() -> Callable[..., Awaitable[object]]:
    """What another tool does: a function of a connection of its own, on a thread."""
    import libvirt  # noqa: PLC0415

    def act(uri: str, action: Callable[[object], T]) -> T:
        connection = libvirt.open(uri)
        try:
            return action(connection)
        finally:
            connection.close()

    async def run(uri: str, action: Callable[[object], T]) -> T:
        return await asyncio.to_thread(act, uri, action)

    return run
