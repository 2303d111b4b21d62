"""The core over a simulated host, in this process: no gRPC, time a thousand times as fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hostdevd.app import Core, Ports, run_core
from hostdevd.core.assignments import Assignment, GroupPolicy, Scope
from hostdevd.core.model import NodeDevice, PciFacts
from hostdevd.core.plan import AttachRequest
from hostdevd.core.policy import NO_POLICY, Policy
from hostdevd.core.release import DetachRequest
from hostdevd.core.steps import Delays
from hostdevd.core.sync import Pace
from hostdevd.sim.hypervisor import BeforeCall
from hostdevd.sim.simulation import Simulation, simulate
from hostdevd.sim.world import World

DELAYS = Delays(settle_s=0.0, poll_s=0.01, driver_s=1.0)
PACE = Pace(reconcile_s=1e9, retry_s=1.0)


class FastClock:
    """What waits a second here waits a millisecond."""

    def __init__(self, factor: float = 1000.0) -> None:
        self._factor = factor
        self._zero = time.monotonic()
        self.ahead = 0.0
        """Time that has passed besides."""
        self.jumped = 0.0
        """What somebody has set the wall clock ahead, or back."""

    def now(self) -> float:
        return 1_700_000_000.0 + self.jumped + self.monotonic()

    def monotonic(self) -> float:
        return self.ahead + (time.monotonic() - self._zero) * self._factor

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._factor)


def stopped() -> FastClock:
    """A clock that goes when it is told to; nothing may wait by it."""
    return FastClock(factor=1e-9)


class HeldCall:
    """For `before_call`: a call of libvirt's that waits until it `may` go on; `going` when it has come."""

    def __init__(self, call: str) -> None:
        self._call = call
        self.going, self.may = asyncio.Event(), asyncio.Event()

    async def __call__(self, call: str, _arguments: Mapping[str, object]) -> None:
        if call == self._call:
            self.going.set()
            await self.may.wait()


@dataclass(frozen=True)
class Shape:
    """One way to attach; devices by their role on the built-in host."""

    device: str
    vm: str = "alpha"
    policy: GroupPolicy = GroupPolicy.WHOLE_GROUP
    scope: Scope = Scope.AUTO


@dataclass
class Machine:
    """A simulated host with a core running on it."""

    sim: Simulation
    core: Core
    clock: FastClock

    def name(self, role: str) -> str:
        return self.sim.roles.get(role, role)

    async def attach(
        self, shape: Shape, request_id: str = "", wait_s: float = 30.0, caller: str = "test"
    ) -> Assignment:
        outcome = await self.core.engine.attach(
            AttachRequest(shape.vm, self.name(shape.device), shape.policy, shape.scope),
            caller=caller,
            request_id=request_id,
            validate_only=False,
            wait_s=wait_s,
        )
        assert outcome.assignment is not None
        return outcome.assignment

    async def detach(
        self, name: str = "", vm: str = "", device: str = "", scope: Scope = Scope.AUTO, wait_s: float = 30.0
    ) -> Assignment:
        outcome = await self.core.engine.detach(
            DetachRequest(name, vm, self.name(device), scope), caller="test", validate_only=False, wait_s=wait_s
        )
        assert outcome.assignment is not None
        return outcome.assignment

    def assignment(self, name: str) -> Assignment:
        return self.core.store.assignments[name]

    def held(self, role: str) -> set[tuple[str, bool, bool]]:
        """Who holds a device: VM, live, config."""
        found = self.core.store.holders_of(self.name(role))
        return {(holder.vm.name, holder.live, holder.config) for holder in found}

    def driver(self, role: str) -> str | None:
        facts = self.node(role).facts
        assert isinstance(facts, PciFacts)
        return self.sim.host.driver(facts.address).driver

    def node(self, role: str) -> NodeDevice:
        return self.sim.world.kernel.device(self.name(role)).node

    def reconnect_soon(self) -> None:
        """Libvirt is back a little later, as a daemon that was restarted."""
        asyncio.get_running_loop().call_later(0.005, self.sim.controls.reconnect)

    def state(self) -> dict[str, object]:
        return state_of(self.sim.world)


def state_of(world: World) -> dict[str, object]:
    """Everything of the machine that an operation may change: drivers and both definitions of every VM."""
    drivers: Mapping[str, object] = {name: (one.driver, one.override) for name, one in world.kernel.devices.items()}
    domains = {one.name: (one.state, one.live, one.config) for one in world.domains.values()}
    return {**drivers, **domains}


@asynccontextmanager
async def machine(
    directory: Path,
    clock: FastClock | None = None,
    before_call: BeforeCall | None = None,
    *,
    kept: bool = False,
    policy: Policy = NO_POLICY,
) -> AsyncIterator[Machine]:
    """Run the core over a new simulated host, or over one that is `kept` in the directory."""
    clock = clock or FastClock()
    sim = simulate(clock, None, directory if kept else None, before_call)
    ports = Ports(sim.hypervisor, sim.host)
    async with run_core(ports, directory, clock, policy=policy, delays=DELAYS, pace=PACE) as core:
        # What survives the process is tested; what survives a power cut is SQLite's to keep.
        await core.journal._run(lambda: core.journal._db and core.journal._db.execute("PRAGMA synchronous = OFF"))
        await core.sync.synced.wait()
        yield Machine(sim, core, clock)
        # Nobody waits for what a test left running.
        await core.engine.close(grace_s=0.0)


async def until(machine: Machine, holds: object) -> None:
    """Wait until a condition of the store holds: it is looked at after every commit, and now and then besides.

    What is derived again and is as before is no commit.
    """
    assert callable(holds)
    changed = asyncio.Event()
    listener = lambda _: changed.set()  # noqa: E731  added and removed as one thing
    machine.core.store.on_commit.append(listener)
    try:
        async with asyncio.timeout(20):
            while not holds():
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), 0.05)
                changed.clear()
    finally:
        machine.core.store.on_commit.remove(listener)
