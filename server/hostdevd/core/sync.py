"""Keeps the store equal to the world: full reads on connect, events in between, a reconcile for the rest.

Reads may overlap; each takes a ticket when it starts, and an answer older than one that was applied is
dropped, so that a slow read never brings back what a later one has replaced.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from hostdevd.core.announcements import Announcements
from hostdevd.core.behind import catch_up
from hostdevd.core.errors import disconnected
from hostdevd.core.history import ChangeSource
from hostdevd.core.kin import outdated
from hostdevd.core.model import Domain, HostUses, HypervisorInfo, NetFacts, Network, NodeDevice
from hostdevd.core.ports import (
    Clock,
    Connected,
    Disconnected,
    DomainChanged,
    DomainStarted,
    DomainStopped,
    Event,
    HostChanged,
    HostPort,
    HypervisorError,
    HypervisorGone,
    HypervisorPort,
    NetworksChanged,
    NodeDeviceChanged,
    NoSuchObject,
)
from hostdevd.core.shared import SharedRead
from hostdevd.core.store import Store
from hostdevd.core.tickets import Applied
from hostdevd.core.turns import chosen

log = structlog.get_logger()

EventListener = Callable[[Event], None]

_MOMENTS = 64
"""Reconciles after which no read is still under way that began before: each has a time-out of seconds."""

_GATHER_S = 0.2
"""How long what is told of the host's uses is gathered before they are read."""

_REST = 4
"""How many times as long as a list of all names took before the next: where polkit is asked about each, libvirt and it
would else do little more than that."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look at what announces nothing, in seconds.

    `reconcile_s`: domains, whose inactive definitions change without an event in libvirt 9, and the host's uses.
    `retry_s`: after a read that failed.
    """

    reconcile_s: float = 5.0
    retry_s: float = 1.0


class Sync:
    """The one reader of the ports. `connected` and `synced_time` say how good the store is."""

    def __init__(
        self, store: Store, hypervisor: HypervisorPort, host: HostPort, clock: Clock, pace: Pace | None = None
    ) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._host = host
        self._clock = clock
        self._pace = pace or Pace()
        self._tickets = itertools.count(1)
        self._domains_read = Applied()
        self._devices_read = Applied()
        self._moments: deque[int] = deque(maxlen=_MOMENTS)
        # When a domain, and the connection, was last told of: what was read before is old.
        self._stirred: dict[str, int] = {}
        self._stirred_all = 0
        self._uses_ticket = 0
        self._uses_as_of: Hashable | None = None
        self._networks_ticket = 0
        self._networks_fault = ""
        self._unheard = False
        self._names_due = 0.0
        self._announced = Announcements()
        # What is to be read, and since when it is told to have changed.
        self._names: dict[str, float] = {}
        self._uuids: dict[str, float] = {}
        self._uses_due = False
        self._networks_due = False
        self._full_due = False
        self._wake = asyncio.Event()
        self._wake_uses = asyncio.Event()
        self._shared_uses = SharedRead(self._read_uses)
        self._behind = asyncio.Event()
        store.behind.listeners.append(self._behind.set)
        self._connection = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[EventListener] = []
        self.on_read: list[Callable[[str], None]] = []
        """Called after a domain was read by itself, changed or not."""
        self.synced = asyncio.Event()
        """Set while the store equals a connected libvirt."""
        self.first_sync = False
        """Whether there ever was a full read: before it there is nothing to answer from."""
        self.synced_time: datetime | None = None
        self._why_lost = "not read yet"
        self.info: HypervisorInfo | None = None
        """Who answers, as of the last connect."""
        self.connects = 0
        self.disconnects = 0
        """How often libvirt came and went."""

    @property
    def connected(self) -> bool:
        """Whether libvirt answers and the store has caught up with it."""
        return self.synced.is_set()

    @property
    def why_disconnected(self) -> str:
        """Why libvirt does not answer: what the last attempt to connect met, or how the connection was lost."""
        return self._hypervisor.why_away() or self._why_lost

    @property
    def is_following(self) -> bool:
        """Whether all that `start` began still runs: none of it ends by itself."""
        return all(not task.done() for task in self._tasks)

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Hear every event after the store was told to read; returns the way to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def pending(self) -> Mapping[str, int]:
        """What was told to have changed and is not being read yet, by kind; from any thread."""
        return {"devices": len(self._names), "domains": len(self._uuids)}

    def moment(self) -> int:
        """Now, to be held against reads."""
        return next(self._tickets)

    async def known_domain(self, uuid: str, since: int | None, source: ChangeSource) -> Domain | None:
        """A domain as it was read after that moment, if nothing was told of it after the read; else it is read now.

        For who made sure by a read of his own that what he did himself has come true: not all of it is told.
        """
        if since is not None and self.connected:
            told = max(self._stirred.get(uuid, 0), self._stirred_all)
            if self.was_read_since(uuid, max(since, told)):
                return self._store.domains.get(uuid)
        return await self.read_domain(uuid, source)

    def was_read_since(self, uuid: str, moment: int) -> bool:
        """Whether what the store has of a domain was read after that moment."""
        return self._domains_read.since(uuid, moment)

    async def start(self) -> None:
        """Start the ports and the tasks that follow them."""
        self._tasks = [
            asyncio.create_task(self._forever(self._follow), name="sync-follow"),
            # Apart from the rest: a host's uses may take seconds until they settle, by what is followed meanwhile.
            asyncio.create_task(self._forever(self._follow_uses), name="sync-uses"),
            asyncio.create_task(self._forever(self._reconcile), name="sync-reconcile"),
            asyncio.create_task(self._forever(self._catch_up), name="sync-catch-up"),
        ]
        await self._host.start(self._on_event)
        await self._hypervisor.start(self._on_event)

    async def close(self) -> None:
        """Stop following and close the ports."""
        for task in self._tasks:
            task.cancel()
        self._shared_uses.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hypervisor.close()
        await self._host.close()

    def require(self) -> None:
        """Raise `LIBVIRT_DISCONNECTED` unless libvirt answers."""
        if not self.connected:
            raise disconnected(self.why_disconnected)

    # --- events --------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self._stir(event)
        match event:
            case Connected():
                self._connection += 1
                self.connects += 1
                self._announced.forget()
                self._full_due = True
            case Disconnected(why):
                self._connection += 1
                self.disconnects += 1
                self.synced.clear()
                self._why_lost = why
                self._full_due = False
                log.warning("libvirt is away", why=why)
            case NodeDeviceChanged(name):
                self._names.setdefault(name, event.heard_s)
                self._announced.told(name)
            case DomainChanged(uuid) | DomainStarted(uuid) | DomainStopped(uuid):
                self._uuids.setdefault(uuid, event.heard_s)
                # What a VM takes or gives back changes drivers and uses too.
                self._uses_due = self._uses_due or not isinstance(event, DomainChanged)
            case NetworksChanged():
                self._networks_due = True
            case HostChanged():
                self._uses_due = True
            case _:
                self._uuids.setdefault(event.uuid, event.heard_s)
        self._wake.set()
        for listener in tuple(self._listeners):
            listener(event)

    def _stir(self, event: Event) -> None:
        if isinstance(event, Connected | Disconnected):
            self._stirred_all = next(self._tickets)
        elif (uuid := getattr(event, "uuid", None)) is not None:
            self._stirred[uuid] = next(self._tickets)

    async def _follow(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        if self._full_due:
            self._full_due = False
            await self._resync()
            return
        names, self._names = self._names, {}
        uuids, self._uuids = self._uuids, {}
        uses, self._uses_due = self._uses_due, False
        networks, self._networks_due = self._networks_due and self.connected, False
        try:
            if not self.connected:
                # Nothing to read from: a full read follows the reconnect, and forgets these when it worked.
                self._names = self._names | names
                self._uuids = self._uuids | uuids
                names, uuids = {}, {}
            if names:
                await self._read_devices(names, heard_s=min(names.values()))
            for uuid, heard_s in uuids.items():
                await self.read_domain(uuid, ChangeSource.EVENT, heard_s)
            if networks:
                await self.read_networks(ChangeSource.EVENT)
            if uses:
                # After the domains: what a VM has open is no other user's.
                self.uses_changed()
        except Exception:
            self._names = self._names | names
            self._uuids = self._uuids | uuids
            self._uses_due = self._uses_due or uses
            self._networks_due = self._networks_due or networks
            await self._clock.sleep(self._pace.retry_s)
            self._wake.set()
            raise

    async def _follow_uses(self) -> None:
        await self._wake_uses.wait()
        # A driver or a disk that comes or goes is told in many words, and some of them begin what a caller waits for.
        await self._clock.sleep(_GATHER_S)
        self._wake_uses.clear()
        try:
            await self.read_uses(ChangeSource.EVENT)
        except Exception:
            self._wake_uses.set()
            raise

    async def _catch_up(self) -> None:
        """What is about all devices (the policy, a source of uses that cannot be read) reaches their views in turns."""
        await self._behind.wait()
        self._behind.clear()
        try:
            await catch_up(self._store)
        except Exception:
            await self._clock.sleep(self._pace.retry_s)
            self._behind.set()
            raise

    async def _resync(self) -> None:
        connection = self._connection
        # What is told from here on is read again, what was told before is read by this.
        names, self._names = self._names, {}
        uuids, self._uuids = self._uuids, {}
        try:
            self.info = await self._hypervisor.info()
            there = await self._read_whole()
        except Exception:
            self._names = self._names | names
            self._uuids = self._uuids | uuids
            if connection != self._connection:
                return  # it broke meanwhile: the next connection begins anew
            await self._clock.sleep(self._pace.retry_s)
            if connection == self._connection:
                self._full_due = True
            self._wake.set()
            raise
        if connection != self._connection:
            return  # it broke meanwhile; what was read is not what is there now
        # No pause since the change: whoever was woken by it finds that libvirt is there.
        again, self.first_sync = self.first_sync, True
        self._mark_synced()
        self.synced.set()
        log.info("in step with libvirt", devices=len(self._store.devices), domains=len(self._store.domains))
        if again:  # at the first read all were derived just now
            await self._look_at_all(there)

    async def _reconcile(self) -> None:
        await self._clock.sleep(self._pace.reconcile_s)
        if not self.connected:
            return
        connection = self._connection
        parts = (
            self._read_unknown_devices(),
            self.read_domains(ChangeSource.RECONCILE),
            self.read_networks(ChangeSource.RECONCILE),
            self.read_uses(ChangeSource.RECONCILE),
        )
        faults = [fault for fault in await asyncio.gather(*parts, return_exceptions=True) if fault is not None]
        for fault in faults:
            if not isinstance(fault, HypervisorGone):
                log.error("a part of the host could not be read again", exc_info=fault)
        if not faults and connection == self._connection:
            self._mark_synced()
        self._forget_gone()

    def _forget_gone(self) -> None:
        """Of what is gone, nothing is kept: names of mediated devices never come again."""
        self._moments.append(self.moment())
        if len(self._moments) == _MOMENTS:
            self._devices_read.forget(self._store.graph.nodes, self._moments[0])
            self._domains_read.forget(self._store.domains, self._moments[0])
            self._stirred = {
                uuid: told
                for uuid, told in self._stirred.items()
                if uuid in self._store.domains or told >= self._moments[0]
            }

    async def _read_unknown_devices(self) -> None:
        missed = self._announced.missed()
        if missed:
            log.warning(
                "libvirt did not tell of node devices; asking for their events again", missed=sorted(missed)[:8]
            )
            self._unheard = True
        if self._unheard:
            await self._hypervisor.listen_again()
            await self.read_all()  # what else changed unheard; again the next time when it fails
            self._unheard = False
        known = self._store.graph.nodes
        unknown = {name for name, node in known.items() if node.undescribed}
        loop = asyncio.get_running_loop()
        if (began := loop.time()) >= self._names_due:
            missed = await self._hypervisor.node_device_names() ^ known.keys()
            self._names_due = loop.time() + _REST * (loop.time() - began)
            self._announced.found(missed)
            unknown |= missed
        if unknown:
            await self._read_devices(unknown, ChangeSource.RECONCILE)

    async def _forever(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """One step after the other; a fault of one is logged, the next goes on."""
        while True:
            try:
                await step()
            except Exception:
                log.exception("following the host failed once", step=step.__name__)
                await self._clock.sleep(self._pace.retry_s)

    def _mark_synced(self) -> None:
        self.synced_time = datetime.fromtimestamp(self._clock.now(), UTC)

    # --- reads ---------------------------------------------------------------------------------------

    async def read_all(self) -> None:
        """Read everything and apply it as one change; what is gone from libvirt goes. Then look at each device."""
        await self._look_at_all(await self._read_whole())

    async def _read_whole(self) -> Collection[str]:
        """The part that is one change; the names of the devices that are there."""
        ticket = next(self._tickets)
        devices, domains, networks = await asyncio.gather(
            self._hypervisor.node_devices(), self._hypervisor.domains(), self._networks()
        )

        def listed() -> frozenset[str]:
            # What was told to have changed since may be gone by now; it is read next.
            there = (device.facts for device in devices if device.name not in self._names)
            return frozenset(facts.interface for facts in there if isinstance(facts, NetFacts))

        uses = await self._host.uses(listed)
        names = {device.name for device in devices}
        newer = {name for name in names if self._devices_read.newer(name, ticket)}
        different = await chosen(devices, lambda device: self._store.graph.get(device.name) != device)
        # Which device is which is settled in one go, over all that may have changed places.
        other = await chosen(names, self._store.is_outdated)
        with self._store.change(ChangeSource.RECONCILE):
            self._store.begin_whole()
            gone = [name for name in self._store.graph.nodes if name not in names]
            self._store.remove_devices(name for name in gone if self._devices_read.newer(name, ticket))
            newer = {name for name in newer if self._devices_read.is_last(name, ticket)}
            self._store.put_devices(device for device in different if device.name in newer)
            if ticket > self._uses_ticket:
                self._uses_ticket = ticket
                self._put_uses(uses)
            self._apply_domains(ticket, domains)
            self._apply_networks(ticket, networks)
            self._store.look_again(other)
        return names

    async def _look_at_all(self, names: Iterable[str]) -> None:
        """Derive all devices again, for what nobody told of; in portions, as calls are answered meanwhile."""
        self._store.behind.add(names)
        await catch_up(self._store)

    async def read_domains(self, source: ChangeSource) -> None:
        """Read all domains; those that are gone go."""
        ticket, connection = next(self._tickets), self._connection
        domains = await self._hypervisor.domains()
        if connection != self._connection:
            return  # what another life of libvirt had may not be there any more
        with self._store.change(source):
            self._apply_domains(ticket, domains)

    def _apply_domains(self, ticket: int, domains: Iterable[Domain]) -> None:
        here = {domain.vm.uuid: domain for domain in domains}
        gone = [uuid for uuid in self._store.domains if uuid not in here]
        self._store.remove_domains(uuid for uuid in gone if self._domains_read.newer(uuid, ticket))
        self._store.put_domains(domain for uuid, domain in here.items() if self._domains_read.newer(uuid, ticket))

    async def read_domain(self, uuid: str, source: ChangeSource, heard_s: float | None = None) -> Domain | None:
        """Read one domain; None, and forgotten, when it is gone. `heard_s`: see `Store.change`."""
        ticket = next(self._tickets)
        try:
            domain = await self._hypervisor.domain(uuid)
        except NoSuchObject:
            if self._domains_read.newer(uuid, ticket):
                with self._store.change(source, heard_s):
                    self._store.remove_domains([uuid])
            return None
        if self._domains_read.newer(uuid, ticket):
            with self._store.change(source, heard_s):
                self._store.put_domains([domain])
        for reader in self.on_read:
            reader(uuid)
        return domain

    async def read_networks(self, source: ChangeSource) -> None:
        """Read again which networks hand out devices. That they cannot be read is told by the store's views."""
        ticket = next(self._tickets)
        networks = await self._networks()
        with self._store.change(source):
            self._apply_networks(ticket, networks)

    async def _networks(self) -> Sequence[Network] | str:
        """The networks, or why they cannot be read: the rest of the host is worth reading all the same."""
        try:
            return await self._hypervisor.networks()
        except HypervisorGone:
            raise
        except Exception as error:  # noqa: BLE001  whatever went wrong, not to know is the only safe answer
            return error.text if isinstance(error, HypervisorError) else f"{type(error).__name__}: {error}"

    def _apply_networks(self, ticket: int, networks: Sequence[Network] | str) -> None:
        if ticket < self._networks_ticket:
            return
        self._networks_ticket = ticket
        fault = networks if isinstance(networks, str) else ""
        if fault and fault != self._networks_fault:
            log.warning("libvirt's networks cannot be read", why=fault)
        self._networks_fault = fault
        if isinstance(networks, str):
            self._store.lose_networks(networks)
        else:
            self._store.put_networks(networks)

    def listed(self) -> frozenset[str] | None:
        """The interfaces that libvirt lists (`Listed`).

        Without those of devices that an operation works on: they go with the driver, and libvirt hears of it later.
        """
        return self._store.graph.interfaces() - self._store.interfaces_in_work() if self.connected else None

    async def read_uses(self, source: ChangeSource) -> None:
        """Read the host's uses and the drivers of all PCI functions again, with all who want that now."""
        await self._shared_uses(source)

    async def check_uses(self, source: ChangeSource, names: Iterable[str]) -> None:
        """Have the store know the host's uses of now, and the drivers of these devices.

        All of it is read again unless the host says that nothing has happened since the store was told; what else
        is under way may tell more.
        """
        if self._uses_as_of is None or not await self._host.is_still(self._uses_as_of, self.listed):
            await self.read_uses(source)
            return
        changed = [name for name in names if self._store.has_other_driver(name)]
        if changed:
            with self._store.change(source):
                self._store.look_again(changed)

    def uses_changed(self) -> None:
        """Have the host's uses read soon, without waiting for it."""
        self._wake_uses.set()

    async def _read_uses(self, source: ChangeSource) -> None:
        ticket = next(self._tickets)
        uses = await self._host.uses(self.listed)
        if ticket < self._uses_ticket:
            return
        self._uses_ticket = ticket
        changed = await chosen(tuple(self._store.devices), self._store.has_other_driver)
        with self._store.change(source):
            if ticket == self._uses_ticket:
                self._put_uses(uses)
            self._store.look_again(changed)

    def _put_uses(self, uses: HostUses) -> None:
        self._store.put_uses(uses)
        self._uses_as_of = uses.as_of

    async def _read_devices(
        self, names: Iterable[str], source: ChangeSource = ChangeSource.EVENT, heard_s: float | None = None
    ) -> None:
        """Read these devices, and those whose XML changed with them; what is gone goes."""
        ticket = next(self._tickets)
        fresh = await self._fresh_devices(names)
        fresh |= await self._fresh_devices(outdated(self._store.graph, fresh))
        with self._store.change(source, heard_s):
            for name, device in fresh.items():
                if not self._devices_read.newer(name, ticket):
                    continue
                if device is None:
                    self._store.remove_devices([name])
                else:
                    self._store.put_devices([device])

    async def read_again(self, names: Iterable[str]) -> None:
        """Read these devices now, and all in whose names libvirt and the store differ."""
        listed = await self._hypervisor.node_device_names()
        differing = listed ^ self._store.graph.nodes.keys()
        await self._read_devices({*names, *differing}, ChangeSource.OPERATION)

    async def _fresh_devices(self, names: Iterable[str]) -> dict[str, NodeDevice | None]:
        names = tuple(names)
        answers = await asyncio.gather(*(self._hypervisor.node_device(name) for name in names), return_exceptions=True)
        fresh: dict[str, NodeDevice | None] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, NoSuchObject):
                fresh[name] = None
            elif isinstance(answer, BaseException):
                raise answer
            else:
                fresh[name] = answer
        return fresh
