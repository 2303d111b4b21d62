"""Where the service listens: unix sockets, and TCP on loopback only."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

SOCKET_MODE = 0o660


class ListenError(Exception):
    """An address that cannot be listened on, in one line that says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """One `listen` entry: a path, or a host and port."""

    text: str
    path: Path | None = None
    host: str = ""
    port: int = 0


def parse_address(text: str) -> Address:
    """Read `unix:/path` or `host:port`; `ListenError` for anything else, and for TCP beyond loopback."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > 100:  # noqa: PLR2004  sun_path has 108
            raise ListenError(f"listen {text}: the path must be absolute and at most 100 bytes long")
        return Address(text, path=Path(path))
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  a port's bound
        raise ListenError(f"listen {text}: give unix:/path or host:port")
    if not _is_loopback(host):
        raise ListenError(f"listen {text}: plain TCP is served on a loopback address only")
    return Address(text, host=host, port=int(port))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def claimed(addresses: tuple[Address, ...]) -> Iterator[None]:
    """Hold the locks of all unix sockets: gRPC itself would take a socket's path from another server."""
    locks: dict[Path, int] = {}
    try:
        paths = [(address, address.path) for address in addresses if address.path is not None]
        for address, path in paths:
            locks[path] = _lock(address, path)
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


def bind(server: grpc.aio.Server, address: Address) -> str:
    """Add an address to a server; returns it with the real port. `ListenError` when it is taken."""
    if address.path is not None:
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            _add(server, f"unix:{address.path}", address)
        finally:
            os.umask(before)
        return f"unix:{address.path}"
    shown = f"[{address.host}]" if ":" in address.host else address.host
    port = _add(server, f"{shown}:{address.port}", address)
    return f"{shown}:{port}"


def _add(server: grpc.aio.Server, target: str, address: Address) -> int:
    try:
        port: int = server.add_insecure_port(target)
    except RuntimeError as error:
        raise ListenError(f"listen {address.text}: the address is in use or cannot be bound") from error
    if port == 0:
        raise ListenError(f"listen {address.text}: the address is in use or cannot be bound")
    return port
