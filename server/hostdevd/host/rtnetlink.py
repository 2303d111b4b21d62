"""The two questions that hostdevd has for rtnetlink: which addresses there are, and tell me of changes.

Own code and not pyroute2: that takes a third of a second to import and an event loop for each socket, for
one dump and for messages whose content hardly matters.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from hostdevd.host.sysfs import HostTree, Unreadable

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, interface index
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x001, 0x300, 0x010
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RT_SCOPE_LINK = 253
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, and address and route of both families
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_S = 5.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address that reaches beyond the link, on an interface; both as text."""

    interface: str
    address: str


def shares_network_of_init(tree: HostTree) -> bool:
    """Whether this process is in process 1's network namespace, so that netlink speaks of the host's.

    Reading the namespace's own link takes more rights than we have; but each namespace has files of its
    own below `/proc/PID/net`, and so their inode numbers tell.
    """
    try:
        ours, inits = (Path(tree.outer(f"/proc/{process}/net/dev")).stat() for process in ("self", 1))
    except OSError:
        return False
    return ours.st_ino == inits.st_ino


def host_addresses() -> tuple[InterfaceAddress, ...]:
    """Every address of wider than link scope in this process's network namespace."""
    for _ in range(_TRIES):
        try:
            found = _dump_addresses()
        except (OSError, struct.error, ValueError) as error:
            raise Unreadable("rtnetlink", str(error)) from error
        if found is not None:
            return found
    raise Unreadable("rtnetlink", "the addresses change faster than they can be read")


def open_listener() -> socket.socket:
    """A non-blocking socket that becomes readable when links, addresses or routes change."""
    listener = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    try:
        listener.bind((0, _GROUPS))
    except OSError:
        listener.close()
        raise
    return listener


def drain(listener: socket.socket) -> bool:
    """Read what is there; whether any of it matters: of routes only the default one does."""
    matters = False
    while True:
        try:
            data = listener.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return matters
        except OSError:  # ENOBUFS: more changes than the socket holds, so surely some that matter
            return True
        matters = matters or any(_matters(kind, body) for kind, _, body in _messages(data))


def _matters(kind: int, body: bytes) -> bool:
    if kind not in {_RTM_NEWROUTE, _RTM_DELROUTE}:
        return True
    return len(body) < 2 or body[1] == 0  # noqa: PLR2004  rtmsg: family, length of the destination's prefix


def _dump_addresses() -> tuple[InterfaceAddress, ...] | None:
    """One dump; None when the table changed under it."""
    found: list[InterfaceAddress] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asker:
        asker.settimeout(_TIMEOUT_S)
        length = _HEADER.size + _IFADDRMSG.size
        header = _HEADER.pack(length, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
        asker.sendto(header + _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0), (0, 0))
        while True:
            for kind, flags, body in _messages(asker.recv(_RECEIVE_BYTES)):
                if flags & _NLM_F_DUMP_INTR:
                    return None
                if kind == _NLMSG_DONE:
                    return tuple(found)
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel refused the dump of addresses")
                if kind == _RTM_NEWADDR:
                    found.extend(_address(body))


def _address(body: bytes) -> Iterator[InterfaceAddress]:
    _, _, _, scope, index = _IFADDRMSG.unpack_from(body)
    if scope >= _RT_SCOPE_LINK:
        return
    attributes = dict(_attributes(body[_IFADDRMSG.size :]))
    # On a point-to-point link ADDRESS is the other end and LOCAL this one.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if packed is not None:
        yield InterfaceAddress(socket.if_indextoname(index), str(ip_address(packed)))


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
