"""What rights are: the union of grants, judged on pairs of a machine and a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.caller import LOOPBACK, UNKNOWN, Caller, Proof
from hostdevd.core.matching import Values
from hostdevd.core.model import Vm, VmState
from hostdevd.core.rights import (
    ALL,
    LEAST_ROLE,
    LOOKING,
    Grant,
    Permission,
    Rights,
    Role,
    VmSelector,
    capped,
    without_roles,
)
from hostdevd.core.selectors import Matchers, Traits, from_lasting

VMS = [Vm(name, f"0000000{number}-0000-4000-8000-000000000000", VmState.RUNNING) for number, name in enumerate("abc")]
DEVICES: list[Traits] = [
    from_lasting((("type", "pci"), ("class", "020000"), ("id", "8086:10d3")), "dev-1", "e1000e"),
    from_lasting((("type", "pci"), ("class", "030000"), ("id", "10de:1b80")), "dev-2", "nouveau"),
    from_lasting((("type", "usb_device"), ("id", "8086:0001")), "dev-3"),
    from_lasting((), ""),
]

vm_selectors = st.one_of(
    st.none(),
    st.frozensets(st.sampled_from("abcd"), max_size=2).map(lambda names: VmSelector(names=names)),
    st.frozensets(st.sampled_from([vm.uuid for vm in VMS]), max_size=2).map(lambda uuids: VmSelector(uuids=uuids)),
)
matchers: st.SearchStrategy[Matchers] = st.lists(
    st.sampled_from(
        [
            ("class", Values.of(["02*"])),
            ("id", Values.of(["8086:*"])),
            ("type", Values.of(["pci"])),
            ("uid", Values.of(["dev-2", "dev-3"])),
            ("driver", Values.of(["nouveau"])),
        ]
    ),
    min_size=1,
    max_size=3,
).map(tuple)
device_selectors = st.one_of(st.none(), st.lists(matchers, min_size=1, max_size=2).map(tuple))
grants = st.builds(Grant, st.sampled_from(Role), vm_selectors, device_selectors)
rights = st.lists(grants, max_size=3).map(lambda found: Rights(tuple(found)))


def extent(of: Rights) -> set[tuple[object, ...]]:
    """All that they allow and show, on every machine and device."""
    allowed: set[tuple[object, ...]] = set()
    for d, device in enumerate(DEVICES):
        for permission in Permission:
            if of.covers_on_host(permission, device):
                allowed.add((permission, d))
            allowed |= {(permission, vm.name, d) for vm in VMS if of.covers(permission, vm, device)}
        if of.sees_device(device):
            allowed.add(("see", d))
        allowed |= {("see", vm.name, d) for vm in VMS if of.sees_together(vm, device)}
    allowed |= {("see vm", vm.name) for vm in VMS if of.sees_vm(vm)}
    return allowed | {("has", permission) for permission in Permission if of.has(permission)}


@given(rights, rights)
def test_the_rights_of_several_rules_are_their_union(some: Rights, others: Rights) -> None:
    assert extent(Rights((*some.grants, *others.grants))) == extent(some) | extent(others)


@given(rights, matchers, st.sampled_from(Role), vm_selectors)
def test_a_narrower_grant_never_allows_or_shows_more(
    of: Rights, narrower: Matchers, role: Role, vms: VmSelector | None
) -> None:
    order = list(Role)
    for number, grant in enumerate(of.grants):
        devices = (narrower,) if grant.devices is None else tuple((*one, *narrower) for one in grant.devices)
        less = [
            replace(grant, devices=devices),
            replace(grant, role=min(grant.role, role, key=order.index)),
            *([replace(grant, vms=vms)] if grant.vms is None else []),
        ]
        for one in less:
            narrowed = Rights((*of.grants[:number], one, *of.grants[number + 1 :]))
            assert extent(narrowed) <= extent(of)
        assert extent(Rights((*of.grants[:number], *of.grants[number + 1 :]))) <= extent(of)


@given(rights, rights)
def test_the_same_view_shows_the_same(some: Rights, others: Rights) -> None:
    def shown(of: Rights) -> set[tuple[object, ...]]:
        return {one for one in extent(of) if str(one[0]).startswith("see")}

    if some.view == others.view:
        assert shown(some) == shown(others)
    assert capped(some, Role.VIEWER).view == some.view
    assert Rights(some.grants[::-1]).view == some.view
    assert bool(some.view) is not some.sees_everything
    if some.sees_everything:
        assert shown(some) == shown(ALL)


@given(rights)
def test_a_cap_leaves_what_may_be_seen_and_takes_what_may_be_done(of: Rights) -> None:
    looking = capped(of, Role.VIEWER)
    reading = {permission for permission in Permission if LEAST_ROLE[permission] is Role.VIEWER}
    assert extent(looking) == {one for one in extent(of) if not isinstance(_permission(one), Permission)} | {
        one for one in extent(of) if _permission(one) in reading
    }


def _permission(one: tuple[object, ...]) -> object:
    return one[1] if one[0] == "has" else one[0]


def test_a_machine_and_a_device_must_be_of_one_rule() -> None:
    of = Rights(
        (
            Grant(Role.OPERATOR, VmSelector(names=frozenset("a")), ((("class", Values.of(["02*"])),),)),
            Grant(Role.OPERATOR, VmSelector(names=frozenset("b")), ((("class", Values.of(["03*"])),),)),
        )
    )
    attach = Permission.ASSIGNMENTS_ATTACH
    assert of.covers(attach, VMS[0], DEVICES[0])
    assert not of.covers(attach, VMS[0], DEVICES[1])
    assert of.covers(attach, VMS[1], DEVICES[1])


def test_who_is_narrowed_to_machines_changes_nothing_of_the_host() -> None:
    narrowed = Rights((Grant(Role.ADMIN, VmSelector(names=frozenset("a"))),))
    assert narrowed.has(Permission.FUNCTIONS_SET)
    assert not narrowed.covers_on_host(Permission.FUNCTIONS_SET, DEVICES[0])
    assert ALL.covers_on_host(Permission.FUNCTIONS_SET, DEVICES[0])


def test_every_role_reads_all_that_it_may_see() -> None:
    """Else what may be seen would depend on the permission, and a view on the list that it is of."""
    assert all(LEAST_ROLE[permission] is Role.VIEWER for permission in Permission if permission.endswith(".read"))
    assert LEAST_ROLE.keys() == set(Permission)


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        (LOOPBACK, ALL),
        (Caller(Proof.PEER, uid=1000), ALL),
        (Caller(Proof.PEER, uid=1000, read_only=True), LOOKING),
        (Caller(Proof.CERTIFICATE, sans=("DNS:a",)), ALL),
        (UNKNOWN, Rights()),
    ],
)
def test_without_a_roles_file_whoever_is_known_may_everything(caller: Caller, expected: Rights) -> None:
    assert without_roles(caller) == expected
