"""Every method has a permission, and every call is asked for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hostdev.v1 import service_pb2
from hostdevd.api.access import Access
from hostdevd.api.methods import METHODS
from hostdevd.core.caller import Caller, Proof
from hostdevd.core.errors import HostdevError
from hostdevd.core.rights import LEAST_ROLE, Permission, Role
from hostdevd.core.roles import NO_RULE, Roles
from unit.api.callers import Served, refused, served
from unit.core.rig import machine

SERVED: tuple[Any, ...] = (
    *service_pb2.DESCRIPTOR.services_by_name.values(),
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
OURS = {f"/{service.full_name}/{method.name}": method for service in SERVED[:2] for method in service.methods}


def test_every_method_of_every_service_has_a_row_and_there_is_no_other() -> None:
    assert METHODS.keys() == {f"/{service.full_name}/{method.name}" for service in SERVED for method in service.methods}


def test_what_changes_something_is_for_the_audit_log_and_not_for_viewers() -> None:
    for method, row in METHODS.items():
        changes = row.permission is not None and LEAST_ROLE[row.permission] is not Role.VIEWER
        assert row.changes is changes, method
    assert {row.permission for row in METHODS.values()} - {None} == set(Permission)


async def call(service: Served, method: str, caller: str) -> None:
    """An empty request, and the first answer."""
    stub = service.admin(caller) if "Admin" in method else service.stub(caller)
    described = OURS[method]
    request = getattr(service_pb2, described.input_type.name)()
    answer = getattr(stub, described.name)(request)
    await (answer.read() if described.server_streaming else answer)


def rule(role: str) -> str:
    return f'[[rule]]\nname = "one"\nrole = "{role}"\nidentities = "user:alice"\n'


@pytest.mark.parametrize("role", [None, *Role])
async def test_a_role_opens_its_methods_and_no_other(role: Role | None, tmp_path: Path) -> None:
    ranks = list(Role)
    async with machine(tmp_path) as m, served(m, tmp_path, rule(role) if role is not None else "") as service:
        for method in OURS:
            permission = METHODS[method].permission
            assert permission is not None
            if role is not None and ranks.index(role) >= ranks.index(LEAST_ROLE[permission]):
                try:
                    await call(service, method, "alice")
                except grpc.aio.AioRpcError as error:
                    assert error.code() not in {  # noqa: PT017  an empty request is refused, by what it lacks
                        grpc.StatusCode.PERMISSION_DENIED,
                        grpc.StatusCode.UNAUTHENTICATED,
                    }
            else:
                with refused("NOT_ALLOWED") as told:
                    await call(service, method, "alice")
                assert told.code is grpc.StatusCode.PERMISSION_DENIED
                assert told.metadata == {"permission": str(permission)}
                assert str(permission) in told.message


async def test_who_has_no_identity_is_let_in_nowhere_but_to_the_health(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        for method in OURS:
            with refused("NO_IDENTITY") as told:
                await call(service, method, "")
            assert told.code is grpc.StatusCode.UNAUTHENTICATED
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        request = health_pb2.HealthCheckRequest(service="hostdev.v1.HostDeviceService")
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await health.Watch(request).read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_schema_is_for_who_may_look(tmp_path: Path) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        channel: Any = service.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answer = await stub.ServerReflectionInfo(iter([request]), metadata=(("as", "bob"),)).read()
        assert "hostdev.v1.HostDeviceService" in {one.name for one in answer.list_services_response.service}
        for metadata, reason in ((None, "NO_IDENTITY"), ((("as", "mallory"),), "NOT_ALLOWED")):
            with refused(reason):
                await stub.ServerReflectionInfo(iter([request]), metadata=metadata).read()


async def test_a_stream_of_requests_ends_when_none_comes_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a watcher's place, which a client that says nothing must not keep for ever."""
    monkeypatch.setattr("hostdevd.api.gate.IDLE_S", 0.1)
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        channel: Any = service.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(metadata=(("as", "bob"),))
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await call.read()).list_services_response.service
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_who_is_let_in_nowhere_is_in_the_audit_log_for_looking_too(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        for method in ("GetHost", "WatchDevices"):
            with refused("NOT_ALLOWED"):
                await call(service, f"/hostdev.v1.HostDeviceService/{method}", "mallory")
        assert [(row["method"], row["caller"], row["reason"]) for row in await service.rows()] == [
            ("GetHost", "uid:9", "NOT_ALLOWED"),
            ("WatchDevices", "uid:9", "NOT_ALLOWED"),
        ]


async def test_bytes_that_are_no_request_are_an_invalid_field(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path, rule("admin")) as service:
        channel: Any = service.channel
        metadata = (("as", "alice"),)
        for method, described in OURS.items():
            with refused("INVALID_FIELD") as told:
                if described.server_streaming:
                    await channel.unary_stream(method)(b"\xff\xff", metadata=metadata).read()
                else:
                    await channel.unary_unary(method)(b"\xff\xff", metadata=metadata)
            assert told.code is grpc.StatusCode.INVALID_ARGUMENT
            assert "pars" not in told.message.lower()
        with refused("INVALID_FIELD"):
            await channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff\xff").read()


async def test_a_request_that_is_none_is_refused_after_who_sends_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        attach: Any = service.channel.unary_unary("/hostdev.v1.HostDeviceService/Attach")
        for caller, reason in (("bob", "NOT_ALLOWED"), ("alice", "INVALID_FIELD")):
            with refused(reason):
                await attach(b"\xff\xff", metadata=(("as", caller),))
        assert [(row["caller"], row["reason"]) for row in await service.rows()] == [
            ("uid:2", "NOT_ALLOWED"),
            ("uid:1", "INVALID_FIELD"),
        ]


async def test_a_dry_run_needs_the_permission_too(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, served(m, tmp_path) as service:
        request = service_pb2.AttachRequest(vm="alpha", device=m.name("nic_single"), validate_only=True)
        with refused("NOT_ALLOWED") as told:
            await service.stub("bob").Attach(request)
        assert told.metadata == {"permission": "assignments.attach"}
        assert told.message == (
            "not allowed: uid:2 lacks the permission assignments.attach, which the role operator has;"
            " see the roles file"
        )
        assert (await service.stub("alice").Attach(request)).plan.steps


async def test_without_a_roles_file_a_read_only_socket_is_read_only(tmp_path: Path) -> None:
    def by_it(_: object) -> Caller:
        return Caller(Proof.PEER, uid=0, read_only=True)

    async with machine(tmp_path) as m:
        access = Access(m.core.store, None, by_it)
        access.require(by_it(None), Permission.DEVICES_READ)
        with pytest.raises(HostdevError) as refusal:
            access.require(by_it(None), Permission.ASSIGNMENTS_ATTACH)
        assert str(refusal.value) == (
            "not allowed: uid:0 lacks the permission assignments.attach: nothing can be changed at the read-only socket"
        )


async def test_roles_without_a_rule_are_warned_of_at_the_start_and_at_a_reload(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        with structlog.testing.capture_logs() as lines:
            access = Access(m.core.store, Roles(), lambda _: Caller(Proof.PEER, uid=0))
            access.put(Roles())
        assert [(line["log_level"], line["event"]) for line in lines] == [("warning", NO_RULE)] * 2
