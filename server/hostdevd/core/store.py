"""The state of the host in memory: inputs go in, views come out, every difference gets a revision.

One writer (the event loop), no awaiting. Inputs are what the ports said last: node devices, domains, host
uses, and the engine's assignments. A commit derives again only what may depend on what changed, compares
it with what was there, and records the difference as one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from hostdevd.core import eligibility as rules
from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.assignments import Assignment
from hostdevd.core.behind import Behind
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.graph import DeviceGraph, group_mates_of, iommu_group_of, sources_of
from hostdevd.core.groups import group_uid
from hostdevd.core.history import Batch, Change, ChangeSource, History
from hostdevd.core.holders import BlockPaths, Held, Labels, as_told, entry_of, gap_of, held_by, holders_of, with_config
from hostdevd.core.identity import FactsOf, Identities, Identity
from hostdevd.core.interest import Interest
from hostdevd.core.model import (
    Bar,
    Domain,
    Eligibility,
    Holder,
    HostUse,
    HostUseKind,
    HostUses,
    NetFacts,
    Network,
    NodeDevice,
    OfVm,
    PciFacts,
)
from hostdevd.core.multimap import MultiMap
from hostdevd.core.past import Lives, Past
from hostdevd.core.policy import NO_POLICY, Policy
from hostdevd.core.pools import PoolUses, is_given, pool_uses
from hostdevd.core.ports import DriverState
from hostdevd.core.profiles import Profile
from hostdevd.core.selectors import lasting_traits
from hostdevd.core.tally import Tally
from hostdevd.core.views import DeviceView, GroupView, group_view

_CARRIES_DISKS = frozenset({"storage", "scsi", "pci"})
"""The types by which a domain's block device may be held: a disk, its LUN, or the function that it is (NVMe)."""


@dataclass(frozen=True, slots=True)
class Senses:
    """What the store and plans over it read: quick looks at the host, none of which waits."""

    driver: Callable[[PciAddress], DriverState]
    identity: FactsOf
    block_paths: BlockPaths
    now: Callable[[], float]
    monotonic: Callable[[], float]
    bars: Callable[[PciAddress], tuple[Bar, ...]] = lambda _: ()
    has_generic_node: Callable[[ScsiAddress], bool] = lambda _: True
    kernel_release: Callable[[], str] = lambda: ""


class Store:
    """The views of one host.

    `on_commit` is called after each commit that changed something, with the new revision.
    """

    def __init__(  # noqa: PLR0913, PLR0915  what it begins with, and what it keeps
        self,
        senses: Senses,
        identities: Identities,
        profile: Profile,
        *,
        lives: Lives,
        revision: int,
        past: Past | None = None,
        policy: Policy = NO_POLICY,
    ) -> None:
        self._senses = senses
        self._identities = identities
        self._profile = profile
        self._policy = policy
        self._uses_told = HostUses()
        self._uses: dict[str, tuple[HostUse, ...]] = {}
        self._networks: tuple[Network, ...] = ()
        self._networks_fault = ""
        self._pools = PoolUses()
        self._domain_gaps: tuple[OfVm, ...] = ()
        self._unknown: tuple[tuple[str, str], ...] = ()
        self._domains: dict[str, Domain] = {}
        self._interest = Interest(senses.block_paths)
        self._frozen: dict[str, frozenset[str]] = {}
        self._holders_of_device: defaultdict[str, dict[str, Holder]] = defaultdict(dict)
        self._holders_of_vm: defaultdict[str, dict[str, Holder]] = defaultdict(dict)
        self._assignment_of: dict[tuple[str, str], str] = {}
        self._by_service: MultiMap[str, str] = MultiMap()
        self._claims: MultiMap[str, str] = MultiMap()
        self.graph = DeviceGraph()
        self.lives = lives
        self.revision = revision
        self.behind = Behind()
        self.devices: dict[str, DeviceView] = {}
        self._device_names: tuple[str, ...] | None = None
        self.groups: dict[str, GroupView] = {}
        self._group_by_number: dict[int, str] = {}
        self.holders: dict[str, Holder] = {}
        self.assignments: dict[str, Assignment] = {}
        self.device_history: History[DeviceView] = History(revision)
        self.holder_history: History[Holder] = History(revision)
        if past is not None:
            self.holder_history = History(past.oldest, past.batches, read=senses.monotonic())
        self._past = past.holders if past else ()
        self.is_whole = False
        """Whether the host was ever read: until then the holders of the last life are nobody's to see."""
        self.tally = Tally()
        """How many of what there are."""
        self.on_commit: list[Callable[[int], None]] = []
        self.heard_s: float | None = None
        """While `on_commit` is called: when the event behind the commit was heard (monotonic); None without one."""
        self._dirty_devices: set[str] = set()
        self._dirty_domains: set[str] = set()
        self._dirty_groups: set[int] = set()
        self._touched_disks: set[str] = set()
        self._group_uids: dict[int, str] = {}
        self._uses_stale = False
        self._drivers: dict[str, DriverState] = {}
        self._holder_changes: list[Change[Holder]] = []
        self._assignments_changed = False
        self._depth = 0

    # --- reading -------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """Which state directory the revisions are of."""
        return self.lives.epoch

    @property
    def identities(self) -> Identities:
        """The uids of the devices."""
        return self._identities

    @property
    def domains(self) -> Mapping[str, Domain]:
        """Domains by UUID, as last read."""
        return self._domains

    @property
    def device_names(self) -> tuple[str, ...]:
        """The libvirt names of all devices, sorted."""
        if self._device_names is None:
            self._device_names = tuple(sorted(self.devices))
        return self._device_names

    def device(self, name_or_uid: str) -> DeviceView | None:
        """A device by libvirt name or uid."""
        view = self.devices.get(name_or_uid)
        if view is None:
            name = self._identities.name(name_or_uid)
            view = self.devices.get(name) if name is not None else None
        return view

    @property
    def pool_gaps(self) -> tuple[str, ...]:
        """Why it is not known which devices belong to libvirt's networks; empty where it is."""
        return self._pools.gaps

    @property
    def domain_gaps(self) -> tuple[OfVm, ...]:
        """The VMs of which it is not known which devices they hold, and why."""
        return self._domain_gaps

    def has_other_driver(self, name: str) -> bool:
        """Whether a known PCI function has another driver now than when its view was derived."""
        node = self.graph.get(name)
        if node is None or not isinstance(node.facts, PciFacts):
            return False
        state = self._senses.driver(node.facts.address)
        return state.present and state != self._drivers.get(name)

    def is_outdated(self, name: str) -> bool:
        """Whether the host tells another identity or driver of a known device now than when its view was derived."""
        return name in self.graph and (
            self.has_other_driver(name) or self._identities.is_stale(self.graph, name, self._senses.identity)
        )

    def bars(self, address: PciAddress) -> tuple[Bar, ...]:
        """The memory regions of a PCI function, read now."""
        return self._senses.bars(address)

    def has_generic_node(self, address: ScsiAddress) -> bool:
        """Whether a LUN has a SCSI generic node, read now."""
        return self._senses.has_generic_node(address)

    def kernel_release(self) -> str:
        """The host's kernel, as it names itself."""
        return self._senses.kernel_release()

    def holders_of(self, device: str) -> tuple[Holder, ...]:
        """The holders of a device by its libvirt name (or what the domain's XML names)."""
        return tuple(self._holders_of_device.get(device, {}).values())

    def holders_in(self, vm: str) -> tuple[Holder, ...]:
        """What a VM (by UUID) holds."""
        return tuple(self._holders_of_vm.get(vm, {}).values())

    def group_of(self, device: NodeDevice) -> GroupView | None:
        """The IOMMU group of a device."""
        number = iommu_group_of(device)
        if number is None:
            return None
        view = self.devices.get(device.name)
        return self.groups.get(view.group) if view is not None and view.group is not None else None

    # --- writing -------------------------------------------------------------------------------------

    @contextmanager
    def change(self, source: ChangeSource, heard_s: float | None = None) -> Iterator[None]:
        """Several inputs, one revision. Nested changes belong to the outermost, and have its source.

        `heard_s`: when the event that made somebody look was heard.
        """
        if not self._depth:
            self.heard_s = heard_s
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                try:
                    self._commit_or_keep(source)
                finally:
                    self.heard_s = None

    def begin_whole(self) -> None:
        """Compare with the holders of the last life; call within the `change` that has all that there is now."""
        for holder in self._past:
            self._replace_holder(holder.key, self.holders.get(holder.key), holder)
            self._dirty_domains.add(holder.vm.uuid)
        self._past = ()
        self.is_whole = True

    def adopt(self, lives: Lives, revision: int, identities: Iterable[Identity], past: Past | None) -> None:
        """Go on as a state store says that could not be read until now; call within `change`.

        The revisions so far were of another epoch. The next one lies beyond theirs and the stored ones, and no
        position from before it can be continued. Holders that are there still have been since they were.
        """
        self.lives = lives
        self.revision = max(self.revision, revision) + 1
        self.device_history = History(self.revision)
        self.holder_history = History(self.revision)
        self._identities.replace(identities)
        self._dirty_devices.update(self.graph.nodes)
        self._dirty_groups.update(group.iommu_group for group in self.groups.values())
        self._dirty_domains.update(self._domains)
        self._assignments_changed = True
        self._past = past.holders if past else ()
        if self.is_whole:
            self.begin_whole()

    def put_devices(self, devices: Iterable[NodeDevice]) -> None:
        """Replace these devices; call within `change`."""
        changed = [device for device in devices if self.graph.get(device.name) != device]
        self._uses_stale = self._uses_stale or bool(changed)
        if len(changed) > len(self.graph) // 2:  # as at the start: nothing is found by looking at each
            self._touch_all()
            for device in changed:
                self.graph.put(device)
            self._touch_all()
            return
        for device in changed:
            self._touch(device.name)
            self.graph.put(device)
            self._touch(device.name)

    def remove_devices(self, names: Iterable[str]) -> None:
        """Forget devices that are gone from the host; call within `change`."""
        for name in names:
            self._touch(name)
            self.graph.remove(name)
            self._uses_stale = True

    def put_domains(self, domains: Iterable[Domain]) -> None:
        """Replace these domains; call within `change`."""
        for domain in domains:
            before = self._domains.get(domain.vm.uuid)
            if before != domain:
                self._domains[domain.vm.uuid] = domain
                self._dirty_domains.add(domain.vm.uuid)
                self._uses_stale |= gap_of(domain) is not None or (before is not None and gap_of(before) is not None)

    def remove_domains(self, uuids: Iterable[str]) -> None:
        """Forget domains that are gone; call within `change`."""
        for uuid in uuids:
            gone = self._domains.pop(uuid, None)
            if gone is not None:
                self._dirty_domains.add(uuid)
                self._uses_stale |= gap_of(gone) is not None

    def put_uses(self, uses: HostUses) -> None:
        """Replace what is known of the host's uses; call within `change`."""
        self._uses_told = uses
        self._uses_stale = True
        for path in self.graph.put_shared(uses.shared):
            name = self.graph.by_path(path)
            if name is not None:
                self._touch(name)

    def put_networks(self, networks: Iterable[Network]) -> None:
        """Replace the networks that hand out devices; call within `change`."""
        self._networks, self._networks_fault = tuple(networks), ""
        self._uses_stale = True

    def lose_networks(self, why: str) -> None:
        """The networks cannot be read: those that were known stay, and there may be more; call within `change`."""
        self._networks_fault = why
        self._uses_stale = True

    def put_policy(self, policy: Policy) -> None:
        """Replace the operator's policy, which every device is judged by again, soon (`behind`)."""
        if policy != self._policy:
            self._policy = policy
            self.behind.add(self.graph.nodes)

    def catch_up(self, name: str) -> None:
        """Judge a device and its kin by all that is known now, before something is decided by its view."""
        late = self.behind.among(self.graph.related(name)) if self.behind else None
        if late:
            with self.change(ChangeSource.RECONCILE):
                self._dirty_devices |= late

    def catch_up_some(self, count: int) -> bool:
        """Judge so many of those that are behind; False when there was none."""
        late = self.behind.some(count)
        if late:
            self.behind.discard(late - self.graph.nodes.keys())
            with self.change(ChangeSource.RECONCILE):
                self._dirty_devices |= late & self.graph.nodes.keys()
        return bool(late)

    def look_again(self, names: Iterable[str]) -> None:
        """Read drivers of these devices again; call within `change`."""
        self._dirty_devices.update(names)

    def freeze(self, vm: str, devices: Iterable[str]) -> None:
        """Keep the holders of these devices (uids) in this VM as they are until `thaw`: an operation is under way."""
        self._frozen[vm] = self._frozen.get(vm, frozenset()) | frozenset(devices)

    def interfaces_in_work(self) -> frozenset[str]:
        """The network interfaces of the devices that operations work on, as libvirt last listed them."""
        names = (self._identities.name(uid) for uids in self._frozen.values() for uid in uids)
        below = (node for name in names if name is not None for node in self.graph.descendants(name))
        return frozenset(node.facts.interface for node in below if isinstance(node.facts, NetFacts))

    def thaw(self, vm: str, devices: Iterable[str]) -> None:
        """Show what became of the devices that were frozen; call within `change`."""
        left = self._frozen.pop(vm, frozenset()) - frozenset(devices)
        if left:
            self._frozen[vm] = left
        self._dirty_domains.add(vm)

    def put_assignment(self, assignment: Assignment) -> None:
        """Add or replace an assignment; call within `change`."""
        if self.assignments.get(assignment.name) == assignment:
            return
        before = self.assignments.get(assignment.name)
        if before is not None:
            self._claim(before, claimed=False)
        self.assignments[assignment.name] = assignment
        self.tally.assignment(before, assignment)
        self._claim(assignment, claimed=not assignment.state.closed)
        self._index_assignment(assignment)
        self._dirty_domains.add(assignment.vm.uuid)
        self._assignments_changed = True

    def remove_assignment(self, name: str) -> None:
        """Forget an assignment; call within `change`."""
        gone = self.assignments.pop(name, None)
        if gone is not None:
            self.tally.assignment(gone, None)
            self._by_service.discard(gone.vm.uuid, name)
            self._claim(gone, claimed=False)
            self._dirty_domains.add(gone.vm.uuid)
            self._assignments_changed = True

    # --- deriving ------------------------------------------------------------------------------------

    def _index_assignment(self, assignment: Assignment) -> None:
        self._by_service.discard(assignment.vm.uuid, assignment.name)
        if assignment.config and not assignment.state.closed and any(one.by_service for one in assignment.devices):
            self._by_service.add(assignment.vm.uuid, assignment.name)
        for device in assignment.devices:
            key = (assignment.vm.uuid, device.alias)
            if assignment.state.closed:
                if self._assignment_of.get(key) == assignment.name:
                    del self._assignment_of[key]
            else:
                self._assignment_of[key] = assignment.name

    def _claim(self, assignment: Assignment, *, claimed: bool) -> None:
        for device in assignment.devices:
            if claimed:
                self._claims.add(device.uid, assignment.name)
            else:
                self._claims.discard(device.uid, assignment.name)
            name = self._identities.name(device.uid)
            if name is not None:
                self._dirty_devices |= self.graph.related(name)

    def _touch(self, name: str) -> None:
        related = self.graph.related(name)
        self._dirty_devices |= related
        for other in related:
            node = self.graph.get(other)
            number = iommu_group_of(node) if node is not None else None
            if number is not None:
                self._dirty_groups.add(number)
        # Who holds a device depends on what is at an address now.
        self._dirty_domains |= self._interest.holding(related)
        device = self.graph.get(name)
        if device is not None:
            self._dirty_domains |= self._interest.naming(sources_of(device))
            if device.type in _CARRIES_DISKS:
                self._touched_disks.add(name)

    def _touch_all(self) -> None:
        self._dirty_devices.update(self.graph.nodes)
        self._dirty_groups.update(self.graph.iommu_groups())
        self._dirty_groups.update(group.iommu_group for group in self.groups.values())
        self._dirty_domains.update(self._domains)

    def _commit_or_keep(self, source: ChangeSource) -> None:
        """Commit; after a fault in the middle the next commit derives all of this again."""
        if self._touched_disks:
            # A disk is held as the LUN or function that carries it.
            carriers = {other for name in self._touched_disks for other in self.graph.related(name)}
            self._dirty_domains |= self._interest.on_disks(self.graph, carriers)
            self._touched_disks = set()
        before = set(self._dirty_devices), set(self._dirty_domains), set(self._dirty_groups)
        stale, changed = self._uses_stale, self._assignments_changed
        try:
            self._commit(source)
        except BaseException:
            devices, domains, groups = before
            self._dirty_devices |= devices
            self._dirty_domains |= domains
            self._dirty_groups |= groups
            self._uses_stale = self._uses_stale or stale
            self._assignments_changed = self._assignments_changed or changed
            raise

    def _commit(self, source: ChangeSource) -> None:
        now, monotonic = datetime.fromtimestamp(self._senses.now(), UTC), self._senses.monotonic()
        revision = self.revision + 1
        self._identify()
        if self._uses_stale:
            self._join_uses()
        # Kept until they are in the history: a fault below must not lose what was derived before it.
        self._holder_changes += self._derive_holders(source, now)
        holder_changes = self._holder_changes
        device_changes = self._derive_devices(revision, source, now)
        self._derive_groups()
        if not (holder_changes or device_changes or self._assignments_changed):
            return
        self._assignments_changed = False
        self._holder_changes = []
        self.revision = revision
        if holder_changes:
            self.holder_history.append(Batch(revision, tuple(holder_changes)), monotonic)
        if device_changes:
            self.device_history.append(Batch(revision, tuple(device_changes)), monotonic)
        for listener in self.on_commit:
            listener(revision)

    def _identify(self) -> None:
        gone = [name for name in self._dirty_devices if name not in self.graph]
        self._identities.forget(gone)
        here = [name for name in self._dirty_devices if name in self.graph]
        self._identities.resolve(self.graph, here, self._senses.identity)
        self._group_uids.clear()  # of this commit alone: members and their uids stay as they are now

    def _join_uses(self) -> None:
        self._uses_stale = False
        joined: defaultdict[str, tuple[HostUse, ...]] = defaultdict(tuple)
        for path, uses in self._uses_told.by_path.items():
            name = self.graph.by_path(path)
            if name is not None:
                joined[name] += uses
        self._pools = pool_uses(self._networks, self._networks_fault, self.graph)
        for name, uses in self._pools.by_device.items():
            joined[name] += uses
        gaps = tuple(filter(None, map(gap_of, self._domains.values())))
        unknown = (*self._uses_told.unknown, *self._pools.unknown)
        if (unknown, gaps) != (self._unknown, self._domain_gaps):
            self._unknown, self._domain_gaps = unknown, gaps
            self.behind.add(self.graph.nodes)
        for name in joined.keys() | self._uses.keys():
            if joined.get(name) != self._uses.get(name):
                self._dirty_devices |= self.graph.related(name)
        self._uses = dict(joined)

    def _derive_holders(self, source: ChangeSource, now: datetime) -> list[Change[Holder]]:
        changes: list[Change[Holder]] = []
        dirty, self._dirty_domains = self._dirty_domains, set()
        for uuid in dirty:
            before = dict(self._holders_of_vm.get(uuid, {}))
            after = self._holders_now(uuid, before, now)
            for key in before.keys() | after.keys():
                old, new = before.get(key), after.get(key)
                if old == new:
                    continue
                changes.append(Change(key, old, new, source, now))
                self._replace_holder(key, old, new)
        changes.sort(key=lambda change: change.key)
        return changes

    def _holders_now(self, uuid: str, before: Mapping[str, Holder], now: datetime) -> dict[str, Holder]:
        domain = self._domains.get(uuid)
        held = self._with_service(domain, uuid) if domain is not None else ()
        if domain is None:
            self._interest.remove(uuid)
        else:
            self._interest.put(domain, held)
        frozen = self._frozen.get(uuid, frozenset())
        fresh = holders_of(domain, held, self._labels, before, now) if domain is not None else ()
        after = {holder.key: holder for holder in fresh if holder.uid not in frozen}
        for key, holder in before.items():
            if holder.uid in frozen:
                after[key] = replace(holder, vm=as_told(domain.vm)) if domain is not None else holder
        return after

    def _with_service(self, domain: Domain, uuid: str) -> tuple[Held, ...]:
        """What a domain holds, with what hostdevd keeps in its place (`CONFIG_BY_SERVICE`)."""
        held = held_by(domain, self.graph, self._senses.block_paths)
        for name in self._by_service.get(uuid):
            kept = [device for device in self.assignments[name].devices if device.by_service]
            names = [self._identities.name(device.uid) or device.name for device in kept]
            held = with_config(held, dict(zip(names, map(entry_of, kept), strict=True)))
        return held

    def _labels(self, vm: str, held: Held) -> Labels:
        node = self.graph.get(held.device)
        aliases = (entry.alias for entry in (held.live, held.config) if entry is not None and entry.alias is not None)
        assignment = next((name for alias in aliases if (name := self._assignment_of.get((vm, alias)))), None)
        return Labels(
            uid=self._identities.get(held.device) or "",
            group=self._group_uid_of(node) if node is not None else None,
            assignment=assignment,
            traits=lasting_traits(node) if node is not None else (),
        )

    def _group_uid_of(self, node: NodeDevice) -> str | None:
        number = iommu_group_of(node)
        if number is None:
            return None
        known = self._group_uids.get(number)
        if known is None:
            known = self._group_uids[number] = group_uid(self.graph.iommu_members(number), self._identities.uid)
        return known

    def _replace_holder(self, key: str, old: Holder | None, new: Holder | None) -> None:
        self.tally.holder(old, new)
        if old is not None:
            del self.holders[key]
            _drop(self._holders_of_device, old.device, key)
            _drop(self._holders_of_vm, old.vm.uuid, key)
        if new is not None:
            self.holders[key] = new
            self._holders_of_device[new.device][key] = new
            self._holders_of_vm[new.vm.uuid][key] = new
        for holder in (old, new):
            if holder is not None and holder.device in self.graph:
                self._dirty_devices |= self.graph.related(holder.device)

    def _derive_devices(self, revision: int, source: ChangeSource, now: datetime) -> list[Change[DeviceView]]:
        dirty = set(self._dirty_devices)
        # Whether a device may go depends on what stands on its group mates.
        numbers = {iommu_group_of(node) for name in dirty if (node := self.graph.get(name)) is not None} - {None}
        dirty |= {mate.name for number in numbers if number is not None for mate in self.graph.iommu_members(number)}
        drivers = {name: self._driver_state(name) for name in dirty if name in self.graph}
        self._drivers.update(drivers)
        for name in dirty - drivers.keys():
            self._drivers.pop(name, None)
        overrides = {name: state.override for name, state in drivers.items() if state.override}
        around = rules.Surroundings(
            graph=self.graph,
            uses=self._uses_of_others(drivers),
            unknown=self._unknown,
            unread=self._domain_gaps,
            overrides=overrides,
            profile=self._profile,
            policy=self._policy,
            uids={name: self._identities.uid(name) for name in drivers},
            drivers={name: self._host_driver(name, state) for name, state in drivers.items()},
        )
        changes: list[Change[DeviceView]] = []
        for name in sorted(dirty):
            old = self.devices.get(name)
            node = self.graph.get(name)
            new = self._view(node, drivers[name], around, revision) if node is not None else None
            if old == new:
                continue
            for view in (old, new):
                number = iommu_group_of(view.node) if view is not None else None
                if number is not None:
                    self._dirty_groups.add(number)
            if new is None or old is None:
                self._device_names = None
            if new is None:
                del self.devices[name]
            else:
                self.devices[name] = new
            self.tally.device(old, new)
            # The key is the name: a device that comes back under another name is removed and added.
            changes.append(Change(name, old, new, source, now))
        self._dirty_devices = set()
        self.behind.discard(dirty)
        return changes

    def _uses_of_others(self, drivers: Mapping[str, DriverState]) -> Mapping[str, tuple[HostUse, ...]]:
        """Uses by device, of these without what is a VM of libvirt's, our own work in flight, or over."""
        busy = frozenset().union(*self._frozen.values()) if self._frozen else frozenset[str]()
        uses = dict(self._uses)
        for name in drivers:
            known = uses.get(name)
            if known is None:
                continue
            explained = set()
            if any(holder.live for holder in self.holders_of(name)) or self._identities.get(name) in busy:
                explained.add(HostUseKind.VFIO_USER)
            if any(map(is_given, self.holders_of(name))):
                explained.add(HostUseKind.NETWORK_POOL)
            uses[name] = tuple(use for use in known if use.kind not in explained and not _was_open(use, drivers[name]))
        return uses

    def is_on_vfio(self, uid: str) -> bool:
        """Whether a device is on a VFIO driver now, so that anybody may have it open."""
        name = self._identities.name(uid)
        return name is not None and name in self.graph and is_vfio_driver(self._driver_state(name).driver)

    def _driver_state(self, name: str) -> DriverState:
        node = self.graph.nodes[name]
        if isinstance(node.facts, PciFacts):
            return self._senses.driver(node.facts.address)
        return DriverState(present=True, driver=node.driver)

    def _host_driver(self, name: str, state: DriverState) -> str | None:
        """The host's own driver of a device, by which the policy judges it.

        While a guest has the device, or an operation works on it, hostdevd's record counts and not the
        vfio-pci (or, for a moment, nothing) that is bound: else the verdict would change half-way.
        """
        bound = state.driver if state.present else self.graph.nodes[name].driver
        if bound is not None and not is_vfio_driver(bound):
            return bound
        uid = self._identities.uid(name)
        in_guest = any(holder.live for holder in self.holders_of(name))
        for assignment in (self.assignments[claim] for claim in sorted(self._claims.get(uid))):
            if not (in_guest or assignment.live or assignment.state.in_flight):
                continue  # only configured: what is bound is the host's choice
            for device in assignment.devices:
                if device.uid == uid and device.driver_known:
                    return device.original_driver
        return bound

    def _view(self, node: NodeDevice, state: DriverState, around: rules.Surroundings, revision: int) -> DeviceView:
        reasons = rules.reasons(around, node)
        return DeviceView(
            node=node,
            uid=self._identities.uid(node.name),
            children=self.graph.children(node.name),
            reaches=tuple(disk.name for disk in self.graph.shared_disks(node)),
            driver=state.driver if state.present else node.driver,
            host_driver=around.drivers.get(node.name),
            group=self._group_uid_of(node),
            eligibility=Eligibility(
                eligible=not reasons, available=not reasons and not self._is_taken(node), reasons=reasons
            ),
            host_uses=around.uses.get(node.name, ()),
            holders=self.holders_of(node.name),
            revision=revision,
        )

    def blocking_holders(self, node: NodeDevice) -> tuple[Holder, ...]:
        """Who holds an endpoint of the device's group, its PF, its VFs, or its mdev's parent."""
        return tuple(holder for name in self._standing_with(node) for holder in self.holders_of(name))

    def claims(self, node: NodeDevice) -> tuple[Assignment, ...]:
        """The open assignments of what `blocking_holders` looks at, held at this moment or not."""
        uids = (self._identities.get(name) for name in self._standing_with(node))
        names = self._claims.of_any(uid for uid in uids if uid is not None)
        return tuple(self.assignments[name] for name in sorted(names))

    def claims_on(self, device: str) -> tuple[Assignment, ...]:
        """The open assignments of one device by its libvirt name, held at this moment or not."""
        uid = self._identities.get(device)
        return tuple(self.assignments[name] for name in sorted(self._claims.get(uid))) if uid is not None else ()

    def _is_taken(self, node: NodeDevice) -> bool:
        if not (self.holders or self._claims or self._frozen):
            return False
        if self.blocking_holders(node) or self.claims(node):
            return True
        busy = frozenset().union(*self._frozen.values())
        return any(self._identities.get(name) in busy for name in self._standing_with(node))

    def _standing_with(self, node: NodeDevice) -> tuple[str, ...]:
        names = {mate.name for mate in group_mates_of(self.graph, node)}
        for name in tuple(names):
            mate = self.graph.nodes[name]
            if isinstance(mate.facts, PciFacts):
                linked = (mate.facts.phys_function, *self.graph.virtual_functions(mate.facts))
                names |= {other for address in linked if address is not None for other in self.graph.at(address)}
            if mate.type == "mdev" and mate.parent is not None:
                names.add(mate.parent)
        return tuple(sorted(names))

    def _derive_groups(self) -> None:
        dirty, self._dirty_groups = self._dirty_groups, set()
        if not dirty:
            return
        for number in dirty:  # all of them first: a uid may have gone over to another number
            gone = self.groups.pop(self._group_by_number.pop(number, ""), None)
            if gone is not None:
                self.tally.group(gone, None)
        for number in dirty:
            members = self.graph.iommu_members(number)
            if members:
                group = group_view(number, members, self.devices, self._identities.uid)
                self.tally.group(self.groups.get(group.uid), group)
                self.groups[group.uid] = group
                self._group_by_number[number] = group.uid


def _drop(index: defaultdict[str, dict[str, Holder]], group: str, key: str) -> None:
    """Take a holder out of an index, and its group with the last one."""
    index[group].pop(key, None)
    if not index[group]:
        del index[group]


def _was_open(use: HostUse, state: DriverState) -> bool:
    """Whether a use is that of a VFIO driver which is not bound any more: it was read before."""
    is_vfio = use.kind is HostUseKind.VFIO_USER and is_vfio_driver(use.detail)
    return is_vfio and state.present and use.detail != state.driver
