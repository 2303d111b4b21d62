"""The simulated machine as one state: the kernel's devices and libvirt's domains.

Operations are functions over it (`passthrough`, `attachment`, `lifecycle`). All of it happens on the event
loop, each operation in one step; events go to whoever subscribed, in the order of what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hostdevd.core.addresses import DeviceSource, PciAddress
from hostdevd.core.model import DomainEntry, HolderRole, HostUse, VmState
from hostdevd.core.ports import Event
from hostdevd.sim.extras import Extras, GuestBehaviour
from hostdevd.sim.faults import invalid, no_domain
from hostdevd.sim.kernel import Kernel
from hostdevd.sim.simdomain import SimDomain
from hostdevd.sim.simnetwork import SimNetwork

Subscriber = Callable[[Event], None]


@dataclass(slots=True)
class Unplugging:
    """An unplug request that the guest has not answered; `due` is when it will (None: never)."""

    uuid: str
    alias: str
    due: float | None
    reject: bool = False


@dataclass(slots=True)
class LibvirtMemory:
    """What libvirt remembers of PCI functions and forgets, in part, when it restarts.

    `gives_back`: it bound these itself for a managed hostdev and rebinds them when that leaves.
    `detached`: nodedev-detached by somebody since it started; for these managed='yes' counts for nothing.
    """

    gives_back: set[PciAddress] = field(default_factory=set)
    detached: set[PciAddress] = field(default_factory=set)


class World:
    """The state of a simulated host; build it with `simulation.simulate`."""

    def __init__(self, extras: Extras, boot_id: str) -> None:
        self.extras = extras
        self.boot_id = boot_id
        self.kernel = Kernel(self.held, self.emit, extras.drivers)
        self.domains: dict[str, SimDomain] = {}
        self.networks: dict[str, SimNetwork] = {}
        self.identities = dict(extras.identities)
        self.uses: dict[str, tuple[HostUse, ...]] = dict(extras.uses)
        self.behaviour: dict[str, GuestBehaviour] = dict(extras.guests)
        self.libvirt = LibvirtMemory()
        self.unplugging: dict[tuple[str, str], Unplugging] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._subscribers: list[Subscriber] = []
        self._depth = 0
        self.changes = 0
        """How often it may have changed."""

    # --- events and changes --------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Get every event; the answer ends it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def emit(self, event: Event) -> None:
        """Tell every subscriber."""
        for subscriber in tuple(self._subscribers):
            subscriber(event)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around whatever may change the state: `on_change` follows, also after a failure."""
        self._depth += 1
        self.changes += 1
        try:
            yield
        finally:
            self._depth -= 1
            self.changes += 1
            if self._depth == 0:
                self.on_change()

    # --- domains -------------------------------------------------------------------------------------

    def domain(self, uuid: str) -> SimDomain:
        """A domain by UUID; error 42 without one."""
        domain = self.domains.get(uuid)
        if domain is None:
            raise no_domain(uuid)
        return domain

    def named(self, name: str) -> SimDomain:
        """A domain by name; error 42 without one."""
        for domain in self.domains.values():
            if domain.name == name:
                return domain
        raise no_domain(name)

    def running(self, uuid: str) -> SimDomain:
        """A domain with a guest; error 55 without one."""
        domain = self.domain(uuid)
        if domain.live is None:
            raise invalid("domain is not running")
        return domain

    def persistent(self, uuid: str) -> SimDomain:
        """A domain with a configuration; error 55 without one."""
        domain = self.domain(uuid)
        if domain.config is None:
            raise invalid("transient domains do not have any persistent config")
        return domain

    def behaviour_of(self, domain: SimDomain) -> GuestBehaviour:
        """How the guest behaves; a paused one answers nothing."""
        return self.behaviour.get(domain.name, GuestBehaviour())

    def answers(self, domain: SimDomain) -> bool:
        """Whether the guest's processors run at all."""
        return domain.state is VmState.RUNNING

    # --- who has what --------------------------------------------------------------------------------

    def in_use_by(self, source: DeviceSource) -> SimDomain | None:
        """The running domain that has the device: libvirt looks at no others."""
        return next((domain for domain, _ in self._entries_at(source)), None)

    def held(self, source: DeviceSource) -> bool:
        """Whether a guest has the device open: a reserved function is bound, but QEMU has not opened it."""
        return any(entry.role is HolderRole.VISIBLE for _, entry in self._entries_at(source))

    def _entries_at(self, source: DeviceSource) -> Iterator[tuple[SimDomain, DomainEntry]]:
        for domain in self.domains.values():
            for entry in domain.live_entries():
                if entry.source == source and not entry.missing:
                    yield domain, entry
