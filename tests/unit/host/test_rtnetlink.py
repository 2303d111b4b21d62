"""What the kernel answers to a dump, byte by byte; the lab asks a real one about a real macvlan."""

from __future__ import annotations

import socket
import struct
from typing import Self

import pytest

from hostdevd.host.rtnetlink import InterfaceAddress, Netlink
from hostdevd.host.sysfs import Unreadable

NEWNEIGH, ERROR, DONE = 28, 2, 3
CHANGED = 0x010
SOCKET = socket.socket
INDEX = socket.if_nametoindex("lo")  # one that is there on every machine
MAC = bytes.fromhex("0242ac110002")
GROUP = bytes.fromhex("333300000001")


def message(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
    return whole + bytes(-len(whole) % 4)


def receiver(address: bytes, index: int = INDEX, own: int = 2) -> bytes:
    """An entry of the forwarding table as `ndo_dflt_fdb_dump` writes it; `own` is NTF_SELF."""
    attribute = struct.pack("=HH", 4 + len(address), 2) + address + bytes(2)
    return message(NEWNEIGH, struct.pack("=BxxxiHBB", 7, index, 0x80, own, 0) + attribute)


class Scripted:
    """A socket to a kernel that answers in these datagrams."""

    def __init__(self, *datagrams: bytes) -> None:
        self._datagrams = list(datagrams)
        self._real = SOCKET(socket.AF_INET, socket.SOCK_DGRAM)

    def sendto(self, question: bytes, _: object) -> None:
        assert question[:4] == struct.pack("=I", len(question))

    def recv(self, _: int) -> bytes:
        if not self._datagrams:
            raise TimeoutError("timed out")
        return self._datagrams.pop(0)

    def setsockopt(self, *_: object) -> None: ...
    def fileno(self) -> int:
        return self._real.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()


def told(monkeypatch: pytest.MonkeyPatch, *datagrams: bytes) -> tuple[InterfaceAddress, ...]:
    monkeypatch.setattr("hostdevd.host.rtnetlink.socket.socket", lambda *_: Scripted(*datagrams))
    return Netlink().receivers(["lo"])


FOUND = (InterfaceAddress("lo", "02:42:ac:11:00:02"),)


def test_only_what_the_interface_itself_receives_for_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    of_a_bridge, of_another = receiver(MAC, own=4), receiver(MAC, index=INDEX + 1)
    first = receiver(GROUP) + of_a_bridge + of_another
    assert told(monkeypatch, first + message(DONE, bytes(4))) == ()
    assert told(monkeypatch, first + receiver(MAC), message(DONE)) == FOUND


def test_a_table_that_changes_under_the_dump_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torn = message(DONE, bytes(4), CHANGED)
    assert told(monkeypatch, torn, receiver(MAC) + message(DONE)) == FOUND
    with pytest.raises(Unreadable, match="change faster"):
        told(monkeypatch, torn, torn, torn)


@pytest.mark.parametrize("refusal", [message(ERROR, struct.pack("=i", -95)), message(DONE, struct.pack("=i", -1))])
def test_a_refusal_is_no_empty_answer(monkeypatch: pytest.MonkeyPatch, refusal: bytes) -> None:
    with pytest.raises(Unreadable, match="refused"):
        told(monkeypatch, refusal)


def test_a_kernel_that_is_silent_is_no_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreadable, match="timed out"):
        told(monkeypatch, receiver(MAC))


def test_this_machines_own_kernel_answers() -> None:
    netlink = Netlink()
    assert netlink.receivers(["lo", "not-there"]) == ()
    assert all(one.interface for one in netlink.addresses())
