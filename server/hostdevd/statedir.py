"""The state directory's lock: one service at a time, and none writes without it.

A directory whose parent is not there, or a file in its place, is a mistake in the options, and another
service in it is one in the set-up: both end the start. A directory that cannot be written (full, read-only, not
ours) is neither: the service serves reads, and takes the lock as soon as it can.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

import structlog

log = structlog.get_logger()

_MISTAKES = frozenset({errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class StateDirError(Exception):
    """The state directory cannot be what is meant, in one line."""


class StateDirectory:
    """The directory, from the start to the end of the service."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self.claim()
        except BlockingIOError as error:
            raise StateDirError(f"state directory {self._directory}: {error.strerror}") from error
        except OSError as error:
            if error.errno in _MISTAKES:
                raise StateDirError(f"state directory {self._directory}: {error.strerror}") from error
            log.warning("the state directory cannot be used", directory=str(self._directory), why=error.strerror)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def claim(self) -> None:
        """Have the lock, from now on or already; BlockingIOError when another service has it, else OSError."""
        if self._lock is not None:
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        lock = self._open()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BlockingIOError(errno.EWOULDBLOCK, "another hostdevd uses it") from None
        except OSError:
            os.close(lock)
            raise
        self._lock = lock

    def _open(self) -> int:
        path = self._directory / "lock"
        try:
            return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # On what is mounted read-only the lock of an earlier service tells of another one all the same.
            if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM} or not path.is_file():
                raise
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
