"""The helper's socket: who is at its other end, one request each, one after the other."""

from __future__ import annotations

import logging
import pwd
import select
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from hostdevd.sriov.function import PhysicalFunction, Refused, set_count
from hostdevd.sriov.messages import MAX_LINE_BYTES, Answer, Outcome, Request

log = logging.getLogger("hostdevd-sriov")

FIRST_DESCRIPTOR = 3
"""Where the descriptors that systemd passes begin (sd_listen_fds(3))."""

ASK_S = 5.0
"""How long a peer has for its request: the others wait behind it. The write itself may take as long as it will."""

_CREDENTIALS = struct.Struct("3i")


class StartError(Exception):
    """The helper was not started as it must be, in one line."""


def inherited(environment: Mapping[str, str], process: int) -> socket.socket:
    """The listening socket that systemd passes; `StartError` without one."""
    if environment.get("LISTEN_PID") != str(process) or environment.get("LISTEN_FDS") != "1":
        raise StartError("no socket was passed: it is started by systemd, by hostdevd-sriov.socket")
    try:
        listener = socket.socket(fileno=FIRST_DESCRIPTOR)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"what was passed is no socket: {error.strerror}") from None
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not listens:
        raise StartError("what was passed is no listening unix stream socket")
    return listener


def allowed_uids(user: str) -> frozenset[int]:
    """Root, and the user that hostdevd runs as where there is one."""
    try:
        return frozenset({0, pwd.getpwnam(user).pw_uid})
    except KeyError:
        log.warning("there is no user %s: root alone is served", user)
        return frozenset({0})


class Service:
    """Answers requests; `sysfs` is `/sys` where no test has made another."""

    def __init__(self, listener: socket.socket, uids: frozenset[int], sysfs: Path = Path("/sys")) -> None:
        self._listener = listener
        self._uids = uids
        self._sysfs = sysfs

    def serve(self, idle_s: float, stop: int | None = None) -> None:
        """Until nobody has come for so long, or the descriptor `stop` can be read.

        systemd keeps the socket, and starts another helper for who comes then. A request that has begun is finished:
        between two writes there are no functions at all.
        """
        watched: list[socket.socket | int] = [self._listener, *([] if stop is None else [stop])]
        while True:
            ready, _, _ = select.select(watched, [], [], idle_s)
            if self._listener not in ready or stop in ready:
                return
            try:
                peer, _ = self._listener.accept()
                with peer:
                    self._serve_one(peer)
            except OSError as error:
                log.warning("a peer went: %s", error.strerror or error)

    def _serve_one(self, peer: socket.socket) -> None:
        pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        line = _line(peer)  # from whomever: a peer whose words were left unread would not get the answer
        if uid not in self._uids:
            log.warning("refused uid %d (pid %d)", uid, pid)
            answer = Answer(Outcome.NOT_ALLOWED, f"uid {uid} may not set virtual functions here")
        else:
            answer = self._answer(line, uid)
        peer.sendall(answer.line())

    def _answer(self, line: bytes, uid: int) -> Answer:
        try:
            request = Request.read(line)
        except ValueError as error:
            return Answer(Outcome.INVALID, f"no request: {error}")
        try:
            with PhysicalFunction.at(request.device, self._sysfs) as function:
                log.info("uid %d sets %s to %d", uid, function.name, request.count)
                answer = set_count(function, request.count)
        except Refused as refused:
            answer = Answer(refused.outcome, str(refused))
        except OSError as error:
            answer = Answer(Outcome.FAILED, f"sysfs: {error.strerror}")
        log.info("%s %r: %s %s", answer.outcome, request.device, answer.count, answer.message)
        return answer


def _line(peer: socket.socket) -> bytes:
    """The request's line; what has none, or comes too slowly, is cut."""
    line = b""
    until = time.monotonic() + ASK_S
    while not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
        left = until - time.monotonic()
        if left <= 0:
            break
        peer.settimeout(left)
        try:
            part = peer.recv(MAX_LINE_BYTES + 1 - len(line))
        except TimeoutError:
            break
        if not part:
            break
        line += part
    peer.settimeout(ASK_S)
    return line if len(line) <= MAX_LINE_BYTES else b""
