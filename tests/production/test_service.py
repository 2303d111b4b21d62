"""The service as systemd starts, tells, watches, reloads and ends it."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

from api import eventually
from google.protobuf.json_format import MessageToDict
from hosts import UNIT, UNIT_ADDRESS, LabHost
from libvirtd import kill_libvirtd, start_libvirtd
from readiness import in_step

from hostdev.v1 import service_pb2
from production.systemctl import changed_unit, main_pid, shown, systemctl


def process_status() -> dict[str, str]:
    lines = Path(f"/proc/{main_pid()}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_is_its_own_user_without_any_capability(lab: LabHost) -> None:
    assert lab.api.devices()
    status, user = process_status(), pwd.getpwnam("hostdevd")
    assert set(status["Uid"].split()) == {str(user.pw_uid)} != {"0"}
    assert set(status["Gid"].split()) == {str(user.pw_gid)}
    assert set(status["Groups"].split()) <= {str(user.pw_gid)}
    assert {key: int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_it_sees_all_of_the_host_that_it_needs(lab: LabHost) -> None:
    host = lab.api.stub.GetHost(service_pb2.GetHostRequest(), timeout=60).host
    told = {check["code"].removeprefix("HOST_CHECK_CODE_"): check for check in MessageToDict(host)["checks"]}
    assert {code for code, check in told.items() if not check["status"].endswith("PASS")} == set(), told


def test_its_files_are_its_own(lab: LabHost) -> None:
    assert lab.api.devices()
    path = Path(UNIT_ADDRESS.removeprefix("unix:"))
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o660, pwd.getpwnam("hostdevd").pw_uid)
    assert found.st_gid == grp.getgrnam("hostdevd").gr_gid
    state = Path("/var/lib/hostdevd").stat()
    assert (stat.S_IMODE(state.st_mode), state.st_uid) == (0o700, pwd.getpwnam("hostdevd").pw_uid)
    assert Path("/etc/hostdevd").stat().st_uid == 0


def test_status_follows_libvirt(lab: LabHost) -> None:
    count = len(lab.api.devices())
    eventually(
        lambda: shown("StatusText"),
        lambda text: re.fullmatch(rf"{count:,} devices, \d+ held, libvirt connected", text) is not None,
    )
    kill_libvirtd(lab.api)
    try:
        eventually(lambda: shown("StatusText"), lambda text: "libvirt not connected: " in text)
    finally:
        start_libvirtd()
    in_step(lab.api)
    eventually(lambda: shown("StatusText"), lambda text: text.endswith("libvirt connected"))


def test_a_reload_is_over_when_it_was_read_again(lab: LabHost) -> None:
    before = main_pid()
    systemctl("reload", UNIT)
    eventually(lambda: (shown("ActiveState"), shown("SubState")), lambda state: state == ("active", "running"))
    log = subprocess.run(["journalctl", "--unit", UNIT, "--output", "cat"], check=True, capture_output=True, text=True)
    eventually(lambda: "read again" in log.stdout, bool)
    assert main_pid() == before
    assert lab.api.devices()


def test_an_attachment_outlives_a_restart(lab: LabHost) -> None:
    device = lab.roles["usb_stick"]
    made = lab.api.attach("alpha", device)
    before = main_pid()
    systemctl("restart", UNIT)
    assert main_pid() != before
    in_step(lab.api)
    assert [(one.device, one.assignment) for one in lab.api.holders() if one.device == device] == [(device, made.name)]
    lab.api.detach(assignment=made.name)
    assert shown("Result") == "success"


def test_a_service_that_stands_still_is_started_again(lab: LabHost) -> None:
    with changed_unit("WatchdogSec=10s"):
        in_step(lab.api)
        stuck, since = main_pid(), time.monotonic()
        os.kill(stuck, signal.SIGSTOP)
        eventually(main_pid, lambda pid: pid not in {0, stuck})
        assert time.monotonic() - since > 5
        eventually(lambda: shown("SubState"), lambda state: state == "running")
        in_step(lab.api)
        # It was not stuck in the time before, with all that its start has to do.
        assert shown("NRestarts") == "1"
    in_step(lab.api)
