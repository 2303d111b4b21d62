"""A simulated host under test: the events it told, a clock that the test moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import DomainEntry, HolderVia, PciFacts
from hostdevd.core.ports import DeviceRemovalFailed, DeviceRemoved, Event, HostdevSpec, NodeDeviceChanged, Target
from hostdevd.sim.simulation import Simulation

ALPHA = "c0ffee00-0000-4000-8000-000000000001"
LEGACY = "c0ffee00-0000-4000-8000-000000000002"
SPARE = "c0ffee00-0000-4000-8000-000000000003"
BRIEF = "c0ffee00-0000-4000-8000-000000000004"
DEAF = "c0ffee00-0000-4000-8000-000000000005"
STUBBORN = "c0ffee00-0000-4000-8000-000000000006"
KEEPER = "c0ffee00-0000-4000-8000-000000000007"

NIC = PciAddress.parse("0000:01:00.0")
DUAL_0 = PciAddress.parse("0000:04:00.0")
DUAL_1 = PciAddress.parse("0000:04:00.1")
E1000 = PciAddress.parse("0000:03:01.0")


class SteppedClock:
    """Time stands still until `step`."""

    def __init__(self) -> None:
        self._now = 1_000_000.0
        self._waiting: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self._waiting.append((self._now + seconds, event))
        await event.wait()

    def step(self, seconds: float) -> None:
        self._now += seconds
        for due, event in self._waiting:
            if due <= self._now:
                event.set()


@dataclass
class Rig:
    sim: Simulation
    clock: SteppedClock
    events: list[Event] = field(default_factory=list)

    async def start(self) -> None:
        await self.sim.hypervisor.start(self.events.append)
        await self.sim.host.start(self.events.append)
        await settle()

    async def close(self) -> None:
        await self.sim.hypervisor.close()
        await self.sim.host.close()

    async def attach(
        self, uuid: str, alias: str, source: PciAddress, *, managed: bool = False, unassigned: bool = False
    ) -> None:
        spec = HostdevSpec(f"ua-{alias}", source, managed=managed, unassigned=unassigned)
        await self.sim.hypervisor.attach(uuid, spec, Target.LIVE)
        await settle()

    async def detach(self, uuid: str, alias: str) -> None:
        await self.sim.hypervisor.detach(uuid, by_alias(f"ua-{alias}"), Target.LIVE)
        await settle()

    async def live(self, uuid: str) -> dict[str | None, DomainEntry]:
        domain = await self.sim.hypervisor.domain(uuid)
        assert domain.live is not None
        return {entry.alias: entry for entry in domain.live.entries}

    async def config(self, uuid: str) -> dict[str | None, DomainEntry]:
        domain = await self.sim.hypervisor.domain(uuid)
        assert domain.config is not None
        return {entry.alias: entry for entry in domain.config.entries}

    def address(self, name: str) -> PciAddress:
        facts = self.sim.world.kernel.device(name).node.facts
        assert isinstance(facts, PciFacts)
        return facts.address

    def driver(self, address: PciAddress) -> str | None:
        return self.sim.host.driver(address).driver

    def take_events(self) -> list[Event]:
        taken, self.events[:] = list(self.events), []
        return taken

    def changed_devices(self) -> set[str]:
        return {event.name for event in self.events if isinstance(event, NodeDeviceChanged)}

    def answers(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, DeviceRemoved | DeviceRemovalFailed)]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def by_alias(alias: str) -> DomainEntry:
    """An entry as far as an unplug request needs it."""
    return DomainEntry(HolderVia.HOSTDEV, PciAddress(0, 0, 0, 0), alias=alias)
