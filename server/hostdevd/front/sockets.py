"""Listening sockets, and the private directory behind them."""

from __future__ import annotations

import grp
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hostdevd.front.addresses import Address, ListenError

_BACKLOG = 4096
"""The kernel caps it by net.core.somaxconn."""


def open_unix(address: Address, path: Path, *, mode: int, group: str | None) -> socket.socket:
    """A socket file with its final owner and mode before anybody can connect; `ListenError` where that cannot be."""
    gid = _gid(address, group) if group is not None else -1
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        before = os.umask(0o777)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        if gid != -1:
            _give(address, path, gid, group or "")
        path.chmod(mode)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(f"listen {address.text}: {error.strerror}") from error
    except ListenError:
        listening.close()
        path.unlink(missing_ok=True)
        raise
    return listening


def _give(address: Address, path: Path, gid: int, group: str) -> None:
    try:
        os.chown(path, -1, gid, follow_symlinks=False)
    except PermissionError as error:
        raise ListenError(
            f"listen {address.text}: the socket cannot be given to group {group}: run the service in it as well"
        ) from error


def _gid(address: Address, group: str) -> int:
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(f"listen {address.text}: there is no group {group}") from None


def open_tcp(address: Address) -> list[socket.socket]:
    """A socket for each of the host's addresses, all at one port; `ListenError` when one cannot be had."""
    with ExitStack() as stack:
        opened: list[socket.socket] = []
        port = address.port
        try:
            found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, where in found:
                listening = stack.enter_context(
                    socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
                )
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # "::" is every address of this host, those of IPv4 too; another one is itself alone.
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
                listening.bind((where[0], port, *where[2:]))
                listening.listen(_BACKLOG)
                port = listening.getsockname()[1]
                opened.append(listening)
        except OSError as error:
            why = "there is no such host" if isinstance(error, socket.gaierror) else error.strerror
            raise ListenError(f"listen {address.text}: {why}") from error
        stack.pop_all()
        return opened


@contextmanager
def private_directory(beside: Path | None) -> Iterator[Path]:
    """A directory for the gRPC server's own sockets that nobody else may enter, by a name of few bytes.

    It lies beside a public socket, under the lock of that one: what a killed service left is cleared away. Without
    one it is among the temporary files.
    """
    if beside is None:
        place = Path(tempfile.mkdtemp(prefix="hostdevd-"))
    else:
        place = beside.with_name(f"{beside.name}.private")
        try:
            _clear(place)
            place.mkdir(mode=0o700)
        except OSError as error:
            raise ListenError(f"listen unix:{beside}: {place}: {error.strerror}") from error
    handle = os.open(place, os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield Path(f"/proc/self/fd/{handle}")  # a socket's path has 108 bytes at most, and this one is short
    finally:
        os.close(handle)
        shutil.rmtree(place, ignore_errors=True)


def _clear(place: Path) -> None:
    try:
        found = place.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise FileExistsError(0, "exists, and is no directory of this service")
    shutil.rmtree(place)
