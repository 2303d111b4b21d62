"""A simulated host with a hostdevd on it, hands that do things to both, and eyes that know who did what.

All of it on one virtual loop. What the rules promise is checked at two places: as hostdevd calls libvirt
(nobody else's deed can be taken for its own there), and when everything has come to rest (`at_rest`).
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hostdevd.app import Core, Ports, run_core
from hostdevd.core.addresses import DeviceSource, PciAddress
from hostdevd.core.assignments import Assignment, AssignmentState
from hostdevd.core.behind import catch_up
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import endpoints
from hostdevd.core.history import ChangeSource, Span, merge
from hostdevd.core.identity import Identities
from hostdevd.core.model import ConditionCode, Holder, HolderRole, NodeDevice, PciFacts, VmState
from hostdevd.core.past import Lives, Lost, Position
from hostdevd.core.plan import AttachRequest
from hostdevd.core.ports import HostdevSpec, HypervisorError, Target
from hostdevd.core.profiles import DEFAULT
from hostdevd.core.release import DetachRequest
from hostdevd.core.steps import Delays
from hostdevd.core.store import Senses, Store
from hostdevd.core.sync import Pace
from hostdevd.sim import lifecycle
from hostdevd.sim.kernel import VFIO
from hostdevd.sim.moving import Moves
from hostdevd.sim.simulation import Simulation, simulate
from property.virtual import VirtualClock, VirtualLoop

T = TypeVar("T")

REST_S = 45.0
"""Longer than any clockwork of the service: reconciling, tending, sending an unplug request again."""
_RACE_S = 6.0
"""What another tool did so shortly before an operation was planned, the plan may not have seen."""
_REFUSALS = frozenset(
    {
        "ALREADY_ATTACHED",
        "ATTACH_FAILED",
        "DETACH_REJECTED_BY_GUEST",
        "DEVICE_CHANGED",
        "DEVICE_NOT_ELIGIBLE",
        "DEVICE_NOT_FOUND",
        "AMBIGUOUS_DEVICE",
        "ASSIGNMENT_NOT_FOUND",
        "GROUP_HAS_OTHER_ENDPOINTS",
        "GUEST_HAS_NO_CONTROLLER",
        "GUEST_HAS_NO_SLOT",
        "HELD_BY_OTHER_VM",
        "LIBVIRT_DISCONNECTED",
        "MANAGED_SAVE_PRESENT",
        "NOT_HELD_BY_VM",
        "OPERATION_IN_PROGRESS",
        "SCOPE_UNAVAILABLE",
        "VM_NOT_FOUND",
    }
)


class Scene:
    """One host, one service, one history."""

    def __init__(self, directory: Path, pace: Pace | None = None) -> None:
        self._directory = directory
        self._pace = pace or Pace()
        self._lives = 0
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.sim: Simulation
        self.core: Core
        self._stack: AsyncExitStack
        self._watching: dict[str, Holder] = {}
        self._watched: Position | None = None
        self._written = 0
        self.resumed = 0
        """How often a watcher went on over a restart."""
        self._entries_since: dict[tuple[str, DeviceSource], float] = {}
        self.operators: set[str] = set()
        """Functions that an operator gave to vfio-pci while no VM had them."""
        self.others: set[str] = set()
        """Functions whose driver another tool may have changed, so that hostdevd does not answer for it."""
        self.violations: list[str] = []
        self.run(self._open(self._state))
        self.configs = {one.name: one.config for one in self.sim.world.domains.values() if one.config is not None}
        self.first_drivers = self.drivers()
        self.first_entries = set(self._entries())
        self.operators = {name for name, driver in self.first_drivers.items() if driver == VFIO}

    # --- life ----------------------------------------------------------------------------------------

    @property
    def _state(self) -> Path:
        return self._directory / f"life-{self._lives}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something, and no more than that."""
        return self.loop.run_until_complete(work)

    def act(self, hand: Callable[[], object]) -> bool:
        """Somebody else does something to the host; False when the host (or libvirt) refuses."""

        async def done() -> bool:
            try:
                hand()
            except HypervisorError:
                return False
            finally:
                self._note_entries()
            return True

        return self.run(done())

    def forget_operator(self, device: str) -> None:
        """What an operator did to a function is over, but for what is done at every boot."""
        if self.first_drivers.get(device) != VFIO:
            self.operators.discard(device)

    def turns(self, number: int) -> None:
        """So many turns of the loop, in which no time passes."""

        async def turn() -> None:
            for _ in range(number):
                await asyncio.sleep(0)

        self.run(turn())

    def later(self, after_s: float, hand: Callable[[], object]) -> None:
        """Somebody does something to the host after a while, unless it is another one by then."""
        sim = self.sim

        def do() -> None:
            if self.sim is sim:
                with suppress(HypervisorError):
                    hand()
                self._note_entries()

        self.loop.call_later(after_s, do)

    async def _open(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)  # noqa: ASYNC240  nobody else is on this loop
        self._stack = AsyncExitStack()
        self.sim = simulate(self.clock, None, directory, self._before_call)
        self._note_entries()
        self._reconnect_after_faults()
        ports = Ports(self.sim.hypervisor, self.sim.host)
        self.core = await self._stack.enter_async_context(
            run_core(ports, directory, self.clock, delays=Delays(), pace=self._pace)
        )
        await self.core.journal._run(lambda: self.core.journal._db and self.core.journal._db.execute(_NO_SYNC))
        await self.core.sync.synced.wait()

    def _reconnect_after_faults(self) -> None:
        hypervisor, cut = self.sim.hypervisor, self.sim.hypervisor.cut

        def cut_for_a_while(why: str) -> None:
            cut(why)
            if "injected" in why:
                self.later(2.0, self.sim.controls.reconnect)

        hypervisor.cut = cut_for_a_while  # type: ignore[method-assign]

    async def _close(self, grace_s: float) -> None:
        await self.core.engine.close(grace_s)
        await self._stack.aclose()

    def restart(self) -> None:
        """systemctl restart: what runs may end."""
        self.run(self._close(10.0))
        self.run(self._open(self._state))

    def crash(self) -> None:
        """kill -9: what is on disk at this moment is all that is left."""
        before = self._state
        self._lives += 1
        shutil.copytree(before, self._state)
        self.run(self._close(0.0))
        shutil.rmtree(before)
        self.run(self._open(self._state))

    def reboot(self) -> None:
        """The host goes down with everything on it and comes up again."""
        before = self._state
        self._lives += 1
        shutil.copytree(before, self._state)
        self.run(self._close(0.0))
        shutil.rmtree(before)
        # It boots before hostdevd starts.
        world = simulate(self.clock, None, self._state).world
        lifecycle.reboot_host(world, str(uuid.UUID(int=self._lives)), Moves())
        self.others.clear()
        self.operators = {name for name, driver in self.first_drivers.items() if driver == VFIO}
        self.run(self._open(self._state))

    def end(self) -> None:
        self.run(self._close(0.0))
        self.loop.close()

    # --- calls ---------------------------------------------------------------------------------------

    def attach(self, request: AttachRequest, wait_s: float) -> Assignment | HostdevError:
        engine = self.core.engine
        return self._called(engine.attach(request, caller="test", request_id="", validate_only=False, wait_s=wait_s))

    def detach(self, request: DetachRequest, wait_s: float) -> Assignment | HostdevError:
        if self.sim.hypervisor.connected is False and wait_s > 0:
            wait_s = 1.0
        return self._called(self.core.engine.detach(request, caller="test", validate_only=False, wait_s=wait_s))

    def _called(self, call: Coroutine[Any, Any, Any]) -> Assignment | HostdevError:
        try:
            outcome = self.run(call)
        except HostdevError as error:
            if error.reason not in _REFUSALS:
                raise
            return error
        assert isinstance(outcome.assignment, Assignment)
        return outcome.assignment

    # --- as hostdevd calls libvirt ---------------------------------------------------------------------

    async def _before_call(self, name: str, arguments: Mapping[str, object]) -> None:
        match name:
            case "nodedev_detach":
                self._looked_before_unbind(str(arguments["device"]))
            case "nodedev_reattach":
                self._may_give_back(str(arguments["device"]))
            case "attach":
                spec = arguments["spec"]
                assert isinstance(spec, HostdevSpec)
                self._may_attach(str(arguments["uuid"]), spec, arguments["target"])
            case _:
                pass

    def _looked_before_unbind(self, device: str) -> None:
        """A device that the host uses is never unbound."""
        kernel = self.sim.world.kernel
        for used, uses in self.sim.world.uses.items():
            if not uses or not kernel.visible(used):
                continue
            if device in {used, *(above.name for above in kernel.graph.ancestors(used))}:
                self.violations.append(f"{device} was unbound while the host uses {used}")

    def _may_give_back(self, device: str) -> None:
        """Never what its operator gave to vfio-pci; never while a member of the group is in a guest."""
        if device in self.operators:
            self.violations.append(f"{device} was taken from its operator's vfio-pci")
        kernel = self.sim.world.kernel
        if not kernel.visible(device):
            return
        mates = self._group(kernel.devices[device].node)
        for vm, entry in self._live_entries():
            found = kernel.pci(entry) if isinstance(entry, PciAddress) else None
            if found is not None and found.node.name in mates and not self._recent(vm, entry):
                self.violations.append(f"{device} was given back while {vm} has {found.node.name} of its group")

    def _may_attach(self, uuid: str, spec: HostdevSpec, target: object) -> None:
        """A device, or a member of its group, that another VM has is never given to a second one."""
        kernel = self.sim.world.kernel
        here = kernel.at(spec.source)
        mates = {mate for device in here for mate in self._group(device.node)}
        for domain in self.sim.world.domains.values():
            if domain.uuid == uuid:
                continue
            read = domain.domain()
            for definition in (read.live, read.config):
                for entry in definition.entries if definition else ():
                    named = {device.node.name for device in kernel.at(entry.source)}
                    if mates & named and not entry.missing and not self._recent(domain.name, entry.source):
                        self.violations.append(f"{spec.source} of {domain.name} was given to {uuid} too ({target})")
        if target is Target.LIVE and any(device.driver != VFIO for device in here):
            for device in here:
                if isinstance(device.node.facts, PciFacts):
                    self._looked_before_unbind(device.node.name)

    def _group(self, node: NodeDevice) -> set[str]:
        facts = node.facts
        if not isinstance(facts, PciFacts) or facts.iommu_group is None:
            return {node.name}
        return {mate.name for mate in endpoints(self.sim.world.kernel.graph.iommu_members(facts.iommu_group))}

    def _note_entries(self) -> None:
        now = self.loop.time()
        entries = set(self._entries())
        self._entries_since = {key: self._entries_since.get(key, now) for key in entries}

    def _recent(self, vm: str, source: DeviceSource) -> bool:
        return self.loop.time() - self._entries_since.get((vm, source), self.loop.time()) < _RACE_S

    def _entries(self) -> Iterator[tuple[str, DeviceSource]]:
        for domain in self.sim.world.domains.values():
            read = domain.domain()
            for definition in (read.live, read.config):
                for entry in definition.entries if definition else ():
                    yield domain.name, entry.source

    def _live_entries(self) -> Iterator[tuple[str, DeviceSource]]:
        for domain in self.sim.world.domains.values():
            for entry in domain.live_entries():
                if not entry.missing:
                    yield domain.name, entry.source

    # --- at rest -------------------------------------------------------------------------------------

    def drivers(self) -> dict[str, str | None]:
        devices = self.sim.world.kernel.devices.values()
        return {one.node.name: one.driver for one in devices if isinstance(one.node.facts, PciFacts)}

    def rest(self) -> None:
        """Time passes, and nobody does anything."""
        self.run(asyncio.sleep(REST_S))
        self._note_entries()

    def check(self) -> None:
        """What may never be otherwise, whatever is under way."""
        assert self.violations == [], self.violations
        self._nothing_is_in_two_guests()
        self._one_claim_per_device()
        self._a_watcher_has_what_the_store_has()

    def check_at_rest(self) -> None:
        """What is true once everything that began has ended or waits for a guest."""
        self.check()
        if not self.core.sync.connected:
            return
        self._the_store_is_the_host()
        self._open_steps_belong_to_open_operations()
        self._every_open_assignment_is_held_or_says_why_not()
        self._no_group_is_split()

    def _nothing_is_in_two_guests(self) -> None:
        entries = [(vm, source) for vm, source in self._live_entries()]
        sources = [source for _, source in entries]
        assert len(set(sources)) == len(sources), entries

    def _one_claim_per_device(self) -> None:
        claims: dict[str, str] = {}
        for assignment in self.core.store.assignments.values():
            if assignment.state.closed:
                continue
            for device in assignment.devices:
                assert claims.setdefault(device.uid, assignment.name) == assignment.name, (device, assignment)

    def _a_watcher_has_what_the_store_has(self) -> None:
        """As WatchHolders does it: a snapshot, then what changed since, over restarts where it can."""
        store, at = self.core.store, self._watched
        if at is None or self._is_lost(at):
            self._watching = dict(store.holders)
        else:
            history, span = store.holder_history, Span(at.revision, store.revision)
            for delta in merge(history.lines(span.after), span, lambda _: True, lambda holder: holder.key):
                if delta is None:
                    continue
                if delta.removed:
                    assert self._watching.pop(delta.item.key, None) is not None, delta
                else:
                    self._watching[delta.item.key] = delta.item
            self.resumed += at.life != store.lives.now
        self._watched = store.lives.at(store.revision)
        assert self._watching == store.holders

    def _is_lost(self, position: Position) -> bool:
        store = self.core.store
        lost = store.lives.lost(position, store.revision)
        if lost is None and store.holder_history.can_continue(position.revision):
            return False
        # Only what a crash took: everything that was on disk when this life began is gone on from.
        assert lost is Lost.HISTORY_LOST
        assert position.revision > self._written, position
        return True

    def _the_store_is_the_host(self) -> None:
        """Everything derived anew from what the host says now is what the store has."""
        if any(one.state.in_flight for one in self.core.store.assignments.values()):
            return  # its holders are shown as before
        store, world = self.core.store, self.sim.world
        senses = Senses(
            driver=self.sim.host.driver,
            identity=self.sim.host.identity,
            block_paths=self.sim.host.block_paths,
            now=self.clock.now,
            monotonic=self.clock.monotonic,
        )
        self.run(catch_up(store))
        identities = Identities(store.identities._by_uid.values())
        fresh = Store(senses, identities, DEFAULT, lives=Lives("", ""), revision=0)
        uses = self.run(self.sim.host.uses())
        networks = self.run(self.sim.hypervisor.networks())
        with fresh.change(ChangeSource.RECONCILE):
            fresh.put_devices(world.kernel.node(name) for name in sorted(world.kernel.names()))
        with fresh.change(ChangeSource.RECONCILE):
            for assignment in store.assignments.values():
                fresh.put_assignment(assignment)
            fresh.put_uses(uses)
            fresh.put_networks(networks)
            fresh.put_domains(domain.domain() for domain in world.domains.values())
            fresh.look_again(world.kernel.names())
        assert _timeless(store.holders) == _timeless(fresh.holders)
        assert store.devices.keys() == fresh.devices.keys()
        for name, view in store.devices.items():
            wanted = fresh.devices[name]
            assert view.driver == wanted.driver, name
            assert view.uid == wanted.uid, name
            assert view.host_uses == wanted.host_uses, name
            assert view.eligibility == wanted.eligibility, name
        assert store.groups == {
            uid: replace(group, holders=store.groups[uid].holders) for uid, group in fresh.groups.items()
        }

    def _open_steps_belong_to_open_operations(self) -> None:
        with closing(sqlite3.connect(self._state / "state.sqlite")) as db:
            open_ = {name for (name,) in db.execute("SELECT assignment FROM step WHERE ended IS NULL")}
        busy = {one.name for one in self.core.store.assignments.values() if one.state.in_flight}
        assert open_ <= busy, open_ - busy

    def _every_open_assignment_is_held_or_says_why_not(self) -> None:
        for assignment in self.core.store.assignments.values():
            if assignment.state is AssignmentState.ATTACHED and not assignment.conditions:
                held = {
                    holder.uid for holder in self.core.store.holders.values() if holder.vm.uuid == assignment.vm.uuid
                }
                for device in assignment.devices:
                    assert device.uid in held, (device, assignment)
                assert assignment.live or assignment.config, assignment

    def _no_group_is_split(self) -> None:
        """Every endpoint of a group that a guest has open is on vfio-pci or on nothing."""
        kernel = self.sim.world.kernel
        for domain in self.sim.world.domains.values():
            for entry in domain.live_entries():
                if not isinstance(entry.source, PciAddress) or entry.role is not HolderRole.VISIBLE:
                    continue
                found = kernel.pci(entry.source)
                for mate in self._group(found.node) if found is not None else ():
                    if mate not in self.others:
                        assert kernel.devices[mate].driver in {VFIO, None}, (domain.name, mate)

    # --- the end -------------------------------------------------------------------------------------

    def everything_back(self) -> None:
        """After all is detached and nothing fails any more, every driver is the recorded one, or it is told."""
        self._nothing_fails_any_more()
        self.rest()
        for assignment in tuple(self.core.store.assignments.values()):
            if not assignment.state.closed:
                self.detach(DetachRequest(assignment.name), 300.0)
        for holder in tuple(self.core.store.holders.values()):
            if (holder.vm.name, holder.device) != ("keeper", "pci_0000_16_00_0"):
                self.detach(DetachRequest("", holder.vm.name, holder.device), 300.0)
        self.rest()
        self.check_at_rest()
        open_ = [one for one in self.core.store.assignments.values() if not one.state.closed]
        assert open_ == [], open_
        self._drivers_are_as_recorded()

    def _nothing_fails_any_more(self) -> None:
        controls, world = self.sim.controls, self.sim.world
        controls._faults._armed.clear()
        hands: list[Callable[[], object]] = [controls.reconnect]
        hands += [
            partial(controls.remove_uses, name)
            for name, uses in world.uses.items()
            if uses != world.extras.uses.get(name, ()) and world.kernel.visible(name)
        ]
        for domain in world.domains.values():
            hands.append(partial(controls.set_guest_behaviour, domain.name))
            if domain.live is not None:
                hands.append(partial(controls.reboot_domain, domain.name))
                hands.append(partial(controls.set_domain_state, domain.name, VmState.RUNNING))
        for hand in hands:
            self.act(hand)

    def _drivers_are_as_recorded(self) -> None:
        told = {
            condition.device
            for one in self.core.store.assignments.values()
            for condition in one.conditions
            if condition.code in {ConditionCode.DRIVER_NOT_RESTORED, ConditionCode.DEVICE_MISSING}
        }
        for name, driver in self.drivers().items():
            if name in self.operators:
                assert driver == VFIO, name
            elif name not in told | self.others and self.sim.world.kernel.visible(name):
                assert driver == self.first_drivers[name], (name, driver)


_NO_SYNC = "PRAGMA synchronous = OFF"
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def _timeless(holders: Mapping[str, Holder]) -> dict[str, Holder]:
    return {key: replace(holder, since=_NEVER) for key, holder in holders.items()}
