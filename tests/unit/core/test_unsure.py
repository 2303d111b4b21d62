"""What libvirt does after the connection broke, and what the host does while an attach waits for its turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hostdevd.core.assignments import AssignmentState, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import DomainEntry, HostUseKind
from hostdevd.core.ports import HostdevSpec, HypervisorGone, Target
from unit.core.rig import Machine, Shape, machine, state_of

LIVE_USB = Shape("usb_stick", scope=Scope.LIVE)
CONFIG_USB = Shape("usb_stick", scope=Scope.CONFIG)
LIVE_NIC = Shape("nic_single", scope=Scope.LIVE)


class SlowLibvirt:
    """An attach goes on in the daemon after the connection broke; a detach waits for it, a look does not."""

    def __init__(self, on: Machine) -> None:
        self._on = on
        self._attach, self._detach = on.sim.hypervisor.attach, on.sim.hypervisor.detach
        self._job: asyncio.Task[None] | None = None

    async def attach(self, uuid: str, spec: HostdevSpec, target: Target) -> None:
        async def late() -> None:
            await asyncio.sleep(0.3)
            await self._attach(uuid, spec, target)

        self._job = asyncio.create_task(late())
        self._on.sim.controls.disconnect()
        self._on.reconnect_soon()
        raise HypervisorGone("keepalive")

    async def detach(self, uuid: str, entry: DomainEntry, target: Target) -> None:
        if self._job is not None:
            await self._job
        await self._detach(uuid, entry, target)


@pytest.mark.parametrize("shape", [LIVE_USB, CONFIG_USB, LIVE_NIC], ids=["usb live", "usb config", "nic live"])
async def test_what_libvirt_finishes_after_the_connection_broke_is_taken_back(
    tmp_path: Path, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        before = on.state()
        slow = SlowLibvirt(on)
        monkeypatch.setattr(on.sim.hypervisor, "attach", slow.attach)
        monkeypatch.setattr(on.sim.hypervisor, "detach", slow.detach)
        with pytest.raises(HostdevError) as failed:
            await on.attach(shape)
        assert failed.value.metadata["rolled_back"] == "true"
        assert state_of(on.sim.world) == before
        await asyncio.sleep(0.5)
        assert state_of(on.sim.world) == before
        assert on.assignment(failed.value.metadata["assignment"]).state is AssignmentState.FAILED


@pytest.mark.parametrize("role", ["lun_0", "usb_stick"])
async def test_a_disk_that_is_mounted_while_its_attach_waits_is_not_taken(tmp_path: Path, role: str) -> None:
    async with machine(tmp_path) as on:
        domain = next(one for one in on.core.store.domains.values() if one.vm.name == "alpha")
        lock = on.core.engine._attaching._effects.giving._steps.vm_lock(domain.vm.uuid)
        async with lock:
            task = asyncio.create_task(on.attach(Shape(role, scope=Scope.LIVE)))
            await asyncio.sleep(0.1)
            disk = next(one.name for one in on.core.store.graph.descendants(on.name(role)) if one.type == "storage")
            on.sim.controls.add_use(disk, HostUseKind.MOUNT, "/data")
        with pytest.raises(HostdevError) as failed:
            await task
        assert failed.value.metadata["step"] == "ATTACH_LIVE"
        assert "mounted" in failed.value.metadata["why"]
        assert on.held(role) == set()
