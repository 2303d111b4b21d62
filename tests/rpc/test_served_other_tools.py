"""What virsh does to domains arrives at a watcher, at once where libvirt tells of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from api import eventually

from hostdev.v1 import holder_pb2
from rpc.nodefiles import vm, vm_uuid
from rpc.served import SOURCES, Follower, serving

if TYPE_CHECKING:
    from rpc.conftest import Daemon

Held = set[tuple[str, str, bool, bool]] | None
"""The VM's name and state, live, config; None: whatever it was, nothing is told."""

OFF: Held = {("vm0", "SHUT_OFF", False, True)}
RUNNING: Held = {("vm0", "RUNNING", True, True)}
PAUSED: Held = {("vm0", "PAUSED", True, True)}

STEPS: tuple[tuple[str, Held], ...] = (
    ("define FILE", OFF),
    ("domrename vm0 vm1", {("vm1", "SHUT_OFF", False, True)}),
    ("domrename vm1 vm0", OFF),
    ("start vm0", RUNNING),
    ("suspend vm0", PAUSED),
    ("resume vm0", RUNNING),
    ("managedsave vm0", OFF),
    ("start vm0", RUNNING),
    ("undefine vm0", {("vm0", "RUNNING", True, False)}),
    ("define FILE", RUNNING),
    ("dump --crash vm0 DUMP", OFF),
    ("start vm0", RUNNING),
    ("save vm0 DUMP", OFF),
    ("start vm0", RUNNING),
    ("destroy vm0", OFF),
    ("undefine vm0", set()),
    ("create FILE", {("vm0", "RUNNING", True, False)}),
    ("destroy vm0", set()),
)


@pytest.fixture
def scratch(daemon: Daemon) -> Path:
    """A directory that the daemon's user may write to."""
    return Path(daemon.root / "data")


def test_every_action_of_virsh_is_seen(daemon: Daemon, scratch: Path, tmp_path: Path) -> None:
    file = tmp_path / "vm.xml"
    file.write_text(vm(0, [1]), encoding="utf-8")

    def virsh(command: str) -> None:
        words = [{"FILE": str(file), "DUMP": str(scratch / "dump")}.get(word, word) for word in command.split()]
        done = subprocess.run(["virsh", "-q", "-c", daemon.uri(), *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)

    with serving(daemon.uri(), tmp_path) as service:
        service.wait(serving=True)
        follower = service.follow_holders()
        eventually(lambda: len(follower.synced), bool)
        for command, expected in STEPS:
            seen = len(follower.changes)
            virsh(command)
            eventually(lambda: _held(follower), lambda now, wanted=expected: now == wanted)  # type: ignore[misc]
            sources = {SOURCES[source] for source, _ in follower.changes[seen:]}
            assert sources == {"CHANGE_SOURCE_EVENT"}, command
        assert service.holders() == follower.items == {}


def _held(follower: Follower) -> Held:
    state = holder_pb2.VmState.Name
    return {
        (one.vm.name, state(one.vm.state).removeprefix("VM_STATE_"), one.live, one.config)
        for one in list(follower.items.values())
        if one.vm.uuid == vm_uuid(0)
    }
