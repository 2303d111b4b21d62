"""Being told when the host's drivers and uses change: uevents, mounts and swap, addresses and routes.

Every source is a file descriptor on the event loop, and each may be missing: then changes are seen when
the uses are next read, before each attach at the latest, and the check HOST_USES says so.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import structlog

from hostdevd.core.ports import EventSink
from hostdevd.host import rtnetlink
from hostdevd.host.coalesce import Coalescer
from hostdevd.host.sysfs import HostTree

_SUBSYSTEMS = ("block", "net", "pci", "usb", "scsi", "mdev", "virtio", "nvme", "graphics", "drm")
_POLLED = ("/proc/1/mountinfo", "/proc/swaps")
# A storm of uevents must not hold the loop: the rest waits for its next turn.
_MOST_PER_TURN = 64

_log = structlog.get_logger(__name__)


class HostWatch:
    """Watches while it is open; `gaps` says what it cannot be told of."""

    def __init__(self, tree: HostTree) -> None:
        self._tree = tree
        self._stack = ExitStack()
        self._sources = select.poll()
        self._told = 0
        self._is_open = False
        self.gaps: tuple[str, ...] = ()

    def open(self, sink: EventSink) -> None:
        """Register with the running loop; changes go to the sink, coalesced."""
        changes = Coalescer(sink)
        self._stack.callback(changes.close)
        gaps = []
        for what, begin in (
            ("drivers and devices (uevents)", self._uevents),
            ("mounts and swap", self._mounts),
            ("addresses and routes", self._network),
        ):
            try:
                begin(changes)
            except (OSError, ImportError) as error:
                _log.warning("host changes are not watched", what=what, error=str(error))
                gaps.append(f"{what} are not watched: {error}")
        self.gaps = tuple(gaps)
        self._is_open = True

    def close(self) -> None:
        """Leave the loop and close every file."""
        self._is_open = False
        self._stack.close()

    def told(self) -> int | None:
        """A number that is another one whenever something was told since; None where not everything is told.

        The kernel tells before the call returns that changed something, so what waits to be read counts.
        """
        if self.gaps or not (self._is_open and self._tree.live):
            return None
        if self._sources.poll(0):
            self._told += 1
        return self._told

    def _uevents(self, changes: Coalescer) -> None:
        if not self._tree.live:
            return
        # Imported here: it loads libudev, and a host without it is no reason not to start.
        import pyudev  # noqa: PLC0415

        context = pyudev.Context()
        # The kernel's own events are first, and there without udev; udev's come when its database knows
        # the device, without which the signatures on a new disk are not known.
        for source in ("kernel", "udev"):
            monitor: Any = pyudev.Monitor.from_netlink(context, source)
            for subsystem in _SUBSYSTEMS:
                monitor.filter_by(subsystem)
            monitor.start()
            self._reader(monitor.fileno(), partial(_take_uevents, monitor, changes))
            self._sources.register(monitor.fileno(), select.POLLIN)

    def _mounts(self, changes: Coalescer) -> None:
        # These files are always readable and raise POLLPRI on a change, which asyncio does not wait for;
        # an epoll of our own does, and is itself readable for asyncio.
        poller = select.epoll()
        self._stack.callback(poller.close)
        for path in _POLLED:
            try:
                poller.register(self._opened(path), select.EPOLLPRI | select.EPOLLERR)
                # Whoever polls such a file is told once: `told` has one of its own.
                self._sources.register(self._opened(path), select.POLLPRI)
            except PermissionError:
                if self._tree.live:
                    raise
                # A plain file of a recorded tree, which never changes.

        def on_change() -> None:
            poller.poll(0)  # looking at it is what clears it
            changes.changed()

        self._reader(poller.fileno(), on_change)

    def _network(self, changes: Coalescer) -> None:
        if not self._tree.live:
            return
        if not rtnetlink.shares_network_of_init(self._tree):
            raise OSError("this process is not in the host's network namespace")
        listener = rtnetlink.open_listener()
        self._stack.callback(listener.close)

        def on_messages() -> None:
            if rtnetlink.drain(listener):
                changes.changed()

        self._reader(listener.fileno(), on_messages)
        self._sources.register(listener.fileno(), select.POLLIN)

    def _opened(self, path: str) -> int:
        fd = os.open(self._tree.outer(path), os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return fd

    def _reader(self, fd: int, callback: Callable[[], None]) -> None:
        def readable() -> None:
            self._told += 1
            callback()

        loop = asyncio.get_running_loop()
        loop.add_reader(fd, readable)
        self._stack.callback(loop.remove_reader, fd)


def _take_uevents(monitor: Any, changes: Coalescer) -> None:
    for _ in range(_MOST_PER_TURN):
        try:
            device = monitor.poll(timeout=0)
        except OSError:  # the socket's buffer overflowed: something changed, nobody knows what
            changes.changed()
            return
        if device is None:
            return
        changes.changed(device.sys_path)
