"""A VM whose definition cannot be read hides no other, and nothing that it may hold is given away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostdevd.app import _with_libvirts
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import Check, CheckCode, CheckStatus, Domain, DomainDef
from hostdevd.core.plan import AttachRequest
from hostdevd.core.planner import plan_attach
from hostdevd.sim.simdomain import SimDomain
from unit.core.rig import Machine, Shape, machine, until

WHY = "malformed XML: too deep"


def put(on: Machine, domain: Domain) -> None:
    with on.core.store.change(ChangeSource.RECONCILE):
        on.core.store.put_domains([domain])


def unread(read: DomainDef | None) -> DomainDef | None:
    return None if read is None else replace(read, gap=WHY)


async def test_a_vm_that_cannot_be_read_keeps_what_it_held_and_nothing_is_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        store = on.core.store
        held = await on.attach(Shape("nic_single"))
        (domain,) = (one for one in store.domains.values() if one.vm.name == "alpha")
        free = {name for name, view in store.devices.items() if view.eligibility.available}
        assert free
        broken = replace(domain, live=unread(domain.live), config=unread(domain.config))
        real = SimDomain.domain
        monkeypatch.setattr(SimDomain, "domain", lambda self: broken if self.name == "alpha" else real(self))
        await on.core.sync.read_domains(ChangeSource.RECONCILE)
        assert on.held("nic_single") == {("alpha", True, True)}
        await until(on, lambda: not store.behind)
        assert not {name for name, view in store.devices.items() if view.eligibility.available}
        (gap,) = store.domain_gaps
        assert (gap.name, gap.why) == ("alpha", WHY)
        told = _with_libvirts(Check(CheckCode.HOST_USES, CheckStatus.PASS, "all is seen"), (), store.domain_gaps)
        assert told.status is CheckStatus.FAIL
        assert "alpha" not in told.message  # it is for those alone who may see it
        assert told.of_vms == (gap,)
        with pytest.raises(HostdevError) as refusal:
            await on.attach(Shape("dual_0", "legacy"))
        assert ("HOST_USE_UNKNOWN", gap) in {(reason.code, reason.of_vm) for reason in refusal.value.reasons}
        assert all("alpha" not in reason.message for reason in refusal.value.reasons if reason.of_vm)
        # As soon as it can be read all is as before.
        monkeypatch.undo()
        await on.core.sync.read_domains(ChangeSource.RECONCILE)
        await until(on, lambda: not store.behind)
        assert {name for name, view in store.devices.items() if view.eligibility.available} == free
        assert store.domain_gaps == ()
        await on.detach(held.name)


async def test_no_decision_is_taken_by_a_view_that_is_behind(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        store = on.core.store
        (domain,) = (one for one in store.domains.values() if one.vm.name == "spare")
        request = AttachRequest("legacy", on.name("dual_0"))
        put(on, replace(domain, config=unread(domain.config)))
        assert store.devices[on.name("dual_0")].eligibility.available  # nothing has looked at it yet
        plan = plan_attach(store, request).plan
        assert "HOST_USE_UNKNOWN" in {reason.code for reason in plan.blockers}
        assert not store.devices[on.name("dual_0")].eligibility.available


async def test_a_vm_that_cannot_be_read_and_goes_leaves_no_gap(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        store = on.core.store
        (domain,) = (one for one in store.domains.values() if one.vm.name == "spare")
        put(on, replace(domain, config=unread(domain.config)))
        assert store.domain_gaps
        with store.change(ChangeSource.RECONCILE):
            store.remove_domains([domain.vm.uuid])
        assert store.domain_gaps == ()
        assert any(view.eligibility.available for view in store.devices.values())
