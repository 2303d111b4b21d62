"""Lists with --watch, completion from the server, and tables on narrow terminals: hostdevctl as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import pytest

from hostdev import HostdevApiError, HostdevClient, Patience
from hostdev.cli.follow import Rows, follow_rows
from hostdev.cli.output import Output
from hostdev.cli.session import Session
from hostdev.v1 import assignment_pb2, service_pb2
from hostdev.v1.service_pb2 import WatchHoldersRequest
from unit.client import fake_host
from unit.client.fake_host import ASSIGNMENT, GPU, NIC, SOUND
from unit.client.fake_server import FakeHostdevd, Refused, error_info
from unit.client.test_cli_process import HOSTDEVCTL, environment, on_a_terminal
from unit.client.test_watch import bookmark, silent

__all__ = ["environment"]  # the fixture


def test_assignments_with_watch_tell_every_change(server: FakeHostdevd, environment: dict[str, str]) -> None:
    looked_again = threading.Event()

    def changing(
        request: WatchHoldersRequest, context: grpc.ServicerContext
    ) -> Iterator[service_pb2.WatchHoldersResponse]:
        server.assignments = [fake_host.assignment(assignment_pb2.ASSIGNMENT_STATE_DETACHED)]
        yield bookmark("t1")
        looked_again.wait(20)
        server.assignments = []
        yield from silent(bookmark("t2"))(request, context)

    server.watches = [changing]
    with subprocess.Popen(
        [*HOSTDEVCTL, "assignments", "--watch"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            first, second = process.stdout.readline(), process.stdout.readline()
            looked_again.set()
            third = process.stdout.readline()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert first.rstrip() == f"=  {ASSIGNMENT}  web  ATTACHED  live+config  {GPU} {SOUND}"
    assert second.rstrip() == f"+  {ASSIGNMENT}  web  DETACHED  -  {GPU} {SOUND}"
    assert third.rstrip() == f"-  {ASSIGNMENT}  web  DETACHED  -  {GPU} {SOUND}"


@pytest.mark.parametrize(("command", "first"), [("eligible", GPU), ("groups", fake_host.GPU_GROUP)])
def test_other_lists_with_watch_begin_with_what_is_there(environment: dict[str, str], command: str, first: str) -> None:
    # The fake refuses the watch of devices after its first message: the list has been told until then.
    ended = subprocess.run(
        [*HOSTDEVCTL, "-o", "json", command, "--watch"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert told[0]["kind"] == "CHANGE_KIND_UPSERT"
    assert first in json.dumps(told[0]["item"])
    assert (ended.returncode, ended.stderr) == (1, "hostdevctl: NOT_ALLOWED: no more\n")


@pytest.mark.parametrize(
    "refusal",
    [
        Refused(grpc.StatusCode.UNAVAILABLE, "restarting", error_info("SHUTTING_DOWN")),
        Refused(grpc.StatusCode.CANCELLED, "reset"),
        Refused(grpc.StatusCode.OUT_OF_RANGE, "too old", error_info("REVISION_COMPACTED")),
    ],
    ids=lambda refusal: refusal.code.name,
)
def test_a_list_that_fails_between_two_messages_is_asked_for_again(
    server: FakeHostdevd, client: HostdevClient, capsys: pytest.CaptureFixture[str], refusal: Refused
) -> None:
    def restart(_: str) -> Iterator[service_pb2.WatchHoldersResponse]:
        server.assignments = [fake_host.assignment(assignment_pb2.ASSIGNMENT_STATE_DETACHED)]
        server.refusals["ListAssignments"] = refusal
        yield bookmark("t1")

    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            server.refusals.clear()

    rows = Rows(client.list_assignments, lambda one: one.name, lambda one: str(one.state))
    follow_rows(Session(client, Output.NAME), rows, restart, Patience(pause=pause, jitter=lambda: 1.0))
    shown = capsys.readouterr()
    assert shown.out == f"{ASSIGNMENT}\n" * 2
    assert pauses == [0.25, 0.5]
    assert shown.err.startswith("hostdevctl: the watch was interrupted (")
    assert len(shown.err.splitlines()) == 2


def test_a_list_that_is_refused_for_good_ends_the_watch(server: FakeHostdevd, client: HostdevClient) -> None:
    def refused(_: str) -> Iterator[service_pb2.WatchHoldersResponse]:
        server.refusals["ListAssignments"] = Refused(grpc.StatusCode.PERMISSION_DENIED, "no", error_info("NOT_ALLOWED"))
        yield bookmark("t1")

    rows = Rows(client.list_assignments, lambda one: one.name, lambda one: str(one.state))
    with pytest.raises(HostdevApiError, match="NOT_ALLOWED"):
        follow_rows(Session(client, Output.NAME), rows, refused)


def completed(environment: dict[str, str], words: str) -> list[str]:
    asked = {**environment, "_HOSTDEVCTL_COMPLETE": "complete_bash", "COMP_WORDS": f"hostdevctl {words}"}
    asked["COMP_CWORD"] = str(len(words.split(" ")))
    ended = subprocess.run(HOSTDEVCTL, env=asked, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("device pci_0000_01", [GPU, SOUND]),
        ("attach we", ["web"]),
        ("forget 1111", [ASSIGNMENT]),
        ("group grp-", [fake_host.GPU_GROUP]),
        ("holders --device pci_0000_02", [NIC]),
    ],
)
def test_names_are_completed_from_the_server(environment: dict[str, str], words: str, expected: list[str]) -> None:
    assert completed(environment, words) == expected


def test_global_options_after_the_command_count_for_completion_too(
    server: FakeHostdevd, environment: dict[str, str]
) -> None:
    elsewhere = {**environment, "HOSTDEV_ADDRESS": "unix:/nonexistent"}
    scheme, _, path = server.address.partition(":")
    assert completed(elsewhere, f"detach web --address {scheme} : {path} pci_0000_01") == [GPU, SOUND]
    asked = {
        **elsewhere,
        "_HOSTDEVCTL_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": f"hostdevctl attach --address {server.address} ",
    }
    assert '"web"' in subprocess.run(HOSTDEVCTL, env=asked, capture_output=True, text=True, check=False).stdout


def test_without_a_server_nothing_is_offered(environment: dict[str, str]) -> None:
    assert completed({**environment, "HOSTDEV_ADDRESS": "unix:/nonexistent"}, "device pci") == []
    assert completed({**environment, "HOSTDEV_ADDRESS": "nonsense"}, "device pci") == []


def test_a_narrow_terminal_gets_a_paragraph_for_each_row(environment: dict[str, str]) -> None:
    status, shown = on_a_terminal(["holders"], {**environment, "COLUMNS": "60", "NO_COLOR": "1"})
    lines = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in shown.splitlines()]
    assert (status, lines[0]) == (0, NIC)
    assert lines[1].startswith("    vm web  state running")
    assert all(len(line) <= 60 for line in lines)
    wide = on_a_terminal(["holders"], {**environment, "COLUMNS": "200", "NO_COLOR": "1"})[1]
    assert re.sub(r"\x1b\[\d*m", "", wide).split()[:2] == ["DEVICE", "VM"]


def test_the_start_imports_nothing_that_only_few_runs_need() -> None:
    loaded = "import sys, hostdev.cli.app; print(*sys.modules)"
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    modules = subprocess.run(
        [sys.executable, "-c", loaded], env=path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"importlib.metadata", "hostdev.aio", "rich.markdown", "rich.progress"} & set(modules)
