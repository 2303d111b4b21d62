"""hostdevctl as a process of its own: pipes, signals, terminals, watches, completion."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from hostdev.v1 import service_pb2
from hostdev.v1.service_pb2 import WatchHoldersRequest
from unit.client.fake_host import GPU, NIC, SOUND
from unit.client.fake_server import FakeHostdevd, Refused, error_info
from unit.client.test_watch import batch, bookmark, script, silent, snapshot

HOSTDEVCTL = [sys.executable, "-m", "hostdev.cli"]
CTRL_C = b"\x03"
CLIENTS = Path(__file__).parents[3] / "clients" / "python"


@pytest.fixture
def environment(server: FakeHostdevd) -> dict[str, str]:
    return {
        **os.environ,
        "HOSTDEV_ADDRESS": server.address,
        "PYTHONPATH": str(CLIENTS),
        "TERM": "xterm",
        "COLUMNS": "200",
    }


def on_a_terminal(argv: list[str], environment: dict[str, str], typed: bytes = b"") -> tuple[int, str]:
    """Exit status and all that the terminal shows; `typed`, or Ctrl-C, comes when a question stands there."""
    master, slave = pty.openpty()
    process = subprocess.Popen([*HOSTDEVCTL, *argv], env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    interrupted = False
    while True:
        ready, _, _ = select.select([master], [], [], 5 if interrupted else 60)
        if interrupted and not ready and process.poll() is None:
            process.send_signal(signal.SIGINT)  # the first came after the question and before the reading of the answer
            continue
        try:
            chunk = os.read(master, 65536) if ready else b""
        except OSError:  # the terminal's other end is closed
            chunk = b""
        if not chunk:
            break
        shown += chunk
        if typed and b"[y/N]" in shown:
            if typed == CTRL_C:  # this terminal controls no process that it could signal
                process.send_signal(signal.SIGINT)
                interrupted = True
            else:
                os.write(master, typed)
            typed = b""
    os.close(master)
    return process.wait(10), shown.decode()


def test_a_terminal_gets_colours_and_no_obeyed_escapes(environment: dict[str, str]) -> None:
    status, shown = on_a_terminal(["devices"], environment)
    assert status == 0
    assert "\x1b[32mavailable" in shown
    assert r"Evil\x1b[2JCam" in shown


def test_the_question_shows_the_group_and_takes_yes(server: FakeHostdevd, environment: dict[str, str]) -> None:
    status, shown = on_a_terminal(["attach", "web", GPU], environment, b"y\n")
    assert status == 0, shown
    assert "IOMMU group 14" in shown
    assert f"Take {GPU}, {SOUND} from the host for web? [y/N]" in shown
    assert [request.validate_only for request in server.asked(service_pb2.AttachRequest)] == [True, True, False]


@pytest.mark.parametrize(("typed", "expected"), [(b"\n", 1), (b"n\n", 1), (CTRL_C, 130)])
def test_the_question_takes_no(server: FakeHostdevd, environment: dict[str, str], typed: bytes, expected: int) -> None:
    status, shown = on_a_terminal(["attach", "web", GPU], environment, typed)
    assert "[y/N]" in shown
    assert status == expected
    assert [request.validate_only for request in server.asked(service_pb2.AttachRequest)] == [True]


def test_a_reader_that_goes_away_is_quiet(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*HOSTDEVCTL, "devices"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(10) == 141


def test_watch_prints_changes_as_they_come_and_resumes(server: FakeHostdevd, environment: dict[str, str]) -> None:
    gone = Refused(grpc.StatusCode.UNAVAILABLE, "restarting", error_info("SHUTTING_DOWN"))
    server.watches = [script(snapshot(), bookmark("t1"), then=gone), silent(batch("t2"))]
    with subprocess.Popen(
        [*HOSTDEVCTL, "watch", "holders", "--vm", "web"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"=  {NIC}  web (running, live+config) at 0000:05:00.0\n"
        assert process.stdout.readline().startswith(f"-  {NIC}  web")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        told = process.stderr.read()
    assert told.startswith("hostdevctl: the watch was interrupted (SHUTTING_DOWN: restarting)")
    assert len(told.splitlines()) == 1
    assert [request.resume_token for request in server.asked(WatchHoldersRequest)] == ["", "t1"]


def test_watch_as_json_is_a_line_for_each_message(server: FakeHostdevd, environment: dict[str, str]) -> None:
    server.watches = [silent(bookmark("t6"), batch("t7"))]
    with subprocess.Popen(
        [*HOSTDEVCTL, "-o", "json", "watch", "holders", "--resume", "t5", "--bookmark-interval", "2"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert (first["resumeToken"], first["bookmark"]) == ("t6", {})
    assert second["changeBatch"]["changes"][0]["kind"] == "CHANGE_KIND_REMOVE"
    asked = server.asked(WatchHoldersRequest)[0]
    assert (asked.resume_token, asked.bookmark_interval.seconds) == ("t5", 2)


def test_watch_devices_and_its_refusal(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [*HOSTDEVCTL, "watch", "devices", "--type", "pci"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.startswith(f"=  {GPU}  pci")
    assert (ended.returncode, ended.stderr) == (1, "hostdevctl: NOT_ALLOWED: no more\n")


def test_interrupting_an_attach_says_how_to_join_it(server: FakeHostdevd, environment: dict[str, str]) -> None:
    server.attach_takes_s = 2.0
    with subprocess.Popen(
        [*HOSTDEVCTL, "attach", "web", GPU, "--yes"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while len(server.asked(service_pb2.AttachRequest)) < 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert f"the server goes on. To wait again: hostdevctl attach web {GPU} --expect" in process.stderr.read()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(environment: dict[str, str], shell: str) -> None:
    asked = {**environment, "_HOSTDEVCTL_COMPLETE": f"source_{shell}"}
    ended = subprocess.run(HOSTDEVCTL, env=asked, capture_output=True, text=True, check=True)
    assert "hostdevctl" in ended.stdout


def test_show_completion_knows_its_shell(environment: dict[str, str]) -> None:
    shell = f"{sys.executable} -m hostdev.cli --show-completion; true"
    ended = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True, check=True)
    assert "_HOSTDEVCTL_COMPLETE=complete_bash" in ended.stdout


def test_completion_completes_commands(environment: dict[str, str]) -> None:
    asked = {
        **environment,
        "_HOSTDEVCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "hostdevctl assi",
        "COMP_CWORD": "1",
    }
    ended = subprocess.run(HOSTDEVCTL, env=asked, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["assignments"]
