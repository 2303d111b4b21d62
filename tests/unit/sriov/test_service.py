"""The helper's socket: who may ask, and what is no request."""

from __future__ import annotations

import os
import pwd
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.ports import FunctionCounts, FunctionsError, FunctionsFault
from hostdevd.host.running import RunningHost
from hostdevd.host.sriov import SriovHelper
from hostdevd.host.sysfs import HostTree
from hostdevd.sriov import service
from hostdevd.sriov.messages import MAX_LINE_BYTES, Answer, Outcome, Request
from hostdevd.sriov.service import Service, StartError, allowed_uids, inherited
from unit.sriov.test_function import device

PF = "0000:0b:00.0"
OURS = frozenset({os.getuid()})


@contextmanager
def serving(directory: Path, uids: frozenset[int] = OURS) -> Iterator[Path]:
    """The helper on a thread, over a sysfs of files with one function that can have four."""
    sysfs = directory / "sys"
    if not sysfs.exists():
        device(sysfs, PF, sriov_totalvfs="4\n", sriov_numvfs="0\n")
    path = directory / "sriov.sock"
    stop, woken = socket.socketpair()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, stop, woken:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=Service(listener, uids, sysfs).serve, args=(30.0, stop.fileno()))
        thread.start()
        try:
            yield path
        finally:
            woken.send(b"x")
            thread.join()


def ask(path: Path, sent: bytes, *, ends: bool = False) -> Answer:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, peer.makefile("rb") as answers:
        peer.settimeout(10.0)
        peer.connect(str(path))
        peer.sendall(sent)
        if ends:
            peer.shutdown(socket.SHUT_WR)
        return Answer.read(answers.readline())


def test_a_number_is_written(tmp_path: Path) -> None:
    with serving(tmp_path) as path:
        assert ask(path, Request(PF, 4).line()) == Answer(Outcome.DONE, count=4)
    assert (tmp_path / "sys/bus/pci/devices" / PF / "sriov_numvfs").read_text().strip() == "4"


def test_another_user_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, frozenset({os.getuid() + 1})) as path:
        answer = ask(path, Request(PF, 4).line())
    assert answer.outcome is Outcome.NOT_ALLOWED
    assert str(os.getuid()) in answer.message
    assert (tmp_path / "sys/bus/pci/devices" / PF / "sriov_numvfs").read_text() == "0\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"device": "0000:0b:00.0"}\n',
        b'{"device": "0000:0b:00.0", "count": "4"}\n',
        b'{"device": "0000:0b:00.0", "count": true}\n',
        b'{"device": "0000:0b:00.0", "count": 1.0}\n',
        b'{"device": ["0000:0b:00.0"], "count": 1}\n',
        b'{"device": "0000:0b:00.0", "count": 4, "path": "/etc"}\n',
        b'{"device": "0000:0b:00.0", "count": -1}\n',
        b'{"device": "../0000:0b:00.0", "count": 4}\n',
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
        b"x" * (MAX_LINE_BYTES + 1),
    ],
)
def test_what_is_no_request_is_refused_and_the_next_one_served(tmp_path: Path, sent: bytes) -> None:
    with serving(tmp_path) as path:
        assert ask(path, sent).outcome is Outcome.INVALID
        assert ask(path, Request(PF, 0).line()).outcome is Outcome.DONE


def test_a_peer_that_goes_or_says_nothing_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ASK_S", 0.05)
    with serving(tmp_path) as path:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.connect(str(path))
        assert ask(path, b"", ends=True).outcome is Outcome.INVALID
        assert ask(path, b'{"device"').outcome is Outcome.INVALID
        assert ask(path, Request(PF, 1).line()).outcome is Outcome.DONE


def test_root_and_hostdevds_user_may_ask() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    assert allowed_uids(name) == {0, os.getuid()}
    assert allowed_uids("no-such-user-of-ours") == {0}


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_PID": "7"}]
)
def test_without_systemds_socket_it_does_not_start(environment: dict[str, str]) -> None:
    with pytest.raises(StartError, match=r"hostdevd-sriov\.socket"):
        inherited(environment, 7)


# --- hostdevd's side of it -------------------------------------------------------------------------------


def helper(tmp_path: Path, path: Path) -> SriovHelper:
    """Reads the same sysfs; that it is not the running host's is what a recorded tree would be told by."""
    made = SriovHelper(HostTree(tmp_path), path)
    made._tree = Live(tmp_path)
    return made


class Live(HostTree):
    live = True


ADDRESS = PciAddress.parse(PF)


async def fault_of(made: SriovHelper, count: int = 1) -> FunctionsError:
    with pytest.raises(FunctionsError) as caught:
        await made.set(ADDRESS, count)
    return caught.value


async def test_it_asks_and_reads_what_came_of_it(tmp_path: Path) -> None:
    with serving(tmp_path) as path:
        made = helper(tmp_path, path)
        assert await made.counts(ADDRESS) == FunctionCounts(0, 4)
        await made.set(ADDRESS, 3)
        assert await made.counts(ADDRESS) == FunctionCounts(3, 4)
        assert (await fault_of(made, 5)).fault is FunctionsFault.FAILED
        assert await made.counts(PciAddress.parse("0000:01:00.0")) is None


async def test_without_a_helper_it_says_how_to_switch_it_on(tmp_path: Path) -> None:
    error = await fault_of(helper(tmp_path, tmp_path / "none.sock"))
    assert error.fault is FunctionsFault.NO_HELPER
    assert "systemctl enable --now hostdevd-sriov.socket" in error.text


async def test_a_helper_that_serves_others_is_no_helper(tmp_path: Path) -> None:
    with serving(tmp_path, frozenset({os.getuid() + 1})) as path:
        assert (await fault_of(helper(tmp_path, path))).fault is FunctionsFault.NOT_ALLOWED


@pytest.mark.parametrize(
    "said", [b"", b"nonsense\n", b'{"outcome": "MAYBE", "message": "", "count": 1}\n', b"x" * 5000]
)
async def test_a_helper_that_dies_or_talks_nonsense_failed(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "sriov.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(MAX_LINE_BYTES)
                peer.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        error = await fault_of(helper(tmp_path, path))
        thread.join()
    assert error.fault is FunctionsFault.FAILED
    assert "gave no answer" in error.text


async def test_a_recorded_host_does_not_change_the_running_one(tmp_path: Path) -> None:
    with serving(tmp_path) as path, pytest.raises(FunctionsError) as caught:
        await RunningHost(tmp_path, path).set_functions(ADDRESS, 1)
    assert caught.value.fault is FunctionsFault.NO_HELPER
