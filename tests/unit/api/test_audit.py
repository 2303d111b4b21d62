"""What the audit log has of each request for a change."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from hostdev.v1 import service_pb2
from hostdevd.core.audit_room import AWAY, TELL_S
from hostdevd.core.journal import Journal
from unit.api.callers import refused, rows_of, served
from unit.core.rig import FastClock, Shape, machine, until

Attach, Detach, Forget = service_pb2.AttachRequest, service_pb2.DetachRequest, service_pb2.ForgetAssignmentRequest
REQUEST_ID = "5f6cf6de-51a7-4a64-8c1c-0f3a2a9a3b11"


def told(row: dict[str, Any], *keys: str) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)


async def test_a_change_has_a_row_as_it_begins_and_one_as_it_ends(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        device = m.core.store.devices[m.name("nic_single")]
        stub = service.stub("alice")
        await stub.Attach(Attach(vm="alpha", device=device.uid, request_id=REQUEST_ID, wait=Duration(seconds=20)))
        await stub.Detach(Detach(assignment=REQUEST_ID))
        await stub.ForgetAssignment(Forget(name=REQUEST_ID))
        rows = await service.rows()
        assert [told(row, "method", "outcome") for row in rows] == [
            (method, outcome) for method in ("Attach", "Detach", "ForgetAssignment") for outcome in ("ACCEPTED", "DONE")
        ]
        for begun, ended in zip(rows[::2], rows[1::2], strict=True):
            assert (begun["ended"], ended["began"]) == (ended["id"], begun["id"])
            assert begun["time"] <= ended["time"]
            for row in (begun, ended):
                assert told(row, "caller", "uid", "pid", "sans") == ("uid:1", 1, 4711, [])
                assert told(row, "gids", "read_only") == ([1, 100], False)
                assert told(row, "vm", "vm_uuid") == ("alpha", "c0ffee00-0000-4000-8000-000000000001")
                assert row["devices"] == [{"name": device.name, "uid": device.uid}]
                assert row["assignment"] == REQUEST_ID
                assert told(row, "dry_run", "reason", "message", "count") == (False, "", "", 0)
        assert rows[0]["request_id"] == REQUEST_ID
        assert json.loads(rows[0]["arguments"]) == {"wait": "20s"}


async def test_a_failed_attach_and_a_rejected_detach_say_why(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        stub = service.stub("root")
        m.sim.controls.fail_next("attach", text="injected")
        with refused("ATTACH_FAILED"):
            await stub.Attach(Attach(vm="alpha", device=m.name("nic_single")))
        held = await m.attach(Shape("switch_0", "stubborn"))
        with refused("DETACH_REJECTED_BY_GUEST"):
            await stub.Detach(Detach(assignment=held.name))
        rows = [row for row in await service.rows() if row["caller"] == "uid:0"]
        assert [told(row, "method", "outcome", "reason") for row in rows] == [
            ("Attach", "ACCEPTED", ""),
            ("Attach", "FAILED", "ATTACH_FAILED"),
            ("Detach", "ACCEPTED", ""),
            ("Detach", "FAILED", "DETACH_REJECTED_BY_GUEST"),
        ]
        assert "injected" in rows[1]["message"]


async def test_what_begins_nothing_has_one_row_with_the_reason(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        nic = m.name("nic_single")
        dry = Attach(vm="alpha", device=nic, validate_only=True)
        assert (await service.stub("alice").Attach(dry)).plan.steps
        held = Attach(vm="alpha", device="pci_0000_16_00_0", validate_only=True)
        assert (await service.stub("root").Attach(held)).plan.blockers
        for caller, request, reason in (
            ("bob", Attach(vm="alpha", device=nic), "NOT_ALLOWED"),
            ("bob", dry, "NOT_ALLOWED"),
            ("", Attach(vm="alpha", device=nic), "NO_IDENTITY"),
            ("alice", Attach(vm="alpha"), "INVALID_FIELD"),
            ("alice", Attach(vm="alpha", device="nothing\x1b[2J"), "INVALID_FIELD"),
            ("alice", Attach(vm="alpha", device="nothing"), "DEVICE_NOT_FOUND"),
            ("root", Attach(vm="alpha", device="pci_0000_16_00_0"), "HELD_BY_OTHER_VM"),
        ):
            with refused(reason):
                await service.stub(caller).Attach(request)
        with refused("INVALID_FIELD"):  # it has no SR-IOV
            two = service_pb2.SetVirtualFunctionsRequest(device=nic, count=2)
            await service.admin("root").SetVirtualFunctions(two)
        rows = await service.rows()
        assert [told(row, "caller", "outcome", "reason", "dry_run") for row in rows] == [
            ("uid:1", "DRY_RUN", "", True),
            ("uid:0", "DRY_RUN", "HELD_BY_OTHER_VM", True),
            ("uid:2", "REFUSED", "NOT_ALLOWED", False),
            ("uid:2", "REFUSED", "NOT_ALLOWED", True),
            ("none", "REFUSED", "NO_IDENTITY", False),
            ("uid:1", "REFUSED", "INVALID_FIELD", False),
            ("uid:1", "REFUSED", "INVALID_FIELD", False),
            ("uid:1", "REFUSED", "DEVICE_NOT_FOUND", False),
            ("uid:0", "REFUSED", "HELD_BY_OTHER_VM", False),
            ("uid:0", "REFUSED", "INVALID_FIELD", False),
        ]
        assert rows[6]["devices"] == [{"name": "nothing\x1b[2J", "uid": ""}]
        assert "keeper" in rows[8]["message"]  # the log is for who may see all
        assert told(rows[9], "method", "arguments") == ("SetVirtualFunctions", '{"count":2}')
        # What only reads is not in it.
        await service.stub("alice").ListDevices(service_pb2.ListDevicesRequest())
        assert len(await service.rows()) == len(rows)


async def test_what_changes_the_host_has_its_rows_too(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        pf, made = m.name("nvme_sriov"), "00000000-0000-4000-8000-00000000cafe"
        create = service_pb2.CreateMediatedDeviceRequest(parent="pci_0000_12_00_0", type_id="nvidia-222", uuid=made)
        admin = service.admin("root")
        for count in (4, 4):
            await admin.SetVirtualFunctions(service_pb2.SetVirtualFunctionsRequest(device=pf, count=count))
        mdev = (await admin.CreateMediatedDevice(create)).device.name
        await admin.DeleteMediatedDevice(service_pb2.DeleteMediatedDeviceRequest(device=mdev))
        await m.attach(Shape("pci_0000_0b_00_1"))
        with refused("VFS_IN_USE"):
            await admin.SetVirtualFunctions(service_pb2.SetVirtualFunctionsRequest(device=pf, count=0))
        rows = [row for row in await service.rows() if row["method"] != "Attach"]
        assert sorted((row["method"], row["outcome"], row["reason"]) for row in rows) == sorted(
            [
                ("SetVirtualFunctions", "ACCEPTED", ""),
                ("SetVirtualFunctions", "DONE", ""),
                ("SetVirtualFunctions", "UNCHANGED", ""),
                ("CreateMediatedDevice", "ACCEPTED", ""),
                ("CreateMediatedDevice", "DONE", ""),
                ("DeleteMediatedDevice", "ACCEPTED", ""),
                ("DeleteMediatedDevice", "DONE", ""),
                ("SetVirtualFunctions", "ACCEPTED", ""),
                ("SetVirtualFunctions", "FAILED", "VFS_IN_USE"),
            ]
        )
        assert {row["caller"] for row in rows} == {"uid:0"}
        with refused("NOT_ALLOWED"):
            await service.admin("alice").CreateMediatedDevice(create)


async def test_who_is_narrowed_to_machines_does_not_change_the_host(tmp_path: Path) -> None:
    rules = """
    [[rule]]
    name = "a"
    role = "admin"
    identities = "user:alice"
    vms = "alpha"
    [[rule]]
    name = "b"
    role = "admin"
    identities = "user:bob"
    devices = {class = "02"}
    """
    async with machine(tmp_path) as m, served(m, tmp_path, rules) as service:
        request = service_pb2.SetVirtualFunctionsRequest(device=m.name("nvme_sriov"), count=0)
        with refused("NOT_ALLOWED") as told:
            await service.admin("alice").SetVirtualFunctions(request)
        assert told.metadata == {"permission": "functions.set", "on": m.name("nvme_sriov")}
        with refused("DEVICE_NOT_FOUND"):
            await service.admin("bob").SetVirtualFunctions(request)


async def test_who_joins_or_repeats_is_in_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        held = await m.attach(Shape("nic_single", "deaf"))
        at_once = Detach(assignment=held.name, wait=Duration())
        await service.stub("root").Detach(at_once)
        await service.stub("carol").Detach(at_once)
        rows = (await service.rows())[2:]
        assert [told(row, "caller", "outcome") for row in rows] == [("uid:0", "ACCEPTED"), ("uid:3", "UNCHANGED")]


async def test_a_change_that_cannot_be_written_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        before = m.state()

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as disk:
            disk.setattr("hostdevd.core.journal.write_accepted", full)
            with refused("STATE_STORE_UNAVAILABLE"):
                await service.stub("root").Attach(Attach(vm="alpha", device=m.name("nic_single")))
        assert m.state() == before
        assert not m.core.store.assignments
        # That it was refused is written when there is room again.
        assert [told(row, "outcome", "reason") for row in await service.rows()] == [
            ("REFUSED", "STATE_STORE_UNAVAILABLE")
        ]


async def test_an_outcome_that_could_not_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as disk:
            disk.setattr("hostdevd.core.journal.write_ended", full)
            await service.stub("root").Attach(Attach(vm="alpha", device=m.name("nic_single")))
            assert [row["outcome"] for row in await rows_of(m)] == ["ACCEPTED"]
        await m.core.engine._operations.save_again()
        assert [row["outcome"] for row in await rows_of(m)] == ["ACCEPTED", "DONE"]


async def test_what_a_crash_interrupts_is_told_of_by_its_beginning_and_ended_by_the_next_start(tmp_path: Path) -> None:
    async with machine(tmp_path, kept=True) as m, served(m, tmp_path) as service:
        call = service.stub("root").Detach(Detach(vm="keeper", device="pci_0000_16_00_0"))
        await call
        held = await m.attach(Shape("nic_single", "deaf"))
        await service.stub("root").Detach(Detach(assignment=held.name, wait=Duration()))
    async with machine(tmp_path, kept=True) as m:
        (begun,) = [row for row in await rows_of(m) if row["outcome"] == "ACCEPTED" and row["ended"] is None]
        assert told(begun, "method", "caller", "vm", "assignment") == ("Detach", "uid:0", "deaf", held.name)
        m.sim.controls.destroy_domain("deaf")
        await until(m, lambda: m.core.store.assignments[held.name].state.closed)
        rows = await rows_of(m)
        assert rows[-1]["outcome"] == "DONE"
        assert told(rows[-1], "began", "caller", "assignment") == (begun["id"], "uid:0", held.name)


async def test_a_client_that_goes_leaves_the_rows_of_what_it_began(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        call: grpc.aio.Call = service.stub("root").Attach(Attach(vm="alpha", device=m.name("nic_single")))
        await until(m, lambda: bool(m.core.store.assignments))
        call.cancel()
        await until(m, lambda: all(one.state == "ATTACHED" for one in m.core.store.assignments.values()))
        assert [row["outcome"] for row in await service.rows()] == ["ACCEPTED", "DONE"]


async def test_a_flood_of_refusals_costs_few_writes_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FastClock(factor=1.0)
    async with machine(tmp_path, clock) as m, served(m, tmp_path) as service:
        writes = Counter[str]()
        real = Journal._transaction

        def counted(journal: Journal, work: Any) -> Any:
            writes["all"] += 1
            return real(journal, work)

        monkeypatch.setattr(Journal, "_transaction", counted)
        flood = Attach(vm="alpha", device="x")

        async def one() -> None:
            with refused("NOT_ALLOWED"):
                await service.stub("mallory").Attach(flood)

        for _ in range(6):
            await asyncio.gather(*(one() for _ in range(100)))
        with refused("NOT_ALLOWED"):  # somebody else's is written, however many of hers there are
            await service.stub("bob").Attach(flood)
        assert writes["all"] < 300
        await service.rows()
        clock.ahead += TELL_S
        rows = await service.rows()
        hers = [row for row in rows if row["caller"] == "uid:9"]
        refusals, dropped = Counter(row["outcome"] for row in hers)["REFUSED"], sum(row["count"] for row in hers)
        assert refusals + dropped == 600
        assert AWAY.burst <= refusals < 2 * AWAY.burst
        assert [row["outcome"] for row in hers].count("DROPPED") <= 3
        assert [row["outcome"] for row in rows if row["caller"] == "uid:2"] == ["REFUSED"]
