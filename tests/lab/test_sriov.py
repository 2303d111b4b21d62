"""Virtual functions by hostdevd and its root helper, which is started by its socket, on the lab's NVMe.

The suite's service asks where it always does; where that service is systemd's, the helper is too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api import ATTACHED, DETACHED, LONG_S, Api, codes, eventually, refused
from hosts import BY_UNIT, LabHost

from hostdev.v1 import device_pb2, service_pb2
from production.systemctl import systemctl

SRIOV = Path(sys.executable).with_name("hostdevd-sriov")
SRIOV_UNIT = "hostdevd-sriov"
SOCKET = Path("/run/hostdevd-sriov/helper.sock")
PCI = Path("/sys/bus/pci/devices")


@contextmanager
def helper() -> Iterator[Callable[[], None]]:
    """Nothing runs until somebody connects; what it gives ends it by SIGKILL, and nobody answers then."""
    with _helper_unit() if BY_UNIT else _helper_process() as kill:
        yield kill


@contextmanager
def _helper_unit() -> Iterator[Callable[[], None]]:
    def kill() -> None:
        systemctl("kill", "--signal=KILL", SRIOV_UNIT + ".service")
        systemctl("stop", SRIOV_UNIT + ".socket")

    systemctl("start", SRIOV_UNIT + ".socket")
    try:
        yield kill
    finally:
        systemctl("stop", SRIOV_UNIT + ".socket", SRIOV_UNIT + ".service")


@contextmanager
def _helper_process() -> Iterator[Callable[[], None]]:
    """As systemd does it."""
    SOCKET.parent.mkdir(exist_ok=True)
    activate = shutil.which("systemd-socket-activate")
    assert activate is not None
    log = Path(os.environ.get("LAB_OUTPUT", "/tmp")) / "hostdevd-sriov.log"  # noqa: S108  inside the lab
    command = [activate, f"--listen={SOCKET}", str(SRIOV), "--idle", "600"]
    with log.open("a") as errors, subprocess.Popen(command, stderr=errors, text=True) as process:
        try:
            eventually(SOCKET.exists, bool)

            def kill() -> None:
                process.kill()
                process.wait(LONG_S)

            yield kill
        finally:
            process.terminate()
            process.wait(LONG_S)
            SOCKET.unlink(missing_ok=True)


@pytest.fixture
def nvme(lab: LabHost) -> Iterator[str]:
    """The name of a device that can have four functions, and has none before and after."""
    name = lab.roles["nvme_sriov"]
    address = lab.api.device(name).pci.address
    autoprobe = PCI / address / "sriov_drivers_autoprobe"
    # The lab's NVMe gives its functions no queues, so nvme would only wait for them.
    autoprobe.write_text("0")
    try:
        yield name
    finally:
        (PCI / address / "sriov_numvfs").write_text("0")
        autoprobe.write_text("1")


def set_to(api: Api, device: str, count: int) -> device_pb2.Device:
    request = service_pb2.SetVirtualFunctionsRequest(device=device, count=count)
    return api.admin.SetVirtualFunctions(request, timeout=LONG_S).device


def functions(api: Api, pf: device_pb2.Device) -> list[device_pb2.Device]:
    return [one for one in api.devices(types=["pci"]) if one.pci.phys_function.address == pf.pci.address]


def test_four_are_made_one_is_attached_and_none_is_left(lab: LabHost, nvme: str) -> None:
    api, name = lab.api, nvme
    with refused("FEATURE_DISABLED"):
        set_to(api, name, 4)
    with helper():
        pf = set_to(api, name, 4)
        assert len(pf.pci.virt_functions.addresses) == 4
        made = functions(api, pf)
        assert sorted(one.pci.address for one in made) == sorted(pf.pci.virt_functions.addresses)
        assert len({one.iommu_group for one in made}) == 4
        assert all(one.eligibility.available for one in made)
        assert codes(api.device(name).eligibility.reasons) == ["HAS_CHILD_FUNCTIONS"]

        held = made[1]
        assert api.attach("alpha", held.uid).state == ATTACHED
        assert api.driver(held.name) == "vfio-pci"
        for count in (0, 2):
            with refused("VFS_IN_USE") as caught:
                set_to(api, name, count)
            metadata = caught[0].info.metadata
            assert (metadata["functions"], metadata["vm_name"]) == (held.name, "alpha")
            assert codes(caught[0].reasons) == ["HELD_BY_OTHER_VM"]
            assert held.name in caught[0].reasons[0].message
        assert len(set_to(api, name, 4).pci.virt_functions.addresses) == 4  # as it is
        assert api.detach("alpha", held.uid).state == DETACHED

        assert len(set_to(api, name, 2).pci.virt_functions.addresses) == 2  # by way of none
        again = functions(api, api.device(name))
        assert {one.uid for one in again} <= {one.uid for one in made}
        assert list(set_to(api, name, 0).pci.virt_functions.addresses) == []
        assert functions(api, pf) == []
        assert api.device(name).eligibility.eligible


def test_one_that_was_bound_by_hand_is_seen_by_both(lab: LabHost, nvme: str) -> None:
    api, name = lab.api, nvme
    with helper():
        pf = set_to(api, name, 1)
        (function,) = functions(api, pf)
        subprocess.run(["virsh", "nodedev-detach", function.name], check=True, capture_output=True)
        try:
            with refused("VFS_IN_USE") as caught:
                set_to(api, name, 0)
            assert codes(caught[0].reasons) == ["VFS_IN_USE"]
            # The helper looks for itself: it knows nothing of libvirt.
            asked = f'{{"device": "{pf.pci.address}", "count": 0}}'
            script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
            script += "s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline())"
            told = subprocess.run(
                [sys.executable, "-c", script, str(SOCKET), asked], check=True, capture_output=True, text=True
            ).stdout
            assert '"IN_USE"' in told
            assert function.pci.address in told
        finally:
            subprocess.run(["virsh", "nodedev-reattach", function.name], check=True, capture_output=True)
        assert list(set_to(api, name, 0).pci.virt_functions.addresses) == []


def test_a_helper_that_is_killed_in_the_middle_leaves_what_the_lists_tell(lab: LabHost, nvme: str) -> None:
    api, name = lab.api, nvme
    with helper() as kill:
        set_to(api, name, 2)
        kill()
        with refused("FEATURE_DISABLED"):
            set_to(api, name, 4)
        pf = api.device(name)
        assert len(functions(api, pf)) == len(pf.pci.virt_functions.addresses) == 2
    with helper():
        assert list(set_to(api, name, 0).pci.virt_functions.addresses) == []
