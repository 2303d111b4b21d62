"""Looking at what is really there: the domain now, what of it belongs to an assignment, what happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from hostdevd.core.assignments import Assignment
from hostdevd.core.graph import group_mates_of
from hostdevd.core.history import ChangeSource
from hostdevd.core.holders import devices_of
from hostdevd.core.model import Domain, DomainDef, DomainEntry, Vm
from hostdevd.core.ports import Clock, Connected, Event, HostPort, HypervisorError, HypervisorGone
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

log = structlog.get_logger()


class Looking:
    """Eyes on one host."""

    def __init__(self, store: Store, sync: Sync, host: HostPort, clock: Clock) -> None:
        self._store = store
        self._sync = sync
        self._host = host
        self._clock = clock

    def events(self, uuid: str) -> Subscription:
        """What happens to a VM while the answer is entered."""
        return Subscription(self._sync, uuid)

    def entries(
        self, assignment: Assignment, definition: DomainDef | None, only: frozenset[str] | None = None
    ) -> tuple[DomainEntry, ...]:
        """The entries of a definition that belong to an assignment: by alias, or, without one, by device.

        With `only`, those with these aliases and no others.
        """
        if definition is None:
            return ()
        if only is not None:
            return tuple(entry for entry in definition.entries if entry.alias in only)
        names = {self._store.identities.name(device.uid) or device.name for device in assignment.devices}
        aliases = assignment.aliases - {""}

        def belongs(entry: DomainEntry) -> bool:
            if entry.alias in aliases:
                return True
            if entry.alias is not None and entry.alias.startswith("ua-hostdev-"):
                return False
            if entry.alias is not None and any(one.alias in aliases for one in definition.entries):
                return False
            return bool(names & set(self.names(entry)))

        return tuple(entry for entry in definition.entries if belongs(entry))

    async def has_live(self, assignment: Assignment) -> bool:
        """Whether the VM's guest has something of an assignment now."""
        domain = await self.domain(assignment.vm.uuid)
        return any(not entry.missing for entry in self.entries(assignment, domain.live if domain else None))

    def names(self, entry: DomainEntry) -> tuple[str, ...]:
        """The devices that an entry names now."""
        return devices_of(self._store.graph, entry.source, self._host.block_paths)

    def device_name(self, assignment: Assignment, entry: DomainEntry) -> str:
        """What to call an entry: by the record of the assignment, else by what is at its source."""
        for device in assignment.devices:
            if device.alias and device.alias == entry.alias:
                return device.name
        names = self.names(entry)
        return names[0] if names else str(entry.source)

    def keeper(self, names: Iterable[str]) -> tuple[Vm, str] | None:
        """A running VM that has one of these devices, or a member of their groups, and which."""
        nodes = (self._store.graph.get(name) for name in names)
        group = {mate.name for node in nodes if node is not None for mate in group_mates_of(self._store.graph, node)}
        for domain in self._store.domains.values():
            for entry in domain.live.entries if domain.live else ():
                if entry.missing:
                    continue
                for name in self.names(entry):
                    if name in group:
                        return domain.vm, name
        return None

    async def back(self) -> None:
        """Wait until libvirt answers again after a call that it did not."""
        # The connection's end is announced a moment after the call that met it.
        await self._clock.sleep(0.05)
        await self._sync.synced.wait()

    async def domain(self, uuid: str, since: int | None = None) -> Domain | None:
        """The domain as it is now, or as it was read `since` (`Sync.known_domain`); waits while libvirt is away."""
        while True:
            try:
                return await self._sync.known_domain(uuid, since, ChangeSource.EVENT)
            except HypervisorGone:
                await self.back()
            except HypervisorError as error:
                log.warning("a domain cannot be read; trying again", uuid=uuid, error=str(error))
                await self._clock.sleep(1.0)


class Subscription:
    """The events of one VM (and of the connection) from now on, as a queue."""

    def __init__(self, sync: Sync, uuid: str) -> None:
        self._sync = sync
        self._uuid = uuid
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> asyncio.Queue[Event]:
        self._stop = self._sync.listen(self._hear)
        return self._queue

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._stop()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Connected) or getattr(event, "uuid", None) == self._uuid:
            self._queue.put_nowait(event)
