"""The hosts on which the suite runs: simulated in this process, or the lab's, with what other tools do there.

`HOSTDEVD_CONTRACT_HOST` says which: `lab`, `unit` for the lab's service as systemd runs it, or none of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
from api import EVENTUALLY_S, Api

from hostdevd.app import Ports, serve_ports
from hostdevd.config import Config
from hostdevd.core.addresses import PciAddress
from hostdevd.core.ports import HostdevSpec, Target
from hostdevd.core.steps import Delays
from hostdevd.doors import doors_of
from hostdevd.ops.clock import SystemClock
from hostdevd.sim.simulation import Simulation, simulate
from hostdevd.virt.xml.hostdev import build_hostdev

T = TypeVar("T")


class Host(Protocol):
    """One host under test. What `virsh_...` does happens behind hostdevd's back."""

    api: Api
    roles: dict[str, str]

    def virsh_attach(self, vm: str, spec: HostdevSpec, target: Target) -> None: ...
    def virsh_detach(self, vm: str, alias: str, target: Target) -> None: ...
    def virsh_start(self, vm: str) -> None: ...
    def virsh_destroy(self, vm: str) -> None: ...
    def guest_pci_ids(self, vm: str) -> list[str] | None:
        """vendor:product of the PCI functions that the guest sees; None where there is no guest to ask."""


class SimulatedHost:
    """The built-in simulated host, served from a thread of this process."""

    def __init__(self, api: Api, simulation: Simulation, run: Callable[[Callable[[], object]], None]) -> None:
        self.api = api
        self.roles = simulation.roles
        self.controls = simulation.controls
        self._run = run

    def virsh_attach(self, vm: str, spec: HostdevSpec, target: Target) -> None:
        self._run(lambda: self.controls.virsh_attach(vm, build_hostdev(spec), target))

    def virsh_detach(self, vm: str, alias: str, target: Target) -> None:
        self._run(lambda: self.controls.virsh_detach(vm, alias, target))

    def virsh_start(self, vm: str) -> None:
        self._run(lambda: self.controls.start_domain(vm))

    def virsh_destroy(self, vm: str) -> None:
        self._run(lambda: self.controls.destroy_domain(vm))

    def guest_pci_ids(self, vm: str) -> list[str] | None:  # noqa: ARG002
        return None


@contextmanager
def simulated_host(directory: Path, **options: Any) -> Iterator[SimulatedHost]:
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()
    failure: list[BaseException] = []
    config = Config(listen=(f"unix:{directory}/hostdevd.sock",), state_dir=directory / "state", **options)
    config.state_dir.mkdir()
    clock = SystemClock()
    simulation = simulate(clock, None, config.state_dir)
    ports = Ports(simulation.hypervisor, simulation.host)
    doors = doors_of(config)

    async def until() -> None:
        await stop.wait()

    def serve() -> None:
        work = serve_ports(ports, clock, config, doors, lambda _: ready.set(), until, Delays(settle_s=0.05, poll_s=0.2))
        try:
            loop.run_until_complete(work)
        except BaseException as error:  # noqa: BLE001  shown by the test that waits
            failure.append(error)
            ready.set()

    def run(act: Callable[[], object]) -> None:
        async def on_loop() -> object:
            return act()

        asyncio.run_coroutine_threadsafe(on_loop(), loop).result(EVENTUALLY_S)

    thread = threading.Thread(target=serve, name="simulated-hostdevd")
    thread.start()
    try:
        assert ready.wait(EVENTUALLY_S), "the service did not start"
        assert not failure, failure
        with grpc.insecure_channel(config.listen[0]) as channel:
            yield SimulatedHost(Api(channel), simulation, run)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(EVENTUALLY_S)
        loop.close()
    assert not failure, failure


class LabHost:
    """The lab: real libvirt, VFIO and guests; this process runs inside."""

    def __init__(self, api: Api, address: str, state: Path) -> None:
        self.api = api
        self.address = address
        self.state = state
        """The service's state directory."""
        self.roles = lab_roles()

    def virsh_attach(self, vm: str, spec: HostdevSpec, target: Target) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(build_hostdev(spec))
            file.flush()
            virsh("attach-device", vm, file.name, f"--{target.lower()}")

    def virsh_detach(self, vm: str, alias: str, target: Target) -> None:
        virsh("detach-device-alias", vm, alias, f"--{target.lower()}")

    def virsh_start(self, vm: str) -> None:
        # What libvirt does at a start is all that is asked for; a kernel's boot may kill the emulated machine.
        virsh("start", vm, "--paused")

    def virsh_destroy(self, vm: str) -> None:
        virsh("destroy", vm)

    def guest_pci_ids(self, vm: str) -> list[str] | None:
        shown = subprocess.run(["lab-guest", vm, "lspci"], check=True, capture_output=True, text=True).stdout
        return [word for line in shown.splitlines() for word in line.split() if len(word) == 9 and word[4] == ":"]


def virsh(*arguments: str) -> str:
    """Run virsh in the lab; what it printed."""
    done = subprocess.run(["virsh", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Roles of the suite that the lab's topology calls otherwise.
_LAB_NAMES = {
    "usb_twin_0": "twin_a",
    "usb_twin_1": "twin_b",
    "usb_stick": "stick1",
    "lun_0": "scsi_debug_0",
    "lun_1": "scsi_debug_1",
}
# Devices of every q35 machine.
_LAB_FIXED = {"ich9_lpc": "pci_0000_00_1f_0", "ich9_sata": "pci_0000_00_1f_2", "ich9_smbus": "pci_0000_00_1f_3"}


def lab_roles() -> dict[str, str]:
    """Role to libvirt name, for what the lab's topology has."""
    told = json.loads(subprocess.run(["lab-topology"], check=True, capture_output=True, text=True).stdout)["devices"]
    roles = {role: facts["nodedev"] for role, facts in told.items() if facts.get("nodedev")}
    roles |= {role: roles[known_as] for role, known_as in _LAB_NAMES.items()}
    return roles | _LAB_FIXED


BY_UNIT = os.environ.get("HOSTDEVD_CONTRACT_HOST") == "unit"
UNIT, UNIT_ADDRESS = "hostdevd.service", "unix:/run/hostdevd/hostdevd.sock"
UNIT_STATE = Path("/var/lib/hostdevd")


@contextmanager
def unit_host() -> Iterator[LabHost]:
    """The lab's service by its own unit: started anew, and never again by systemd itself until the tests have ended."""
    subprocess.run(["systemctl", "restart", UNIT], check=True)
    with grpc.insecure_channel(UNIT_ADDRESS) as channel:
        yield LabHost(Api(channel), UNIT_ADDRESS, UNIT_STATE)
    subprocess.run(["systemctl", "is-active", "--quiet", UNIT], check=True)
    never_restarted()


def never_restarted() -> None:
    """That systemd did not have to start it again; asked before it is stopped or killed, as a start forgets it."""
    restarts = subprocess.run(
        ["systemctl", "show", "--value", "--property=NRestarts", UNIT], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert restarts == "0", f"systemd had to start it again, {restarts} times"


@contextmanager
def lab_host(directory: Path) -> Iterator[LabHost]:
    if BY_UNIT:
        with unit_host() as host:
            yield host
        return
    address, state = f"unix:{directory}/hostdevd.sock", directory / "state"
    command = [sys.executable, "-m", "hostdevd", "serve", "--listen", address, "--state-dir", str(state)]
    log = Path(os.environ.get("LAB_OUTPUT", str(directory))) / "hostdevd.log"
    with log.open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("listening on"), log.read_text()
        with grpc.insecure_channel(address) as channel:
            yield LabHost(Api(channel), address, state)
    finally:
        server.terminate()
        assert server.wait(EVENTUALLY_S) == 0, log.read_text()
        if server.stdout is not None:
            server.stdout.close()


def managed_pci(api: Api, device: str, alias: str) -> HostdevSpec:
    """What another tool would attach."""
    return HostdevSpec(alias, PciAddress.parse(api.device(device).pci.address), managed=True)
