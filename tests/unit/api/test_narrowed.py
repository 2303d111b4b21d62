"""What a caller sees and may do whose rules select machines and devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from hostdev.v1 import assignment_pb2, device_pb2, service_pb2
from hostdevd.app import _with_libvirts
from hostdevd.core.audit import Outcome
from hostdevd.core.caller import Caller, Proof
from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import to_failure
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import Check, CheckCode, CheckStatus, Reason
from hostdevd.core.records import assignment_from_json, to_json
from hostdevd.sim.simdomain import SimDomain
from unit.api.callers import ROLES, Served, refused, served
from unit.core.rig import Machine, Shape, machine, until

HELD = "pci_0000_16_00_0"
"""A network card that `keeper` has in its configuration."""
KEEPER = "c0ffee00-0000-4000-8000-000000000007"


async def listed(service: Served, caller: str, **arguments: Any) -> dict[str, device_pb2.Device]:
    answer = await service.stub(caller).ListDevices(service_pb2.ListDevicesRequest(**arguments))
    return {device.name: device for device in answer.devices}


def network_cards(m: Machine) -> set[str]:
    return {name for name, view in m.core.store.devices.items() if view.traits["class"].startswith("02")}


# --- lists and gets ----------------------------------------------------------------------------------------


async def test_lists_show_what_the_selectors_fit_and_nothing_of_other_machines(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        await m.attach(Shape("nic_single"))
        seen = await listed(service, "alice", page_size=1000)
        assert seen.keys() == network_cards(m)
        assert len(await listed(service, "root", page_size=1000)) == len(m.core.store.devices)
        assert [holder.vm.name for holder in seen[m.name("nic_single")].holders] == ["alpha"]
        assert not seen[HELD].holders
        assert not seen[HELD].eligibility.available
        for answer in (
            await service.stub("alice").ListDevices(service_pb2.ListDevicesRequest()),
            await service.stub("alice").ListEligible(service_pb2.ListEligibleRequest(include_ineligible=True)),
            await service.stub("alice").ListGroups(service_pb2.ListGroupsRequest()),
            await service.stub("alice").ListHolders(service_pb2.ListHoldersRequest()),
            await service.stub("alice").GetDevice(service_pb2.GetDeviceRequest(device=HELD)),
            await service.stub("alice").GetGroup(service_pb2.GetGroupRequest(device=HELD)),
        ):
            text = str(answer)
            assert "keeper" not in text
            assert KEEPER not in text
        held = await service.stub("alice").ListHolders(service_pb2.ListHoldersRequest())
        assert [holder.device for holder in held.holders] == [m.name("nic_single")]
        groups = await service.stub("alice").ListGroups(service_pb2.ListGroupsRequest())
        members = [{member.name for member in group.members} for group in groups.groups]
        assert all(one & network_cards(m) for one in members)
        assert any(m.name("bridge_ac97") in one for one in members)  # a group is shown whole


async def test_what_is_hidden_is_not_there(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        gpu = "pci_0000_11_00_0"
        uid = m.core.store.devices[gpu].uid
        group = m.core.store.devices[gpu].group
        assert group is not None
        spare = await m.attach(Shape("switch_0", "spare"))
        stub = service.stub("alice")
        for name in (gpu, uid):
            calls = [
                (stub.GetDevice, service_pb2.GetDeviceRequest(device=name)),
                (stub.GetGroup, service_pb2.GetGroupRequest(device=name)),
                (stub.ListDevices, service_pb2.ListDevicesRequest(filter=device_pb2.DeviceFilter(affected_by=name))),
                (stub.ListDevices, service_pb2.ListDevicesRequest(filter=device_pb2.DeviceFilter(parent=name))),
                (stub.Attach, service_pb2.AttachRequest(vm="alpha", device=name)),
                (stub.Attach, service_pb2.AttachRequest(vm="alpha", device=name, validate_only=True)),
                (stub.Detach, service_pb2.DetachRequest(vm="alpha", device=name)),
            ]
            for method, request in calls:
                with refused("DEVICE_NOT_FOUND") as hidden:
                    await method(request)
                with refused("DEVICE_NOT_FOUND") as absent:
                    await method(type(request).FromString(_renamed(request.SerializeToString(), name)))
                assert hidden.details.replace(name, _other(name)) == absent.details
        with refused("GROUP_NOT_FOUND"):
            await stub.GetGroup(service_pb2.GetGroupRequest(group=group))
        for vm in ("spare", "c0ffee00-0000-4000-8000-000000000003"):
            with refused("VM_NOT_FOUND"):
                await stub.Attach(service_pb2.AttachRequest(vm=vm, device=m.name("nic_single")))
            with refused("VM_NOT_FOUND"):
                await stub.Detach(service_pb2.DetachRequest(vm=vm, device=m.name("switch_0")))
        for refusal in (
            stub.GetAssignment(service_pb2.GetAssignmentRequest(name=spare.name)),
            stub.Detach(service_pb2.DetachRequest(assignment=spare.name)),
            stub.ForgetAssignment(service_pb2.ForgetAssignmentRequest(name=spare.name)),
        ):
            with refused("ASSIGNMENT_NOT_FOUND"):
                await refusal
        assert not (await stub.ListAssignments(service_pb2.ListAssignmentsRequest())).assignments
        root = await service.stub("root").ListAssignments(service_pb2.ListAssignmentsRequest())
        assert [one.name for one in root.assignments] == [spare.name]


def _other(name: str) -> str:
    return name[:-1] + "z"


def _renamed(data: bytes, name: str) -> bytes:
    return data.replace(name.encode(), _other(name).encode())


async def test_pages_and_their_tokens_are_of_one_view(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        tokens: dict[str, str] = {}
        for caller in ("root", "alice"):
            names, token = [], ""
            while True:
                request = service_pb2.ListDevicesRequest(page_size=5, page_token=token)
                page = await service.stub(caller).ListDevices(request)
                names += [device.name for device in page.devices]
                token = page.next_page_token
                tokens.setdefault(caller, token)
                if not token:
                    break
            wanted = network_cards(m) if caller == "alice" else set(m.core.store.devices)
            assert names == sorted(wanted)
        for caller, other in (("root", "alice"), ("alice", "root"), ("carol", "alice")):
            with refused("INVALID_PAGE_TOKEN"):
                request = service_pb2.ListDevicesRequest(page_size=5, page_token=tokens[other])
                await service.stub(caller).ListDevices(request)
        # Bob sees what Alice sees: whether they may change it makes no difference.
        request = service_pb2.ListDevicesRequest(page_size=5, page_token=tokens["alice"])
        assert (await service.stub("bob").ListDevices(request)).devices


# --- changing ----------------------------------------------------------------------------------------------


async def test_an_operator_attaches_and_detaches_within_his_selectors(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        stub = service.stub("alice")
        attached = await stub.Attach(service_pb2.AttachRequest(vm="alpha", device=m.name("nic_single")))
        assert attached.assignment.state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED
        assert attached.assignment.created_by == "uid:1"
        name = attached.assignment.name
        with refused("NOT_ALLOWED"):
            await service.stub("bob").Detach(service_pb2.DetachRequest(assignment=name))
        assert (await service.stub("bob").GetAssignment(service_pb2.GetAssignmentRequest(name=name))).assignment
        detached = await stub.Detach(service_pb2.DetachRequest(assignment=name))
        assert detached.assignment.state == assignment_pb2.ASSIGNMENT_STATE_DETACHED
        forgotten = await stub.ForgetAssignment(service_pb2.ForgetAssignmentRequest(name=name))
        assert forgotten.assignment.name == name


async def test_all_that_goes_with_a_device_must_be_allowed(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        for dry in (True, False):
            request = service_pb2.AttachRequest(vm="alpha", device=m.name("bridge_e1000"), validate_only=dry)
            with refused("NOT_ALLOWED") as told:
                await service.stub("alice").Attach(request)
            # The sound card of its group is none of Alice's.
            assert told.metadata == {
                "permission": "assignments.attach",
                "on": f"{m.name('bridge_ac97')} with alpha",
            }
            assert f"uid:1 lacks the permission assignments.attach for {told.metadata['on']}, " in told.message
        assert not m.core.store.assignments
        root = await m.attach(Shape("bridge_e1000"))
        for detach in (
            service_pb2.DetachRequest(assignment=root.name),
            service_pb2.DetachRequest(vm="alpha", device=m.name("bridge_e1000")),
        ):
            with refused("NOT_ALLOWED") as told:
                await service.stub("alice").Detach(detach)
            assert "assignments.detach" in told.message


async def test_who_has_two_rules_needs_one_for_the_pair(tmp_path: Path) -> None:
    more = """
    [[rule]]
    name = "alice may see it all"
    role = "viewer"
    identities = "user:alice"
    """
    async with machine(tmp_path) as m, served(m, tmp_path, ROLES + more) as service:
        stub = service.stub("alice")
        assert len(await listed(service, "alice", page_size=1000)) == len(m.core.store.devices)
        for vm, device in (("spare", m.name("nic_single")), ("alpha", "pci_0000_11_00_0")):
            with refused("NOT_ALLOWED"):
                await stub.Attach(service_pb2.AttachRequest(vm=vm, device=device, validate_only=True))
        request = service_pb2.AttachRequest(vm="alpha", device=m.name("nic_single"), validate_only=True)
        assert (await stub.Attach(request)).plan.steps
        with refused("HELD_BY_OTHER_VM") as told:  # who may see the machine is told its name
            await stub.Attach(service_pb2.AttachRequest(vm="alpha", device=HELD))
        assert told.metadata is not None
        assert told.metadata["vm_name"] == "keeper"


async def test_a_refusal_does_not_name_a_machine_that_is_hidden(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        request = service_pb2.AttachRequest(vm="alpha", device=HELD)
        with refused("HELD_BY_OTHER_VM") as told:
            await service.stub("alice").Attach(request)
        assert "another virtual machine" in told.message
        request.validate_only = True
        plan = (await service.stub("alice").Attach(request)).plan
        assert len(plan.blockers) == 1
        for text in (told.details, str(plan)):
            assert "keeper" not in text
            assert KEEPER not in text
        # An operation in flight tells as little; it is worked on until the deaf guest lets go.
        await m.attach(Shape("nic_single", "deaf"))
        held = next(iter(m.core.store.assignments))
        await m.detach(held, wait_s=0.0)
        with refused("OPERATION_IN_PROGRESS") as told:
            await service.stub("alice").Attach(service_pb2.AttachRequest(vm="alpha", device=m.name("nic_single")))
        assert "deaf" not in told.details
        assert held not in told.details
        root = service_pb2.AttachRequest(vm="alpha", device=m.name("nic_single"))
        with refused("OPERATION_IN_PROGRESS") as told:
            await service.stub("root").Attach(root)
        assert told.metadata is not None
        assert told.metadata["vm_name"] == "deaf"


async def test_what_is_expected_to_be_lost_asks_after_no_device_that_is_hidden(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        hidden = "pci_0000_11_00_0"
        answers = []
        for given in (hidden, "pci_0000_11_00_7"):
            expected = service_pb2.ExpectedAffected(uids=[given])
            request = service_pb2.AttachRequest(
                vm="alpha", device=m.name("nic_single"), expected_affected=expected, validate_only=True
            )
            with refused("AFFECTED_SET_CHANGED") as told:
                await service.stub("alice").Attach(request)
            answers.append(told.details.replace(given, "that"))
            assert told.metadata is not None
            assert told.metadata["missing"] == given
        assert answers[0] == answers[1]
        assert m.core.store.devices[hidden].uid not in answers[0]


async def test_a_machine_that_cannot_be_read_is_named_to_those_alone_who_may_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as m:
        unseen, seen = await _with_keeper_unread(m, tmp_path, monkeypatch)
    assert len(unseen) == len(seen) == 8
    for text in unseen:
        assert "what a virtual machine holds is not known" in text
        assert "keeper" not in text
        assert "too deep" not in text
    for text in seen:
        assert "what a virtual machine holds is not known (keeper: malformed XML: too deep)" in text


async def _with_keeper_unread(
    m: Machine, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Everything that tells of it, as Alice and as root are told it."""
    (domain,) = (one for one in m.core.store.domains.values() if one.vm.name == "keeper")
    assert domain.config is not None
    broken = replace(domain, live=None, config=replace(domain.config, gap="malformed XML: too deep"))
    real = SimDomain.domain
    monkeypatch.setattr(SimDomain, "domain", lambda self: broken if self.name == "keeper" else real(self))
    await m.core.sync.read_domains(ChangeSource.RECONCILE)
    device = m.name("nic_single")
    attach = service_pb2.AttachRequest(vm="alpha", device=device)

    async def checks() -> tuple[Check, ...]:
        return (_with_libvirts(Check(CheckCode.HOST_USES, CheckStatus.PASS, ""), (), m.core.store.domain_gaps),)

    async def told(service: Served, caller: str) -> tuple[str, ...]:
        stub = service.stub(caller)
        with refused("DEVICE_NOT_ELIGIBLE") as refusal:
            await stub.Attach(attach)
        plan = await stub.Attach(service_pb2.AttachRequest(vm="alpha", device=device, validate_only=True))
        stream = stub.WatchDevices(service_pb2.WatchDevicesRequest())
        watched = await stream.read()
        stream.cancel()
        return (
            str(await stub.GetDevice(service_pb2.GetDeviceRequest(device=device))),
            str(await stub.ListDevices(service_pb2.ListDevicesRequest(page_size=1000))),
            str(await stub.ListEligible(service_pb2.ListEligibleRequest(include_ineligible=True))),
            str(await stub.ListGroups(service_pb2.ListGroupsRequest())),
            str(await stub.GetHost(service_pb2.GetHostRequest())),
            refusal.details,
            str(plan),
            str(watched),
        )

    async with served(m, directory, checks=checks) as service:
        return await told(service, "alice"), await told(service, "root")


async def test_a_condition_names_another_machine_to_those_alone_who_may_see_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        assignment = await m.attach(Shape("nic_single"))
        keeper = next(one.vm for one in m.core.store.domains.values() if one.vm.name == "keeper")
        condition = m.core.engine._detaching._effects.restoring._kept_away(assignment.devices[0], keeper, HELD)
        other = HostdevError(
            "HELD_BY_OTHER_VM",
            "the virtual machine keeper has it",
            metadata={"vm_name": keeper.name, "vm_uuid": keeper.uuid},
            reasons=(Reason("HELD_BY_OTHER_VM", "keeper", "keeper has it", "detach it from keeper"),),
        )
        marked = replace(assignment.with_condition(condition), failure=to_failure(other))
        with m.core.store.change(ChangeSource.OPERATION):
            m.core.store.put_assignment(assignment_from_json(to_json(marked)))  # as after a restart
        get = service_pb2.GetAssignmentRequest(name=assignment.name)
        listing = service_pb2.ListAssignmentsRequest()
        for stub, named in ((service.stub("alice"), False), (service.stub("root"), True)):
            one = (await stub.GetAssignment(get)).assignment
            (told,) = one.conditions
            assert f"a virtual machine has {HELD} of its group" in told.message
            assert told.message.endswith("(keeper)") == named
            (same,) = (await stub.ListAssignments(listing)).assignments
            assert same == one
            assert ("keeper" in str(one)) == named


async def test_what_is_gone_from_the_host_is_judged_as_it_was(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        assignment = await m.attach(Shape("nic_single"))
        name = m.name("nic_single")
        m.sim.controls.unplug_device(name)
        await until(m, lambda: name not in m.core.store.devices)
        assert m.core.store.assignments[assignment.name].devices[0].traits
        stub = service.stub("alice")
        with refused("NOT_ALLOWED"):
            await service.stub("bob").Detach(service_pb2.DetachRequest(assignment=assignment.name))
        await stub.Detach(service_pb2.DetachRequest(assignment=assignment.name))


async def test_a_repeat_is_judged_by_the_rights_of_now(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        request_id = "5f6cf6de-51a7-4a64-8c1c-0f3a2a9a3b11"
        request = service_pb2.AttachRequest(vm="alpha", device=m.name("nic_single"), request_id=request_id)
        assert (await service.stub("alice").Attach(request)).assignment.name == request_id
        assert (await service.stub("alice").Attach(request)).assignment.name == request_id
        service.put(ROLES.replace('class = "02"', 'class = "03"'))
        with refused("ASSIGNMENT_NOT_FOUND"):
            await service.stub("alice").Attach(request)
        service.put(
            ROLES.replace('role = "operator"\nidentities = "user:alice"', 'role = "viewer"\nidentities = "user:alice"')
        )
        with refused("NOT_ALLOWED"):
            await service.stub("alice").Attach(request)
        outcomes = [row["outcome"] for row in await service.rows()]
        assert (
            outcomes.count(Outcome.ACCEPTED) == outcomes.count(Outcome.DONE) == outcomes.count(Outcome.UNCHANGED) == 1
        )
        assert outcomes.count(Outcome.REFUSED) == 2


# --- watches -----------------------------------------------------------------------------------------------


class Watcher:
    """Applies a stream: what it then has is `items`."""

    def __init__(self, call: Any, kind: str, items: dict[str, Any] | None = None) -> None:
        self.call = call
        self.items = dict(items or {})
        self.events: list[str] = []
        self.token = ""
        self._kind = kind

    async def read(self) -> str:
        message = await self.call.read()
        event: str = message.WhichOneof("event")
        self.events.append(event)
        self.token = message.resume_token or self.token
        if event == "reset":
            self.items.clear()
        elif event == "snapshot":
            self.items |= {item.name: item for item in getattr(message.snapshot, f"{self._kind}s")}
        elif event == "change_batch":
            for change in message.change_batch.changes:
                item = getattr(change, self._kind)
                if change.kind == service_pb2.CHANGE_KIND_REMOVE:
                    self.items.pop(item.name, None)
                else:
                    self.items[item.name] = item
        return event

    async def until(self, event: str) -> None:
        while await self.read() != event:
            pass


def holders(service: Served, caller: str, **arguments: Any) -> Watcher:
    return Watcher(service.stub(caller).WatchHolders(service_pb2.WatchHoldersRequest(**arguments)), "holder")


def devices(service: Served, caller: str, **arguments: Any) -> Watcher:
    return Watcher(service.stub(caller).WatchDevices(service_pb2.WatchDevicesRequest(**arguments)), "device")


@pytest.mark.parametrize("caller", ["alice", "carol"])
async def test_a_watch_tells_of_what_may_be_seen_and_goes_on_where_it_ended(caller: str, tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        watch = holders(service, caller)
        await watch.until("bookmark")
        await m.attach(Shape("switch_0", "spare"))  # Alice sees no `spare`; Carol all e1000e
        await m.attach(Shape("nic_single"))
        name = m.name("nic_single")
        while name not in {item.device for item in watch.items.values()}:
            await watch.read()
        shown = {item.device for item in watch.items.values()}
        assert shown == ({name} if caller == "alice" else {name, m.name("switch_0"), HELD})
        token, items = watch.token, watch.items
        watch.call.cancel()
        await m.detach(vm="alpha", device=name)
        again = Watcher(
            service.stub(caller).WatchHolders(service_pb2.WatchHoldersRequest(resume_token=token)), "holder", items
        )
        while name in {item.device for item in again.items.values()}:
            await again.read()
        if caller == "carol":  # who sees by drivers begins anew, and is right then too
            await again.until("bookmark")
            assert again.events[0] == "reset"
        else:
            assert again.events == ["change_batch"]
        assert {item.device for item in again.items.values()} == shown - {name}
        again.call.cancel()


async def test_a_watch_of_devices_hides_who_holds_them(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        watch = devices(service, "alice")
        await watch.until("bookmark")
        assert watch.items.keys() == network_cards(m)
        await m.attach(Shape("switch_0", "deaf"))
        while watch.items[m.name("switch_0")].eligibility.available:
            await watch.read()
        assert "deaf" not in str(watch.items)
        watch.call.cancel()


async def test_a_token_of_another_view_begins_anew(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        tokens = {}
        for caller in ("root", "alice", "bob"):
            answer = await service.stub(caller).ListHolders(service_pb2.ListHoldersRequest())
            tokens[caller] = answer.resume_token
        assert tokens["alice"] == tokens["bob"] != tokens["root"]
        for caller, other in (("root", "alice"), ("alice", "root"), ("carol", "alice")):
            for watch in (
                holders(service, caller, resume_token=tokens[other]),
                devices(service, caller, resume_token=tokens[other]),
            ):
                await watch.until("bookmark")
                assert watch.events[:2] == ["reset", "snapshot"]
                watch.call.cancel()
        for caller, other in (("bob", "alice"), ("root", "root")):
            watch = holders(service, caller, resume_token=tokens[other])
            await m.attach(Shape("nic_single"))
            await watch.read()
            assert watch.events == ["change_batch"]
            watch.call.cancel()
            await m.detach(vm="alpha", device=m.name("nic_single"))
            tokens["root"] = (await service.stub("root").ListHolders(service_pb2.ListHoldersRequest())).resume_token


async def test_new_roles_take_effect_on_streams_that_run(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        streams = {caller: devices(service, caller) for caller in ("root", "alice", "bob")}
        for watch in streams.values():
            await watch.until("bookmark")
        service.put(ROLES.replace("user:bob", "user:mallory").replace('class = "02"', 'class = "03"'))
        await streams["alice"].until("snapshot")
        await streams["alice"].until("bookmark")
        assert streams["alice"].events[-3:] == ["reset", "snapshot", "bookmark"]
        cards = {name for name, view in m.core.store.devices.items() if view.traits["class"].startswith("03")}
        assert streams["alice"].items.keys() == cards
        with refused("NOT_ALLOWED") as told:
            await streams["bob"].read()
        assert told.code is grpc.StatusCode.PERMISSION_DENIED
        # The root's stream goes on as if nothing had been.
        m.sim.controls.unplug_device(m.name("usb_stick"))
        while m.name("usb_stick") in streams["root"].items:
            await streams["root"].read()
        assert "reset" not in streams["root"].events
        for watch in streams.values():
            watch.call.cancel()


async def test_who_sees_by_drivers_is_told_when_a_driver_hides_a_holder(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        watch, cards = holders(service, "carol"), devices(service, "carol")
        await watch.until("bookmark")
        await cards.until("bookmark")
        assert HELD in {item.device for item in watch.items.values()}
        assert HELD in cards.items
        m.sim.world.kernel.devices[HELD].driver = "other"
        with m.core.store.change(ChangeSource.RECONCILE):
            m.core.store.look_again([HELD])
        while HELD in {item.device for item in watch.items.values()}:
            await watch.read()
        while HELD in cards.items:
            await cards.read()
        assert "reset" not in (*watch.events, *cards.events)
        # What a guest has is judged by the driver that hostdevd took it from.
        await m.attach(Shape("nic_single"))
        assert m.core.store.devices[m.name("nic_single")].driver == "vfio-pci"
        assert m.name("nic_single") in await listed(service, "carol", page_size=1000)
        for one in (watch, cards):
            one.call.cancel()


# --- what it costs -------------------------------------------------------------------------------------------


async def test_who_sees_everything_gets_the_bytes_that_all_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        assert service.context.access._of(Caller(Proof.PEER, uid=0, pid=4711))[1].is_whole
        asked = 0

        def counting(*_: object) -> bool:
            nonlocal asked
            asked += 1
            return True

        monkeypatch.setattr("hostdevd.core.rights.Rights.sees_device", counting)
        assert len(await listed(service, "root", page_size=1000)) == len(m.core.store.devices)
        assert asked == 0
        assert await listed(service, "alice")
        assert asked
