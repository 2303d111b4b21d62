"""What hostdevd asks rtnetlink: which addresses there are, who else receives at a card, and to be told of changes.

Own code and not pyroute2: that takes a third of a second to import and an event loop for each socket, for
two dumps and for messages whose content hardly matters.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from hostdevd.host.sysfs import HostTree, Unreadable

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, interface index
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, interface index, flags, change
_NDMSG = struct.Struct("=B3xiHBB")  # family, interface index, state, flags, type
_IFREQ = struct.Struct("@16si20x")  # an interface's name, and its index
_SIOCGIFINDEX = 0x8933
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NO_ERROR = bytes(4)  # what a dump's end says, or nothing
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x001, 0x300, 0x010
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NDA_LLADDR = 2
_NTF_SELF = 0x02
_GROUP_BIT = 0x01  # of an Ethernet address's first byte: to many
_RT_SCOPE_LINK = 253
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, and address and route of both families
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_S = 5
_TRIES = 3


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address on an interface, both as text: one that reaches beyond the link, or an Ethernet one."""

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


class Netlink:
    """Questions about this process's network namespace, each answered anew."""

    def addresses(self) -> tuple[InterfaceAddress, ...]:
        """Every address of wider than link scope; `Unreadable`."""
        with _asking("the addresses") as asker:
            bodies = _dump(asker, _RTM_GETADDR, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0), _RTM_NEWADDR)
            return tuple(found for body in bodies for found in _address(body))

    def receivers(self, interfaces: Iterable[str]) -> tuple[InterfaceAddress, ...]:
        """The Ethernet addresses that these interfaces receive for besides their own; `Unreadable`.

        A macvlan gives its address to the interface below, wherever it is itself: of one in a container's network
        namespace this is all that can be seen. What `bridge fdb show dev eth0` shows as `self`; an interface that is
        gone has none.
        """
        with _asking("the addresses that interfaces receive for") as asker:
            return tuple(found for name in interfaces for found in _receivers(asker, name))


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


@contextmanager
def _asking(what: str) -> Iterator[socket.socket]:
    """A socket for dumps; whatever goes wrong is `Unreadable`."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asker:
            # By the kernel: Python's own limit is one more system call for each answer, and the answers are many.
            asker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _TIMEOUT_S, 0))
            yield asker
    except (OSError, struct.error, ValueError) as error:
        raise Unreadable("rtnetlink", f"{what}: {error}") from error


def _dump(asker: socket.socket, request: int, question: bytes, answer: int) -> list[bytes]:
    """The bodies of the answers to one question; OSError where the kernel refuses, or never holds still."""
    for _ in range(_TRIES):
        header = _HEADER.pack(_HEADER.size + len(question), request, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
        asker.sendto(header + question, (0, 0))
        found = _answers(asker, answer)
        if found is not None:
            return found
    raise OSError("they change faster than they can be read")


def _answers(asker: socket.socket, answer: int) -> list[bytes] | None:
    """One dump, to its end; None when the table changed under it."""
    found: list[bytes] = []
    whole = True
    while True:
        for kind, flags, body in _messages(asker.recv(_RECEIVE_BYTES)):
            whole = whole and not flags & _NLM_F_DUMP_INTR
            if kind == _NLMSG_ERROR or (kind == _NLMSG_DONE and body[:4] > _NO_ERROR):
                raise OSError("the kernel refused the dump")
            if kind == _NLMSG_DONE:
                return found if whole else None
            if kind == answer:
                found.append(body)


def _index(asker: socket.socket, interface: str) -> int | None:
    """As `socket.if_nametoindex`, without opening another socket for each; None when it is gone."""
    try:
        told = fcntl.ioctl(asker, _SIOCGIFINDEX, _IFREQ.pack(interface.encode(), 0))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
    return int(_IFREQ.unpack(told)[1])


def _receivers(asker: socket.socket, interface: str) -> Iterator[InterfaceAddress]:
    index = _index(asker, interface)
    if index is None:
        return
    # By the older of two kinds of question, which every kernel understands: with an index, only of that one.
    for body in _dump(asker, _RTM_GETNEIGH, _IFINFOMSG.pack(socket.AF_BRIDGE, 0, index, 0, 0), _RTM_NEWNEIGH):
        _, of, _, flags, _ = _NDMSG.unpack_from(body)
        address = dict(_attributes(body[_NDMSG.size :])).get(_NDA_LLADDR, b"")
        if of == index and flags & _NTF_SELF and address and not address[0] & _GROUP_BIT:
            yield InterfaceAddress(interface, address.hex(":"))


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
