"""What a watcher of holders is told when the service under it was ended, killed or without its state for a while."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from hostdevd.app import Ports, run_core
from hostdevd.core.addresses import PciAddress
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import ChangeSource, Delta, Span, merge
from hostdevd.core.model import Holder, HostUses, PciFacts
from hostdevd.core.past import Lost, Position
from hostdevd.core.ports import HostdevSpec, Target
from hostdevd.core.store import Store
from hostdevd.sim.simulation import simulate
from hostdevd.virt.xml.hostdev import build_hostdev
from unit.core.rig import DELAYS, PACE, FastClock, Machine, Shape, machine, until


def position(store: Store) -> Position:
    return store.lives.at(store.revision)


def told_since(store: Store, at: Position) -> list[Delta[Holder]]:
    """What a watch that resumes is told; it must be able to."""
    assert store.lives.lost(at, store.revision) is None
    assert store.holder_history.can_continue(at.revision)
    span = Span(at.revision, store.revision)
    lines = store.holder_history.lines(span.after)
    return [delta for delta in merge(lines, span, lambda _: True, lambda holder: holder.key) if delta is not None]


def by_hand(on: Machine, role: str) -> None:
    facts = on.node(role).facts
    assert isinstance(facts, PciFacts)
    assert isinstance(facts.address, PciAddress)
    spec = HostdevSpec("ua-by-hand", facts.address, managed=True)
    on.sim.controls.virsh_attach("alpha", build_hostdev(spec), Target.LIVE)


async def test_a_watch_goes_on_with_exactly_what_happened_while_nobody_looked(tmp_path: Path) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock, kept=True) as m:
        start = position(m.core.store)
        await m.attach(Shape("dual_0"))
        middle, holders = position(m.core.store), dict(m.core.store.holders)
        (kept,) = m.core.store.holders_of(m.name("dual_0"))
    async with machine(tmp_path, clock, kept=True) as m:
        store = m.core.store
        # Nothing happened: nothing is told, and who was there has been since it was.
        assert told_since(store, middle) == []
        assert store.holders == holders
        assert {delta.item.device for delta in told_since(store, start)} == {m.name("dual_0"), m.name("dual_1")}
        by_hand(m, "nic_single")
        await until(m, lambda: m.held("nic_single"))
        before = dict(store.holders)
        third = position(store)
        world = m.sim
    # Behind the service's back.
    world.controls.destroy_domain("alpha")
    async with machine(tmp_path, clock, kept=True) as m:
        store = m.core.store
        for at, seen in ((middle, holders), (third, before)):
            state, deltas = dict(seen), told_since(store, at)
            assert deltas
            assert {delta.source for delta in deltas} == {ChangeSource.RECONCILE}
            for delta in deltas:
                if delta.removed:
                    del state[delta.item.key]
                else:
                    state[delta.item.key] = delta.item
            assert state == store.holders
        assert len(store.holder_history.since(third.revision)) == 1
        (now,) = store.holders_of(m.name("dual_0"))
        assert (now.live, now.config, now.since) == (False, True, kept.since)


async def test_what_a_kill_took_is_not_gone_on_from_even_when_the_revisions_have_grown_over_it(tmp_path: Path) -> None:
    clock = FastClock()
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    async with machine(first, clock, kept=True) as m:
        early = position(m.core.store)
        while not await _is_written(m, early):
            await clock.sleep(10.0)
        shutil.copytree(first, second)
        await m.attach(Shape("dual_0"))
        lost = position(m.core.store)
    async with machine(second, clock, kept=True) as m:
        store = m.core.store
        told_since(store, early)
        assert store.lives.lost(lost, store.revision) is Lost.HISTORY_LOST
        assert store.lives.lost(lost, lost.revision + 100_000) is Lost.HISTORY_LOST
        assert store.revision > lost.revision


async def _is_written(on: Machine, at: Position) -> bool:
    """Whether a position would outlive a kill."""
    db = on.core.journal._db
    assert db is not None
    found = "SELECT 1 FROM life WHERE name = ? AND last >= ?"
    return bool(await on.core.journal._run(lambda: db.execute(found, (at.life, at.revision)).fetchone()))


async def test_holders_of_the_last_life_are_nobodys_to_see_before_libvirt_was_read(tmp_path: Path) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock, kept=True) as m:
        await m.attach(Shape("dual_0"))
        name, uid = m.name("dual_0"), m.core.store.devices[m.name("dual_0")].uid
        seen, count = position(m.core.store), len(m.core.store.holders)
    sim = simulate(clock, None, tmp_path)
    sim.controls.disconnect()
    async with run_core(Ports(sim.hypervisor, sim.host), tmp_path, clock, delays=DELAYS, pace=PACE) as core:
        store = core.store
        with store.change(ChangeSource.EVENT):  # a commit of something else
            store.put_uses(HostUses())
            store.freeze("alpha", [uid])
            store.thaw("alpha", [uid])
        await clock.sleep(1000.0)
        assert (dict(store.holders), store.holders_of(name), core.sync.first_sync) == ({}, (), False)
        revision = store.revision
        sim.controls.reconnect()
        await core.sync.synced.wait()
        assert len(store.holders) == count
        assert told_since(store, seen) == []
        assert store.revision == revision + 1
        await core.engine.close(grace_s=0.0)


async def test_a_store_that_is_taken_over_knows_since_when_and_continues_no_position(tmp_path: Path) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock, kept=True) as m:
        await m.attach(Shape("dual_0"))
        old = position(m.core.store)
        since = {holder.key: holder.since for holder in m.core.store.holders.values()}
    path = tmp_path / "state.sqlite"
    whole = path.read_bytes()
    path.write_bytes(b"no database at all " * 1000)
    async with machine(tmp_path, clock, kept=True) as m:
        store = m.core.store
        meanwhile = position(store)
        with suppress(HostdevError):
            await m.attach(Shape("nic_single"))
        assert any(holder.since != since.get(holder.key) for holder in store.holders.values())
        path.write_bytes(whole)
        while store.epoch != old.epoch:
            await clock.sleep(1.0)
        assert {holder.key: holder.since for holder in store.holders.values()} == since
        assert store.lives.lost(meanwhile, store.revision) is Lost.NEW_EPOCH
        assert not store.holder_history.can_continue(old.revision)
        taken = position(store)
    async with machine(tmp_path, clock, kept=True) as m:
        assert told_since(m.core.store, taken) == []
        assert not m.core.store.holder_history.can_continue(old.revision)
        assert {holder.key: holder.since for holder in m.core.store.holders.values()} == since
