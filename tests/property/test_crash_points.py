"""kill -9 before and after every write of the journal and at every call, of every kind of operation.

Whatever is on disk there is started from again: then the operation has happened or it has not, no step is
open, and everything can be given back to where it was.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import connect
from threading import Lock

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import Assignment, AssignmentState, GroupPolicy, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import PciFacts
from hostdevd.core.ports import HostdevSpec, HypervisorError, Target
from hostdevd.core.release import DetachRequest
from hostdevd.virt.xml.hostdev import build_hostdev
from unit.core.rig import FastClock, Machine, Shape, machine, until

RESERVE = GroupPolicy.RESERVE_REST
Work = Callable[[Machine], Awaitable[None]]


async def attach_and_detach(on: Machine, shape: Shape) -> None:
    held = await on.attach(shape)
    await on.detach(held.name)


async def extend(on: Machine) -> None:
    held = await on.attach(Shape("dual_0", scope=Scope.CONFIG))
    await on.attach(Shape("dual_0", scope=Scope.LIVE))
    await on.detach(held.name, scope=Scope.LIVE)
    await on.detach(held.name)


async def roll_back(on: Machine) -> None:
    on.sim.controls.fail_next("attach", nth=4, text="no")  # both are configured, one is in the guest
    with pytest.raises(HostdevError):
        await on.attach(Shape("dual_0"))


async def roll_an_extension_back(on: Machine) -> None:
    held = await on.attach(Shape("dual_0", scope=Scope.CONFIG))
    on.sim.controls.fail_next("attach", nth=2, text="no")
    with pytest.raises(HostdevError):
        await on.attach(Shape("dual_0", scope=Scope.LIVE))
    await on.detach(held.name)


async def adopt(on: Machine) -> None:
    facts = on.node("nic_single").facts
    assert isinstance(facts, PciFacts)
    assert isinstance(facts.address, PciAddress)
    spec = HostdevSpec("ua-by-hand", facts.address, managed=True)
    for definition in Target:
        on.sim.controls.virsh_attach("alpha", build_hostdev(spec), definition)
    await on.detach(vm="alpha", device="nic_single")


async def by_service(on: Machine) -> None:
    held = await on.attach(Shape("usb_twin_0", "spare"))
    on.sim.controls.start_domain("spare")
    await until(on, lambda: on.assignment(held.name).live)
    on.sim.controls.destroy_domain("spare")
    await until(on, lambda: not on.assignment(held.name).live)
    await on.detach(held.name)


async def stop_in_a_detach(on: Machine) -> None:
    held = await on.attach(Shape("dual_0", "deaf"))
    await on.detach(held.name, wait_s=0.0)
    while not on.sim.world.unplugging:  # noqa: ASYNC110  the guest tells nobody that it was asked
        await asyncio.sleep(0)
    on.sim.controls.destroy_domain("deaf")
    await until(on, lambda: on.assignment(held.name).state is AssignmentState.DETACHED)


OPERATIONS: Mapping[str, Work] = {
    "single": lambda on: attach_and_detach(on, Shape("nic_single")),
    "group of 2": lambda on: attach_and_detach(on, Shape("dual_0")),
    "group of 2 live": lambda on: attach_and_detach(on, Shape("twoport_0", scope=Scope.LIVE)),
    "group of 3": lambda on: attach_and_detach(on, Shape("bridge_e1000", "legacy")),
    "reserve rest": lambda on: attach_and_detach(on, Shape("dual_0", policy=RESERVE)),
    "usb": lambda on: attach_and_detach(on, Shape("usb_stick")),
    "scsi": lambda on: attach_and_detach(on, Shape("lun_0")),
    "extension": extend,
    "rollback": roll_back,
    "rollback of an extension": roll_an_extension_back,
    "adoption": adopt,
    "by service": by_service,
    "stop in a detach": stop_in_a_detach,
}


class Camera:
    """Copies what is on disk whenever it is another than before."""

    def __init__(self, directory: Path, to: Path) -> None:
        self._directory = directory
        self._to = to
        self._last = b""
        self._one_at_a_time = Lock()  # calls come on the loop, writes on the journal's thread
        self.pictures: list[Path] = []
        self.on = False

    async def before_call(self, _name: str, _arguments: Mapping[str, object]) -> None:
        self.take()

    def around_writes(self, on: Machine) -> None:
        journal = on.core.journal
        good = journal._transaction

        def transaction(work: Callable[..., object]) -> object:
            self.take()
            try:
                return good(work)
            finally:
                self.take()

        journal._transaction = transaction  # type: ignore[method-assign, assignment]

    def take(self) -> None:
        if self.on:
            with self._one_at_a_time:
                self._take()

    def _take(self) -> None:
        kept = sorted(path for path in self._directory.iterdir() if path.suffix not in {".sqlite-shm", ".new"})
        now = b"".join(path.read_bytes() for path in kept)
        if now == self._last:
            return
        self._last = now
        picture = self._to / f"{len(self.pictures):03}"
        shutil.copytree(self._directory, picture, ignore=shutil.ignore_patterns("*.new"))
        self.pictures.append(picture)


def open_steps(directory: Path) -> int:
    with closing(connect(directory / "state.sqlite")) as db:
        found: int = db.execute("SELECT count(*) FROM step WHERE ended IS NULL").fetchone()[0]
        return found


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_crash_at_any_write_is_all_or_nothing_after_the_restart(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    clock = FastClock()
    camera = Camera(directory, tmp_path / "pictures")
    async with machine(directory, clock, camera.before_call, kept=True) as on:
        drivers = driver_state(on)
        camera.around_writes(on)
        camera.on = True
        await OPERATIONS[name](on)
        camera.take()
        camera.on = False
        assert driver_state(on) == drivers
    clock.ahead += 60.0  # an unplug request of which nobody knows whether it was answered is sent again after 30 s
    assert len(camera.pictures) >= 6, "a crash at less than that is no test"
    for picture in camera.pictures:
        async with machine(picture, clock, kept=True) as on:
            on.sim.controls.set_guest_behaviour("deaf")
            with suppress(HypervisorError):
                on.sim.controls.reboot_domain("deaf")  # a second request alone would abort the first
            await until(on, lambda: not any(one.state.in_flight for one in on.core.store.assignments.values()))
            await all_or_nothing(on, picture)
            for assignment in tuple(on.core.store.assignments.values()):
                if not assignment.state.closed:
                    done = await detached(on, assignment.name)
                    assert done.state is AssignmentState.DETACHED, picture
                    assert done.conditions == (), picture
            for holder in tuple(on.core.store.holders.values()):
                if holder.vm.name != "keeper":  # what the other tool attached, before it was adopted
                    await on.core.engine.detach(
                        DetachRequest("", holder.vm.name, holder.device), caller="", validate_only=False, wait_s=30.0
                    )
            assert driver_state(on) == drivers, picture
            assert {holder.vm.name for holder in on.core.store.holders.values()} <= {"keeper"}, picture
        assert open_steps(picture) == 0, picture


async def detached(on: Machine, name: str) -> Assignment:
    """Detach, after what the service may just have begun by itself (`CONFIG_BY_SERVICE`)."""
    while True:
        try:
            return await on.detach(name)
        except HostdevError as error:
            if error.reason != "OPERATION_IN_PROGRESS":
                raise
        await until(on, lambda: not on.core.engine._operations.is_busy(on.assignment(name)))


def driver_state(on: Machine) -> Mapping[str, object]:
    return {name: (one.driver, one.override) for name, one in on.sim.world.kernel.devices.items()}


async def all_or_nothing(on: Machine, picture: Path) -> None:
    """Every definition that an open assignment says it is in has all of its devices, and no other has any."""
    for name in tuple(on.core.store.assignments):
        await on.core.engine._upkeep.compare_named(name)
        assignment = on.assignment(name)
        if on.core.engine._operations.is_busy(assignment):
            continue  # the VM runs without what the service keeps for it: it is just being attached
        held = {
            holder.uid: (holder.live, holder.config)
            for holder in on.core.store.holders.values()
            if holder.vm.uuid == assignment.vm.uuid
        }
        uids = {device.uid for device in assignment.devices}
        if assignment.state is AssignmentState.ATTACHED:
            assert {held.get(uid) for uid in uids} == {(assignment.live, assignment.config)}, picture
        elif not any(not one.state.closed for one in on.core.store.assignments.values()):
            assert uids.isdisjoint(held), picture
