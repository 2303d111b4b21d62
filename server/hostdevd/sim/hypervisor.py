"""The hypervisor port on the simulated host: libvirt's calls, events and moods."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from hostdevd.core.addresses import DeviceSource
from hostdevd.core.model import Domain, DomainEntry, HypervisorInfo, Network, NodeDevice
from hostdevd.core.observing import NOBODY, CallObserver
from hostdevd.core.ports import (
    Connected,
    Disconnected,
    Event,
    EventSink,
    HostChanged,
    HostdevSpec,
    HypervisorGone,
    MdevSpec,
    NodeDeviceChanged,
    Target,
    Workers,
)
from hostdevd.sim.attachment import attach_config, attach_live, detach_config
from hostdevd.sim.injection import Faults, error_of
from hostdevd.sim.mdevs import create_mdev, delete_mdev
from hostdevd.sim.networks import active_pools
from hostdevd.sim.passthrough import nodedev_detach, nodedev_reattach
from hostdevd.sim.unplug import Guests
from hostdevd.sim.world import World
from hostdevd.virt.xml.hostdev import build_hostdev
from hostdevd.virt.xml.mdev import build_mdev

T = TypeVar("T")

BeforeCall = Callable[[str, Mapping[str, object]], Awaitable[None]]
"""Gets each call's name and arguments before it does anything; may wait, or raise to end the caller there."""


class SimHypervisor:
    """`HypervisorPort` over a `World`.

    `faults` are the errors to inject; `before_call` is for tests that crash the service at a step.
    """

    def __init__(
        self,
        world: World,
        guests: Guests,
        info: HypervisorInfo,
        faults: Faults,
        before_call: BeforeCall | None = None,
    ) -> None:
        self._world = world
        self._guests = guests
        self._info = info
        self._faults = faults
        self.before_call = before_call
        self._sink: EventSink | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._gone = ""
        self.deaf = False
        """Nothing is told of node devices, as when virtnodedevd was restarted alone."""
        self._calls: Counter[str] = Counter()
        self._observer: CallObserver = NOBODY

    # --- life ----------------------------------------------------------------------------------------

    async def start(self, sink: EventSink) -> None:
        """Begin; `Connected` comes at once unless the connection was cut before."""
        self._sink = sink
        self._unsubscribe = self._world.subscribe(self._forward)
        self._guests.start()
        if not self._gone:
            self._deliver(Connected())

    async def close(self) -> None:
        """Stop events; the host goes on."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._unsubscribe = self._sink = None
        await self._guests.close()

    async def listen_again(self) -> None:
        """Hear of node devices again where it was `deaf`."""

        def hear() -> None:
            self.deaf = False

        await self._call("listen_again", hear)

    def call_counts(self) -> Mapping[str, int]:
        """Calls by name since the start."""
        return dict(self._calls)

    def observe(self, observer: CallObserver) -> None:
        """Tell of every call."""
        self._observer = observer

    def workers(self) -> Mapping[str, Workers]:
        """There are none: it is all on the event loop."""
        return {}

    def why_away(self) -> str:
        """Why calls fail now."""
        return self._gone

    def refused(self) -> Sequence[str]:
        """Nothing: a simulated libvirt asks nobody."""
        return ()

    @property
    def connected(self) -> bool:
        """Whether calls are answered."""
        return not self._gone

    def cut(self, why: str) -> None:
        """The connection breaks: calls fail, events are lost."""
        if not self._gone:
            self._gone = why
            self._deliver(Disconnected(why))

    def restore(self) -> None:
        """The connection is back; what happened meanwhile must be read."""
        if self._gone:
            self._gone = ""
            self._deliver(Connected())

    def _forward(self, event: Event) -> None:
        unheard = isinstance(event, HostChanged) or (self.deaf and isinstance(event, NodeDeviceChanged))
        if not self._gone and not unheard:
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        if self._sink is not None:
            # In order, and never inside of the call that causes it.
            asyncio.get_running_loop().call_soon(self._hand_over, event)

    def _hand_over(self, event: Event) -> None:
        if self._sink is not None:
            self._sink(event)

    # --- reading -------------------------------------------------------------------------------------

    async def info(self) -> HypervisorInfo:
        """Who answers."""
        return await self._call("info", lambda: self._info)

    async def node_device_names(self) -> frozenset[str]:
        """Names of all node devices."""
        return await self._call("node_device_names", self._world.kernel.names)

    async def node_devices(self) -> Sequence[NodeDevice]:
        """All node devices that the host sees."""
        kernel = self._world.kernel
        return await self._call("node_devices", lambda: [kernel.node(name) for name in sorted(kernel.names())])

    async def node_device(self, name: str) -> NodeDevice:
        """One node device; `NoSuchObject` when it is gone."""
        return await self._call("node_device", lambda: self._world.kernel.node(name), device=name)

    async def domains(self) -> Sequence[Domain]:
        """All domains, running or not, with both definitions."""
        return await self._call("domains", lambda: [domain.domain() for domain in self._world.domains.values()])

    async def domain(self, uuid: str) -> Domain:
        """One domain by UUID; `NoSuchObject` when it is gone."""
        return await self._call("domain", lambda: self._world.domain(uuid).domain(), uuid=uuid)

    async def networks(self) -> Sequence[Network]:
        """The active networks that hand out PCI functions."""
        return await self._call("networks", lambda: active_pools(self._world))

    # --- changing ------------------------------------------------------------------------------------

    async def nodedev_detach(self, name: str) -> None:
        """Take a PCI function from its driver and bind it to vfio-pci."""
        await self._call("nodedev_detach", lambda: nodedev_detach(self._world, name), device=name)

    async def nodedev_reattach(self, name: str) -> None:
        """Give a PCI function back to the host: the kernel probes a driver."""
        await self._call("nodedev_reattach", lambda: nodedev_reattach(self._world, name), device=name)

    async def attach(self, uuid: str, spec: HostdevSpec, target: Target) -> None:
        """Add a hostdev to one definition of a domain."""
        xml = build_hostdev(spec)

        def attach() -> None:
            if target is Target.CONFIG:
                attach_config(self._world, uuid, xml)
            else:
                self._guests.attached(uuid, attach_live(self._world, uuid, xml))

        device = self._named(spec.source)
        await self._call("attach", attach, uuid=uuid, device=device, spec=spec, target=target)

    async def detach(self, uuid: str, entry: DomainEntry, target: Target) -> None:
        """Ask for an entry's removal, by its alias, or by its source where it has none (config only).

        CONFIG: done on return. LIVE: only asked, `DeviceRemoved` follows.
        """
        alias = entry.alias or ""

        def detach() -> None:
            if target is Target.CONFIG:
                detach_config(self._world, uuid, alias, entry)
            else:
                self._guests.ask(uuid, alias)

        device = self._at_alias(uuid, alias) or self._named(entry.source)
        await self._call("detach", detach, uuid=uuid, device=device, alias=alias, target=target)

    async def create_mdev(self, spec: MdevSpec) -> str:
        """Make a mediated device; its name."""
        xml = build_mdev(spec)
        make = partial(create_mdev, self._world, xml, persistent=spec.persistent)
        return await self._call("create_mdev", make, device=spec.parent, spec=spec)

    async def delete_mdev(self, name: str) -> None:
        """Stop a mediated device and forget its definition."""
        await self._call("delete_mdev", lambda: delete_mdev(self._world, name), device=name)

    # --- every call ----------------------------------------------------------------------------------

    async def _call(
        self, name: str, act: Callable[[], T], *, uuid: str = "", device: str = "", **arguments: object
    ) -> T:
        self._calls[name] += 1
        began, failed = time.perf_counter(), True
        try:
            result = await self._act(name, act, uuid, device, arguments)
            failed = False
        finally:
            self._observer.called(name, time.perf_counter() - began, failed=failed)
        return result

    async def _act(self, name: str, act: Callable[[], T], uuid: str, device: str, arguments: Mapping[str, object]) -> T:
        if self.before_call is not None:
            told = {"uuid": uuid, "device": device, **arguments}
            await self.before_call(name, {key: value for key, value in told.items() if value != ""})
        # A call into libvirt is a turn of the loop at least; others run meanwhile.
        await asyncio.sleep(0)
        if self._gone:
            raise HypervisorGone(self._gone)
        domain = self._world.domains.get(uuid)
        fault = self._faults.meet(name, "" if domain is None else domain.name, device)
        if fault is None:
            return act()
        if fault.after:
            act()
        if fault.gone:
            self.cut(fault.text)
        raise error_of(fault)

    def _named(self, source: DeviceSource) -> str:
        return next((device.node.name for device in self._world.kernel.at(source)), "")

    def _at_alias(self, uuid: str, alias: str) -> str:
        domain = self._world.domains.get(uuid)
        if domain is None:
            return ""
        read = domain.domain()
        entries = [entry for each in (read.live, read.config) if each is not None for entry in each.entries]
        return next((self._named(entry.source) for entry in entries if entry.alias == alias), "")
