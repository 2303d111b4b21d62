"""The service as a process on a bad day: it lives, says what is wrong, and is as before when the day is over."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from api import Api, eventually
from google.protobuf.duration_pb2 import Duration

from cli.test_state_directory import Service
from cli.test_state_directory import running as with_room
from hostdev.v1 import assignment_pb2, service_pb2
from property.test_sigkill import GROUP, SETTLED, open_steps, serving, steps_begun

NATIVE, VFIO = ["e1000e"] * 2, ["vfio-pci"] * 2
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  quick


def memory_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def processor_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


# --- full disk ----------------------------------------------------------------------------------------


def attach_and_return(api: Any, device: str = GROUP[0]) -> str:
    """Begin an attach; it is written, and goes on."""
    request = service_pb2.AttachRequest(vm="alpha", device=device, wait=Duration())
    return str(api.Attach(request).assignment.name)


def settled(stub: Any, name: str) -> assignment_pb2.Assignment:
    get = service_pb2.GetAssignmentRequest(name=name)
    found: assignment_pb2.Assignment = eventually(
        lambda: stub.GetAssignment(get).assignment, lambda one: one.state in SETTLED, 60
    )
    return found


def drivers(stub: Any) -> list[str]:
    return [stub.GetDevice(service_pb2.GetDeviceRequest(device=name)).device.driver for name in GROUP]


@pytest.mark.timeout(300)
def test_a_disk_that_fills_in_the_middle_of_an_attach_leaves_all_or_nothing(tmp_path: Path) -> None:
    """Not one byte more can be written from some moment of the attach on, another one each time."""
    outcomes = set()
    with with_room(tmp_path) as service:
        for moment_s in (0.0, 0.01, 0.03, 0.15):
            name = attach_and_return(service.stub)
            time.sleep(moment_s)
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            state = settled(service.stub, name).state  # reads go on, and tell what has become of it
            outcomes.add(state)
            whole = state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED
            assert drivers(service.stub) == (VFIO if whole else NATIVE), moment_s
            if not whole:
                assert service.state_check()[0] == "FAIL", moment_s
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, UNLIMITED)
            service.until_passes()
            if whole:
                service.stub.Detach(service_pb2.DetachRequest(assignment=name))
                assert drivers(service.stub) == NATIVE
        assert assignment_pb2.ASSIGNMENT_STATE_FAILED in outcomes, "the disk was never full in time"
        # The simulated host keeps itself on that disk, too: once more, now that there is room.
        name = service.stub.Attach(service_pb2.AttachRequest(vm="alpha", device="pci_0000_01_00_0")).assignment.name
        service.stub.Detach(service_pb2.DetachRequest(assignment=name))
        before = _records(service)
        eventually(lambda: open_steps(tmp_path / "state" / "state.sqlite"), lambda number: number == 0, 30)
        service.process.kill()
        service.process.wait()
    with with_room(tmp_path) as service:
        # What the disk did not take then, it has now.
        eventually(lambda: _records(service), lambda now: now == before, 30)
        assert drivers(service.stub) == NATIVE


def _records(service: Service) -> dict[str, int]:
    found = service.stub.ListAssignments(service_pb2.ListAssignmentsRequest()).assignments
    return {one.name: one.state for one in found}


def fill(stub: Any) -> None:
    """Until what is left of a page is full, too."""
    for _ in range(100):
        done = stub.Attach(service_pb2.AttachRequest(vm="alpha", device="pci_0000_01_00_0"))
        stub.Detach(service_pb2.DetachRequest(assignment=done.assignment.name))


_TMPFS = """
set -e
mount -t tmpfs -o size=8m none "$1"
exec "$2" -m hostdevd serve --simulate --listen "unix:$3" --state-dir "$1/state"
"""


@pytest.mark.timeout(120)
def test_a_file_system_without_room_is_told_and_recovered_from(tmp_path: Path) -> None:
    """The real thing, ENOSPC: a small file system of its own, filled by somebody else."""
    disk, address = tmp_path / "disk", tmp_path / "h.sock"
    disk.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _TMPFS, "sh"]
    command += [str(disk), sys.executable, str(address)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,
        grpc.insecure_channel(f"unix:{address}") as channel,
    ):
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("listening on ")
            service = Service(process, channel)
            eventually(service.serving, bool, 30)
            inside = Path(f"/proc/{process.pid}/root{disk}")
            name = attach_and_return(service.stub)
            with pytest.raises(OSError, match="No space"):
                (inside / "other").write_bytes(bytes(2**24))
            found = settled(service.stub, name)
            whole = found.state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED
            assert drivers(service.stub) == (VFIO if whole else NATIVE)
            with pytest.raises(grpc.RpcError) as refused:
                fill(service.stub)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            status, message, remedy = service.state_check()
            assert status == "FAIL"
            assert "free space" in remedy, message
            (inside / "other").unlink()
            service.until_passes()
            service.stub.Attach(service_pb2.AttachRequest(vm="alpha", device="usb_2_4"))
        finally:
            process.terminate()


# --- out of file descriptors, and out of proportion ------------------------------------------------


def knock(address: Path, said: bytes = b"") -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    try:
        while client.connect_ex(str(address)) == errno.EAGAIN:
            time.sleep(0.001)  # as many wait already as the kernel keeps
        client.sendall(said)
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def simulated(directory: Path) -> Iterator[tuple[int, Api, Path]]:
    with serving(directory) as (process, api):
        yield process.pid, api, directory / "h.sock"
        assert process.poll() is None, "it has died"


@pytest.mark.timeout(120)
def test_out_of_file_descriptors_it_lives_and_answers_who_is_there_and_then_everybody(tmp_path: Path) -> None:
    with simulated(tmp_path) as (pid, api, address), ExitStack() as stack:
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid) + 8, before[1]))
        for _ in range(40):
            stack.callback(knock(address, PREFACE).close)
        time.sleep(0.3)
        used = processor_s(pid)
        time.sleep(3.0)
        assert processor_s(pid) - used < 1.0, "it spins"
        assert api.devices()
        held = api.attach("alpha", GROUP[0])
        assert api.detach(assignment=held.name).state == assignment_pb2.ASSIGNMENT_STATE_DETACHED
        stack.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        with grpc.insecure_channel(f"unix:{address}") as channel:
            request = service_pb2.GetHostRequest()
            assert Api(channel).stub.GetHost(request, timeout=30, wait_for_ready=True).host.name
        assert api.driver(GROUP[0]) == "e1000e"


_BLIND = """
import asyncio, os, pathlib, resource
from hostdevd.host.running import RunningHost

async def main():
    host = RunningHost(pathlib.Path("/"))
    await asyncio.to_thread(int)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    told = await host.uses()
    for one in taken:
        os.close(one)
    print(sorted({kind for kind, _ in told.unknown}))

asyncio.run(main())
"""


def test_out_of_file_descriptors_what_cannot_be_read_of_the_host_is_not_unused() -> None:
    done = subprocess.run([sys.executable, "-c", _BLIND], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "storage" in done.stdout
    assert "net" in done.stdout


@pytest.mark.timeout(120)
def test_a_message_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(tmp_path: Path) -> None:
    with simulated(tmp_path) as (pid, api, address):
        api.devices()
        before = memory_mib(pid)
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(f"unix:{address}", options, compression=grpc.Compression.Gzip) as channel:
            method: Any = channel.unary_unary("/hostdev.v1.HostDeviceService/GetDevice")
            with pytest.raises(grpc.RpcError) as refused:
                method(b"\x12\x80\x80\x80\x20" + bytes(64 * 2**20), timeout=30)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert memory_mib(pid) < before + 32
        assert api.devices()


# --- the end in the middle ------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_client_that_goes_in_the_middle_of_an_attach_leaves_no_half_of_one(tmp_path: Path) -> None:
    name = str(uuid.uuid4())
    with serving(tmp_path) as (_, api):
        with grpc.insecure_channel(f"unix:{tmp_path}/h.sock") as channel:
            request = service_pb2.AttachRequest(vm="alpha", device=GROUP[0], request_id=name)
            call = Api(channel).stub.Attach.future(request)
            eventually(lambda: name in _names(api.stub), bool, 30)
            assert not call.done()
        assert settled(api.stub, name).state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED
        assert drivers(api.stub) == VFIO


def _names(stub: Any) -> set[str]:
    return {one.name for one in stub.ListAssignments(service_pb2.ListAssignmentsRequest()).assignments}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("steps", [1, 4])
def test_sigterm_in_the_middle_of_an_attach_ends_it_or_leaves_it_to_the_next_start(tmp_path: Path, steps: int) -> None:
    database = tmp_path / "state" / "state.sqlite"
    with serving(tmp_path) as (process, api):
        name = attach_and_return(api.stub)
        end = time.monotonic() + 5
        while steps_begun(database, name) < steps and time.monotonic() < end:
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with serving(tmp_path) as (_, api):
        state = settled(api.stub, name).state
        whole = state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED
        assert whole or state == assignment_pb2.ASSIGNMENT_STATE_FAILED
        assert drivers(api.stub) == (VFIO if whole else NATIVE)
        held = {holder.device: (holder.live, holder.config) for holder in api.holders(devices=GROUP)}
        assert held == (dict.fromkeys(GROUP, (True, True)) if whole else {})
        assert open_steps(database) == 0
        if whole:
            api.detach(assignment=name)
        assert drivers(api.stub) == NATIVE
