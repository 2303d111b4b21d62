"""What a detach must not forget: guests that come back in the middle, answers that nobody heard, other owners."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import AssignmentState, Scope
from hostdevd.core.ports import HostdevSpec, Target
from hostdevd.sim.extras import Unplug
from hostdevd.virt.xml.hostdev import build_hostdev
from unit.core.rig import FastClock, Machine, Shape, machine, until

ATTACHED, DETACHED, FAILED = AssignmentState.ATTACHED, AssignmentState.DETACHED, AssignmentState.FAILED


async def test_a_vm_that_starts_again_before_its_configuration_is_clean_is_asked_again(tmp_path: Path) -> None:
    on: Machine
    restarted = False

    async def restart(name: str, arguments: Mapping[str, object]) -> None:
        nonlocal restarted
        if name == "detach" and arguments["target"] is Target.CONFIG and not restarted:
            restarted = True
            on.sim.controls.destroy_domain("alpha")
            on.sim.controls.start_domain("alpha")
            clock.ahead += 31.0  # the earlier request is too old to be aborted by another

    clock = FastClock()
    async with machine(tmp_path, clock, restart) as on:
        drivers = on.driver("dual_0"), on.driver("dual_1")
        held = await on.attach(Shape("dual_0"))
        done = await on.detach(held.name)
        assert (done.state, done.conditions) == (DETACHED, ())
        assert on.held("dual_0") == on.held("dual_1") == set()
        assert (on.driver("dual_0"), on.driver("dual_1")) == drivers


async def test_a_vm_that_starts_while_only_its_configuration_is_cleaned_keeps_its_assignment(tmp_path: Path) -> None:
    on: Machine
    started = False

    async def start(name: str, _arguments: Mapping[str, object]) -> None:
        nonlocal started
        if name == "detach" and not started:
            started = True
            on.sim.controls.start_domain("spare")

    async with machine(tmp_path, before_call=start) as on:
        held = await on.attach(Shape("nic_single", "spare"))
        left = await on.detach(held.name)
        assert (left.state, left.live, left.config) == (ATTACHED, True, False)
        assert (await on.detach(held.name)).state is DETACHED
        assert on.driver("nic_single") == "e1000e"


async def test_a_vm_that_stops_between_two_requests_has_refused_nothing(tmp_path: Path) -> None:
    on: Machine
    asked = 0

    async def stop(name: str, _arguments: Mapping[str, object]) -> None:
        nonlocal asked
        asked += name == "detach"
        if name == "detach" and asked == 2:
            on.sim.controls.destroy_domain("deaf")

    async with machine(tmp_path, before_call=stop) as on:
        held = await on.attach(Shape("dual_0", "deaf"))
        done = await on.detach(held.name)
        assert (done.state, done.conditions) == (DETACHED, ())
        assert on.driver("dual_0") == on.driver("dual_1") == "e1000e"


async def test_a_no_that_nobody_heard_does_not_end_the_asking(tmp_path: Path) -> None:
    """The guest refused while hostdevd was dead: what failed must be taken back all the same."""
    clock = FastClock()
    async with machine(tmp_path, clock, kept=True) as on:
        before = on.state()
        on.sim.controls.set_guest_behaviour("deaf", Unplug.NEVER)
        on.sim.controls.fail_next("attach", domain="deaf", after=True)
        begun = await on.attach(Shape("nic_single", "deaf", scope=Scope.LIVE), wait_s=0.0)
        while not on.sim.world.unplugging:  # noqa: ASYNC110  the guest tells nobody that it was asked
            await asyncio.sleep(0)
        await on.core.engine.close(grace_s=0.0)
        on.sim.world.unplugging.clear()  # a no
        on.sim.controls.set_guest_behaviour("deaf")
    clock.ahead += 31.0
    async with machine(tmp_path, clock, kept=True) as on:
        await until(on, lambda: on.assignment(begun.name).state is FAILED)
        assert {**on.state()} == before


async def test_no_step_stays_open_after_a_crash(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def hang(name: str, _arguments: Mapping[str, object]) -> None:
        if name == "attach":
            asked.set()
            await asyncio.Event().wait()

    def open_steps() -> int:
        with closing(connect(tmp_path / "state.sqlite")) as db:
            found: int = db.execute("SELECT count(*) FROM step WHERE ended IS NULL").fetchone()[0]
            return found

    async with machine(tmp_path, before_call=hang, kept=True) as on:
        task = asyncio.create_task(on.attach(Shape("dual_0")))
        await asked.wait()
        await on.core.engine.close(grace_s=0.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert open_steps() == 1
    async with machine(tmp_path, kept=True) as on:
        name = next(iter(on.core.store.assignments))
        await until(on, lambda: on.assignment(name).state is FAILED)
    assert open_steps() == 0


# --- functions that an operator gave to vfio-pci --------------------------------------------------------


async def test_what_was_only_configured_is_left_where_its_operator_bound_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", "spare"))
        on.sim.controls.bind_to_vfio(on.name("nic_single"))
        assert (await on.detach(held.name)).conditions == ()
        assert on.driver("nic_single") == "vfio-pci"


async def test_what_a_vm_was_started_with_goes_back_to_where_libvirt_found_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", "spare"))
        on.sim.controls.bind_to_vfio(on.name("nic_single"))
        on.sim.controls.start_domain("spare")
        await until(on, lambda: on.assignment(held.name).live)
        on.sim.controls.destroy_domain("spare")
        await until(on, lambda: not on.assignment(held.name).live)
        assert on.driver("nic_single") == "vfio-pci"
        assert (await on.detach(held.name)).conditions == ()
        assert on.driver("nic_single") == "vfio-pci"


@pytest.mark.parametrize("definition", Target)
async def test_what_another_tool_attached_managed_is_left_on_the_vfio_where_it_was(
    tmp_path: Path, definition: Target
) -> None:
    async with machine(tmp_path) as on:
        address = on.sim.world.kernel.devices["pci_0000_15_00_0"].node.facts
        spec = HostdevSpec("ua-by-hand", getattr(address, "address", PciAddress(0, 0, 0, 0)), managed=True)
        on.sim.controls.virsh_attach("alpha", build_hostdev(spec), definition)
        done = await on.detach(vm="alpha", device="pci_0000_15_00_0")
        assert (done.state, done.conditions) == (DETACHED, ())
        assert on.driver("pci_0000_15_00_0") == "vfio-pci"
