"""Who is at the other end of a unix socket: the kernel's word, as of the moment when they connected."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

from hostdevd.core.caller import Caller, Proof

_SO_PEERGROUPS = 59
"""Missing in Python's socket module; the same on all of Linux's machines but SPARC and PA-RISC."""
_CREDENTIALS = struct.Struct("=iII")
_SOME_GROUPS = 256

_libc = ctypes.CDLL(None, use_errno=True)


def peer_of(connection: socket.socket, *, read_only: bool) -> Caller:
    """The caller at the other end of a unix socket. OSError: the kernel does not say."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    # The first group need not be among the others. A process of another PID namespace has no number here.
    gids = dict.fromkeys((gid, *_groups(connection)))
    return Caller(Proof.PEER, uid=uid, gids=tuple(gids), pid=pid or None, read_only=read_only)


def _groups(connection: socket.socket) -> tuple[int, ...]:
    """The supplementary groups, of which a user may have more than the 1,024 bytes that Python's getsockopt takes."""
    room = _SOME_GROUPS
    while True:
        groups, size = (ctypes.c_uint32 * room)(), ctypes.c_uint32(room * 4)
        failed = _libc.getsockopt(connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size))
        if not failed:
            return tuple(groups[: size.value // 4])
        if ctypes.get_errno() != errno.ERANGE:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        room = size.value // 4  # as many as there are; they do not change on a connected socket
