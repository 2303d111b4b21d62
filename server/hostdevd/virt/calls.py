"""Every call into libvirt: counted, and its failure put into the port's words.

The only file that catches `libvirtError`.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar, cast

import libvirt

from hostdevd.core.observing import NOBODY, CallObserver
from hostdevd.core.ports import HypervisorBusy, HypervisorError, HypervisorGone, NoSuchObject
from hostdevd.virt.denials import Denials
from hostdevd.virt.handles import ConnectionHandle
from hostdevd.virt.threads import is_given_up

P = ParamSpec("P")
T = TypeVar("T")

_NO_SUCH_OBJECT = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NODE_DEVICE,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_DEVICE_MISSING,
    }
)

_BUSY = frozenset(
    {
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        # With `max_queued` set, libvirt refuses at once.
        libvirt.VIR_ERR_OPERATION_FAILED,
    }
)
_BROKEN_PIPE = frozenset({errno.EIO, errno.EPIPE, errno.ECONNRESET})
_NO_SOCKET = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, errno.ENOENT)
_BUSY_TEXT = "state change lock"
"""Both codes have other meanings; only this one promises that nothing was done."""


_TURN_LIMIT_S = 10.0

_CALL_LIMIT_S = 30.0
_LIST_LIMIT_S = 120.0
"""One that lists has polkit asked about every object, where `access_drivers` says so: 1 ms each, 20 on a busy host."""


class NoDaemon(HypervisorError):
    """No daemon serves that part of libvirt here: a modular one hands the call on to a socket that does not exist.

    systemd keeps the sockets of all daemons that are installed and enabled, whether they run or not.
    """


class DaemonBehindGone(HypervisorGone):
    """The daemon that answers here has lost the one behind it, for this connection for ever.

    virtqemud hands node devices to virtnodedevd and networks to virtnetworkd over a connection that it makes once
    per client. When that one's daemon restarts, every such call fails and no event comes any more, while the
    client's own connection is as good as before: only a new one helps.
    """


class CallCounter:
    """How often each function of libvirt's was called, since the process began; `observer` is told how it went."""

    def __init__(self) -> None:
        self.observer: CallObserver = NOBODY
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def counted(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make one call, and count it; from any thread."""
        with self._lock:
            self._counts[name] += 1
        began, failed = time.perf_counter(), True
        try:
            result = function(*args, **kwargs)
            failed = False
        finally:
            self.observer.called(name, time.perf_counter() - began, failed=failed)
        return result

    def read(self) -> Mapping[str, int]:
        """A copy: `virDomain.XMLDesc` → 12."""
        with self._lock:
            return dict(self._counts)


class Link:
    """One open connection, and the way to call anything that belongs to it. For any thread, one call at a time.

    Not two: libvirt's client before 10.3 crashes when threads share a connection (CVE-2024-4418: while a call waits,
    another thread's makes it leave a pointer to its stack behind). Debian 12 has that bug; a daemon that freezes
    under a few calls brings it out nearly every time.
    """

    def __init__(self, handle: ConnectionHandle, counter: CallCounter, denials: Denials | None = None) -> None:
        self.handle = handle
        self.on_broken: Callable[[str], None] = _nobody_cares
        """Called, on the thread of the call, when this connection is of no use any more though it stands."""
        self._counter = counter
        self._denials = denials or Denials()
        self.at_close: list[Callable[[], object]] = []
        """What is undone first, when no call is left. A callback holds its connection, which would stay open."""
        self.limit: float | None = None
        """When (`time.monotonic`) the call that runs now has taken too long; None when none runs."""
        self.returned = time.monotonic()
        """When the last one returned."""
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._running = 0
        self._closing = False

    @classmethod
    def open(cls, uri: str, counter: CallCounter, denials: Denials) -> Link:
        """Connect; blocks for as long as the other side wants."""
        try:
            handle = counter.counted("open", libvirt.open, uri)
        except libvirt.libvirtError as error:
            denials.note("open", error)
            raise HypervisorError(_code(error), _text(error)) from error
        denials.note("open", None)
        return cls(cast("ConnectionHandle", handle), counter, denials)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the connection or of an object from it; `HypervisorError` when it fails.

        `HypervisorGone`, and nothing is called, when nobody waits for the job any more: its caller has taken it
        for failed, and must not be proven wrong later.
        """
        self._enter()
        try:
            with self._turn:
                if is_given_up():
                    raise HypervisorGone("nobody waits for it any more")
                self.limit = time.monotonic() + (_LIST_LIMIT_S if "list" in function.__name__ else _CALL_LIMIT_S)
                try:
                    result = self._counter.counted(function.__qualname__, function, *args, **kwargs)
                finally:
                    self.limit, self.returned = None, time.monotonic()
        except UnicodeDecodeError as error:
            # libvirt hands on what a device says of itself; its binding takes nothing but UTF-8.
            raise HypervisorError(libvirt.VIR_ERR_INTERNAL_ERROR, "libvirt's answer is no text") from error
        except libvirt.libvirtError as error:
            self._denials.note(function.__qualname__, error)
            failure = _translated(error, alive=self.alive())
            if isinstance(failure, DaemonBehindGone):
                self.on_broken(failure.text)
            raise failure from error
        else:
            self._denials.note(function.__qualname__, None)
            return result
        finally:
            self._leave()

    def exclusively(self, work: Callable[[], T]) -> T:
        """Do what makes calls of its own while nobody else calls; `HypervisorGone` when that does not end in time."""
        self._enter()
        try:
            if not self._turn.acquire(timeout=_TURN_LIMIT_S):
                raise HypervisorGone("a call on its connection does not return")
            try:
                return work()
            finally:
                self._turn.release()
        finally:
            self._leave()

    def close(self) -> None:
        """Close it, now or when the last call returns: libvirt frees a connection under the calls that use it."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            busy = self._running > 0
        if not busy:
            self._finish()

    def _enter(self) -> None:
        with self._lock:
            if self._closing:
                raise HypervisorGone("the connection was closed")
            self._running += 1

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            last = self._closing and self._running == 0
        if last:
            self._finish()

    def _finish(self) -> None:
        for undo in self.at_close:
            undo()
        self.at_close.clear()
        quietly(self.handle.close)

    def alive(self) -> bool:
        """Whether the connection still stands; asks the socket, not the other side."""
        try:
            return self.handle.isAlive() == 1
        except libvirt.libvirtError:
            return False


def _nobody_cares(_why: str) -> None:
    """Nobody wants to know."""


def quietly(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
    """Call what may fail because the other side is gone already; whether it worked."""
    try:
        function(*args, **kwargs)
    except libvirt.libvirtError:
        return False
    return True


def _translated(error: libvirt.libvirtError, *, alive: bool) -> HypervisorError:
    code, text = _code(error), _text(error)
    # By the connection, not by the code: a dying one gives INTERNAL_ERROR, SYSTEM_ERROR, RPC and others.
    if not alive:
        return HypervisorGone(text)
    if code in _NO_SUCH_OBJECT:
        return NoSuchObject(code, text)
    if code in _BUSY and _BUSY_TEXT in text:
        return HypervisorBusy(code, text)
    if (code, error.get_error_domain(), error.get_int1()) == _NO_SOCKET:
        return NoDaemon(code, text)
    if error.get_error_domain() == libvirt.VIR_FROM_RPC and (
        # "client socket is closed"; or it closed while the call was under way, whose outcome nobody knows.
        code == libvirt.VIR_ERR_INTERNAL_ERROR
        or (code == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() in _BROKEN_PIPE)
    ):
        return DaemonBehindGone(text)
    return HypervisorError(code, text)


def _code(error: libvirt.libvirtError) -> int:
    return int(error.get_error_code() or libvirt.VIR_ERR_INTERNAL_ERROR)


def _text(error: libvirt.libvirtError) -> str:
    return str(error.get_error_message() or error)
