"""Unix sockets that are ours alone: a lock beside each, so that no second service takes its path away."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hostdevd.front.addresses import Address, ListenError


@contextmanager
def claimed(addresses: Sequence[Address]) -> Iterator[None]:
    """Hold the locks of all unix sockets while the block runs; at its end their files are removed."""
    locks: dict[Path, int] = {}
    try:
        for address in addresses:
            if address.path is not None:
                locks[address.path] = _lock(address, address.path)
        yield
    finally:
        for path, lock in locks.items():
            path.unlink(missing_ok=True)
            os.close(lock)


def _lock(address: Address, path: Path) -> int:
    if not path.parent.is_dir():
        raise ListenError(
            f"listen {address.text}: there is no directory {path.parent}; make it, or listen elsewhere (--listen)"
        )
    try:
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ListenError(f"listen {address.text}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check_stale(address, path)
    except OSError:
        os.close(lock)
        raise ListenError(f"listen {address.text}: another hostdevd listens there") from None
    except ListenError:
        os.close(lock)
        raise
    return lock


def _check_stale(address: Address, path: Path) -> None:
    """A file that is no socket, or a socket that somebody answers, is not ours to replace."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"listen {address.text}: {path} exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise ListenError(f"listen {address.text}: another server listens there")
