"""What the service manager is told over `$NOTIFY_SOCKET` (sd_notify(3), sd_watchdog_enabled(3)); nothing without it.

Own code: the protocol is a line in a datagram, and what has a package for it is unkept or needs libsystemd to build.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import structlog

log = structlog.get_logger()

LOOK_S = 1.0
"""How often the status is looked at, and so how late it may be."""

_FEEDS_PER_LIMIT = 4
"""Of these three may come late or be lost before the manager takes the service for stuck."""


class Notifier:
    """Messages to the service manager that the environment names. Never blocks, never raises.

    A message that finds the manager's queue full is kept, and goes out before the next one.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = environment or {}
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._owed: deque[bytes] = deque()
        self._is_ready = False
        self.watchdog_s = _watchdog_s(environment)
        """How long the manager waits for `alive`; None when it does not."""
        if address and address[0] not in "/@":
            log.warning("the service manager is not told anything: its socket is no path", socket=address)
            self._address = ""

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager to tell anything."""
        return bool(self._address)

    def ready(self) -> None:
        """Calls are answered now."""
        self._is_ready = True
        self._tell("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again, until `reloaded`."""
        if self._is_ready:
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """It was read again. Of a start that is still under way this says nothing."""
        if self._is_ready:
            self._tell("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={' '.join(text.splitlines())}")

    def alive(self) -> None:
        """Feed the watchdog; one that could not be told is told no sooner by being told twice."""
        if self.watchdog_s is not None and self._flushed():
            self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if self._address:
            self._owed.append(text.encode())
            self._flushed()

    def _flushed(self) -> bool:
        while self._owed:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                    sender.sendto(self._owed[0], self._address)
            except BlockingIOError:
                return False
            except OSError as error:
                log.warning("the service manager could not be told", message=self._owed[0].decode(), why=error.strerror)
            self._owed.popleft()
        return True


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Of this process, in seconds: a child of another service inherits the variables and is not meant."""
    limit = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not limit.isdecimal() or not int(limit):
        return None
    return int(limit) / 1e6


async def keep_told(
    notifier: Notifier,
    status: Callable[[], str],
    is_alive: Callable[[], bool],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Keep the status true, and feed the watchdog from the event loop, so that one that is stuck is not fed.

    Nor is one whose core has ended in part: what a restart would mend must not go on for ever.
    """
    if not notifier.is_heard:
        return
    pause_s = min(LOOK_S, (notifier.watchdog_s or LOOK_S) / _FEEDS_PER_LIMIT)
    fed_every = max(1, int((notifier.watchdog_s or 0) / _FEEDS_PER_LIMIT / pause_s))
    told, ended, turn = "", False, 0
    while True:
        if (now := status()) != told:
            told = now
            notifier.status(now)
        if is_alive():
            if turn % fed_every == 0:
                notifier.alive()
        elif not ended:
            ended = True
            log.critical("a part of the core has ended; the watchdog is not fed any more")
        turn += 1
        await sleep(pause_s)
