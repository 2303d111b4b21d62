"""What each of libvirt's failures means to the port."""

from __future__ import annotations

import ast
import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import hostdevd
from hostdevd.core.ports import HypervisorBusy, HypervisorError, HypervisorGone, NoSuchObject
from hostdevd.virt.threads import Overdue, Threads
from rpc.conftest import Connect

libvirt = pytest.importorskip("libvirt")
calls = pytest.importorskip("hostdevd.virt.calls")
denials = pytest.importorskip("hostdevd.virt.denials")


class Handle:
    """A connection that fails as it is told."""

    def __init__(self, code: int, text: str, alive: int = 1, domain: int = 0, number: int = 0) -> None:
        self.error = libvirt.libvirtError(text)
        self.error.err = (code, domain, text, 2, "", "", "", number, 0)
        self.alive = alive

    def isAlive(self) -> int:  # noqa: N802  libvirt's name
        return self.alive

    def fail(self) -> NoReturn:
        raise self.error


@pytest.mark.parametrize(
    ("handle", "meaning"),
    [
        (Handle(libvirt.VIR_ERR_NO_DOMAIN, "Domain not found"), NoSuchObject),
        (Handle(libvirt.VIR_ERR_NO_NODE_DEVICE, "Node device not found"), NoSuchObject),
        (Handle(libvirt.VIR_ERR_DEVICE_MISSING, "no device found with alias"), NoSuchObject),
        (Handle(libvirt.VIR_ERR_OPERATION_TIMEOUT, "Timed out: cannot acquire state change lock"), HypervisorBusy),
        # Timed out elsewhere: something may have been done.
        (Handle(libvirt.VIR_ERR_OPERATION_TIMEOUT, "Timed out: no answer of the monitor"), HypervisorError),
        (Handle(libvirt.VIR_ERR_OPERATION_FAILED, "group 7 is not viable"), HypervisorError),
        # The connection decides, whatever the code says.
        (Handle(libvirt.VIR_ERR_NO_DOMAIN, "Domain not found", alive=0), HypervisorGone),
        (Handle(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed", alive=0), HypervisorGone),
    ],
)
def test_meaning(handle: Any, meaning: type[HypervisorError]) -> None:
    with pytest.raises(HypervisorError) as failure:
        calls.Link(handle, calls.CallCounter()).call(handle.fail)
    assert failure.type is meaning
    assert failure.value.text == handle.error.get_error_message()


def test_a_call_has_a_limit_while_it_runs_and_a_list_a_longer_one() -> None:
    handle: Any = Handle(libvirt.VIR_ERR_NO_DOMAIN, "Domain not found")
    link = calls.Link(handle, calls.CallCounter())

    def left() -> float:
        assert link.limit is not None
        return float(link.limit) - monotonic()

    def list_left() -> float:
        return left()

    before = monotonic()
    assert 20 < link.call(left) <= 30
    assert 100 < link.call(list_left) <= 120
    assert link.limit is None
    assert before <= link.returned <= monotonic()


def test_what_libvirt_refuses_is_told_until_it_lets_it() -> None:
    handle: Any = Handle(libvirt.VIR_ERR_ACCESS_DENIED, "access denied")
    told = denials.Denials()
    link = calls.Link(handle, calls.CallCounter(), told)
    with pytest.raises(HypervisorError):
        link.call(handle.fail)
    assert told.read() == ("Handle.fail: access denied",)
    handle.error = Handle(libvirt.VIR_ERR_NO_DOMAIN, "Domain not found").error
    with pytest.raises(NoSuchObject):
        link.call(handle.fail)
    assert told.read()  # another failure says nothing of rights
    told.note("Handle.fail", None)
    assert told.read() == ()
    told.note("open", Handle(libvirt.VIR_ERR_AUTH_UNAVAILABLE, "no agent").error)
    assert told.read() == ("open (needs org.libvirt.unix.manage or org.libvirt.api.connect.getattr): no agent",)


@pytest.mark.parametrize(("number", "absent"), [(errno.ENOENT, True), (errno.ECONNREFUSED, False)])
def test_a_modular_daemon_that_is_not_installed_is_told_from_one_that_is_down(number: int, *, absent: bool) -> None:
    text = "Failed to connect socket to '/var/run/libvirt/virtnetworkd-sock'"
    handle: Any = Handle(libvirt.VIR_ERR_SYSTEM_ERROR, text, domain=libvirt.VIR_FROM_RPC, number=number)
    with pytest.raises(HypervisorError) as failure:
        calls.Link(handle, calls.CallCounter()).call(handle.fail)
    assert isinstance(failure.value, calls.NoDaemon) is absent


RPC = libvirt.VIR_FROM_RPC


@pytest.mark.parametrize(
    ("handle", "gone"),
    [
        (Handle(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed", domain=RPC, number=-1), True),
        # It died while the call was under way.
        (Handle(libvirt.VIR_ERR_SYSTEM_ERROR, "End of file while reading data", domain=RPC, number=errno.EIO), True),
        (Handle(libvirt.VIR_ERR_SYSTEM_ERROR, "Cannot write data", domain=RPC, number=errno.EPIPE), True),
        # It cannot be reached now: the daemon tries again at the next call.
        (Handle(libvirt.VIR_ERR_SYSTEM_ERROR, "Failed to connect", domain=RPC, number=errno.ECONNREFUSED), False),
        # The same codes of a driver's own.
        (Handle(libvirt.VIR_ERR_INTERNAL_ERROR, "unable to execute QEMU command", domain=10), False),
        (Handle(libvirt.VIR_ERR_SYSTEM_ERROR, "Input/output error", domain=10, number=errno.EIO), False),
    ],
)
def test_a_daemon_behind_the_one_that_answers_is_lost_for_good(handle: Any, *, gone: bool) -> None:
    link, told = calls.Link(handle, calls.CallCounter()), list[str]()
    link.on_broken = told.append
    with pytest.raises(HypervisorError) as failure:
        link.call(handle.fail)
    assert isinstance(failure.value, HypervisorGone) is gone
    assert told == ([failure.value.text] if gone else [])


def test_a_connection_is_not_closed_under_a_call() -> None:
    closed: list[bool] = []
    handle: Any = SimpleNamespace(close=lambda: closed.append(True), isAlive=lambda: 1)
    link = calls.Link(handle, calls.CallCounter())
    begun, go = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go.wait(30)
        return "done"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(link.call, slow)
        assert begun.wait(30)
        link.close()
        assert closed == []
        with pytest.raises(HypervisorGone):
            link.call(slow)
        go.set()
        assert running.result(30) == "done"
    assert closed == [True]
    link.close()
    assert closed == [True]


async def test_a_job_that_was_given_up_begins_no_further_call() -> None:
    """Its caller has taken it for failed and rolled back: an attach that came later would lose the device."""
    handle: Any = SimpleNamespace(close=lambda: None, isAlive=lambda: 1)
    link, threads = calls.Link(handle, calls.CallCounter()), Threads("t", 1)
    begun, go = threading.Event(), threading.Event()
    attached: list[str] = []

    def look_up() -> None:
        begun.set()
        assert go.wait(30)

    def job() -> None:
        link.call(look_up)
        link.call(attached.append, "late")

    with pytest.raises(Overdue):
        await threads.run(job, 0.05)
    assert begun.is_set()
    go.set()
    assert await threads.close(30)
    assert attached == []


async def test_a_change_that_hangs_takes_one_connection_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr("hostdevd.virt.connection.MUTATION_TIMEOUT_S", 0.2)
    go = threading.Event()
    used: list[Any] = []

    async with connect("test:///default") as (port, _):
        connection = port._connection

        def hang(link: Any) -> None:
            used.append(link)
            link.call(go.wait, 30)

        with pytest.raises(HypervisorGone):
            await connection.mutate(hang)
        for _ in range(5):
            await connection.mutate(used.append)
        assert used[0] not in used[1:]
        go.set()


def test_calls_are_counted_by_name_also_when_they_fail() -> None:
    handle: Any = Handle(1, "x")
    counter = calls.CallCounter()
    with pytest.raises(HypervisorError):
        calls.Link(handle, counter).call(handle.fail)
    assert counter.read() == {"Handle.fail": 1}


def test_only_one_file_catches_libvirts_error() -> None:
    root = Path(hostdevd.__file__).parent
    catching = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and node.type is not None and "libvirtError" in ast.unparse(node.type)
    }
    assert catching == {"virt/calls.py"}
