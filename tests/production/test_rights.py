"""What polkit lets the service ask of a real libvirtd, and what becomes of it without."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from api import eventually, refused
from google.protobuf.json_format import MessageToDict
from hosts import UNIT, LabHost
from readiness import in_step

from hostdev.v1 import service_pb2
from production.systemctl import shown, systemctl

RULES = Path("/usr/share/polkit-1/rules.d/50-hostdevd.rules")
POOL = "<pool type='dir'><name>mine</name><target><path>/var/lib/hostdevd</path></target></pool>"
NETWORK = "<network><name>mine</name></network>"


@contextmanager
def rules(text: str | None) -> Iterator[None]:
    """Other rules, or none, in force for the service from its start; its own again afterwards."""
    own = RULES.read_text()
    try:
        _put(text)
        yield
    finally:
        _put(own)


def _put(text: str | None) -> None:
    if text is None:
        RULES.unlink()
    else:
        RULES.write_text(text)
    # A libvirtd that has let somebody in does not ask again.
    systemctl("restart", "polkit.service", UNIT)


def failed(lab: LabHost) -> dict[str, str]:
    host = lab.api.stub.GetHost(service_pb2.GetHostRequest(), timeout=60).host
    checks = MessageToDict(host)["checks"]
    return {
        check["code"].removeprefix("HOST_CHECK_CODE_"): f"{check['message']} -> {check['remedy']}"
        for check in checks
        if check["status"].endswith("FAIL")
    }


def as_the_service(*arguments: str) -> subprocess.CompletedProcess[str]:
    """virsh as the service's user; an argument that is a definition is given as a file."""
    # Not by /dev/stdin: to open that anew needs a right on the pipe, which is root's.
    with NamedTemporaryFile("w", suffix=".xml") as file:
        given = [file.name if argument.startswith("<") else argument for argument in arguments]
        file.write(next((argument for argument in arguments if argument.startswith("<")), ""))
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        # It has no home, where virsh would keep its history.
        command = ["runuser", "--user", "hostdevd", "--", "env", "HOME=/tmp", "virsh", "-c", "qemu:///system", *given]
        return subprocess.run(command, check=False, capture_output=True, text=True)


def test_without_its_rules_it_says_what_it_may_not(lab: LabHost) -> None:
    nic = lab.roles["nic_single"]
    with rules(None):
        eventually(lambda: shown("StatusText"), lambda text: "org.libvirt.unix.manage" in text)
        with refused("LIBVIRT_DISCONNECTED") as errors:
            lab.api.attach("alpha", nic)
        assert "org.libvirt.unix.manage" in str(errors[0])
    in_step(lab.api)
    assert failed(lab) == {}


def test_without_the_right_to_change_a_domain_an_attach_is_refused_and_says_which(lab: LabHost) -> None:
    nic = lab.roles["nic_single"]
    driver = lab.api.driver(nic)
    lines = RULES.read_text().splitlines(keepends=True)
    with rules("".join(line for line in lines if '"api.domain.write"' not in line)):
        in_step(lab.api)
        assert failed(lab) == {}
        with refused("ATTACH_FAILED") as errors:
            lab.api.attach("alpha", nic)
        assert "access denied" in str(errors[0])
        assert lab.api.driver(nic) == driver
        told = failed(lab)
        assert set(told) == {"PERMISSIONS"}
        assert "org.libvirt.api.domain.write" in told["PERMISSIONS"]
        assert "50-hostdevd.rules" in told["PERMISSIONS"]
    in_step(lab.api)
    assert failed(lab) == {}


def test_what_it_needs_it_may() -> None:
    for arguments in (("list", "--all"), ("nodedev-list",), ("net-list",), ("dumpxml", "alpha"), ("capabilities",)):
        done = as_the_service(*arguments)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("destroy", "alpha"),
        ("shutdown", "alpha"),
        ("suspend", "alpha"),
        ("start", "spare"),
        ("undefine", "spare"),
        ("save", "alpha", "/var/lib/hostdevd/alpha"),
        ("screenshot", "alpha", "/var/lib/hostdevd/alpha"),
        ("dump", "alpha", "/var/lib/hostdevd/alpha"),
        ("snapshot-create", "alpha"),
        ("dumpxml", "alpha", "--security-info"),
        ("pool-define", POOL),
        ("pool-list",),
        ("net-define", NETWORK),
        ("secret-list",),
        ("nwfilter-list",),
        ("iface-list",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_it_may_not_do_anything_else(arguments: tuple[str, ...]) -> None:
    done = as_the_service(*arguments)
    assert done.returncode != 0, done.stdout
    assert "access denied" in done.stderr, done.stderr
