"""Attach, Detach and the records that they leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc.aio

from hostdev.v1 import assignment_pb2, service_pb2
from hostdevd.api.access import ENTRY
from hostdevd.api.context import Context
from hostdevd.api.requests import BEFORE_DEADLINE_S, check_host, duration_s, enum, request_id, text, texts
from hostdevd.api.tokens import resume_token
from hostdevd.api.wire import entry
from hostdevd.core.assignments import Assignment, AssignmentState, GroupPolicy, Scope
from hostdevd.core.engine import DEFAULT_WAIT_S, Outcome
from hostdevd.core.errors import invalid_field
from hostdevd.core.plan import AttachRequest
from hostdevd.core.redaction import assignment_for, plan_for
from hostdevd.core.release import DetachRequest
from hostdevd.core.sight import Sight

Rpc = grpc.aio.ServicerContext[Any, Any]

MAX_WAIT_S = 86_400.0


class AssignmentRpcs:
    """The calls that give and take devices."""

    _ctx: Context

    async def Attach(self, request: service_pb2.AttachRequest, context: Rpc) -> service_pb2.AttachResponse:  # noqa: N802
        """Attach a device with its group, or plan it."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        expected = None
        if request.HasField("expected_affected"):
            expected = frozenset(texts("expected_affected.uids", request.expected_affected.uids))
        outcome = await ctx.engine.attach(
            AttachRequest(
                vm=text("vm", request.vm, required=True),
                device=text("device", request.device, required=True),
                group_policy=enum(
                    "group_policy",
                    assignment_pb2.GroupPolicy,
                    request.group_policy,
                    "GROUP_POLICY_",
                    GroupPolicy,
                    GroupPolicy.WHOLE_GROUP,
                ),
                scope=_scope(request),
                expected_affected=expected,
            ),
            caller=ctx.access.caller(context).name,
            request_id=request_id(request.request_id),
            validate_only=request.validate_only,
            wait_s=_wait(request, context),
            sight=ctx.sight(context),
            entry=ENTRY.get(),
        )
        return service_pb2.AttachResponse(**self._result(outcome, ctx.sight(context)))

    async def Detach(self, request: service_pb2.DetachRequest, context: Rpc) -> service_pb2.DetachResponse:  # noqa: N802
        """Take a device with what came with it, or plan it."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        name = text("assignment", request.assignment)
        if name and (request.vm or request.device):
            raise invalid_field("assignment", "give either assignment, or vm and device")
        outcome = await ctx.engine.detach(
            DetachRequest(
                assignment=name,
                vm=text("vm", request.vm, required=not name),
                device=text("device", request.device, required=not name),
                scope=_scope(request),
            ),
            caller=ctx.access.caller(context).name,
            validate_only=request.validate_only,
            wait_s=_wait(request, context),
            sight=ctx.sight(context),
            entry=ENTRY.get(),
        )
        return service_pb2.DetachResponse(**self._result(outcome, ctx.sight(context)))

    async def ListAssignments(  # noqa: N802
        self,
        request: service_pb2.ListAssignmentsRequest,
        context: Rpc,
    ) -> bytes:
        """Records of assignments, newest first."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        ctx.engine.require_records()
        sight = ctx.sight(context)
        vm, device = text("vm", request.vm), text("device", request.device)
        states = frozenset(
            enum(
                f"states[{index}]",
                assignment_pb2.AssignmentState,
                state,
                "ASSIGNMENT_STATE_",
                AssignmentState,
                AssignmentState.ATTACHED,
            )
            for index, state in enumerate(request.states)
            if state != 0
        )

        def matches(assignment: Assignment) -> bool:
            if vm and vm != assignment.vm.name and vm.lower() != assignment.vm.uuid:
                return False
            if device and all(device not in {one.name, one.uid} for one in assignment.devices):
                return False
            return (not states or assignment.state in states) and sight.assignment(assignment)

        def select() -> Iterator[bytes]:
            found = [assignment for assignment in ctx.store.assignments.values() if matches(assignment)]
            found.sort(key=lambda assignment: (assignment.create_time, assignment.name), reverse=True)
            # Made here, since drivers and addresses are those of the list's revision.
            return (
                entry(ctx.renderer.assignment(assignment_for(sight, assignment)).SerializeToString())
                for assignment in found
            )

        page = await ctx.page(context, request, select, lambda made: made)
        return page.response(service_pb2.ListAssignmentsResponse, resume_token(ctx.store, sight, page.revision))

    async def GetAssignment(  # noqa: N802
        self,
        request: service_pb2.GetAssignmentRequest,
        context: Rpc,
    ) -> service_pb2.GetAssignmentResponse:
        """One record by name."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        ctx.engine.require_records()
        sight = ctx.sight(context)
        found = sight.find_assignment(text("name", request.name, required=True))
        return service_pb2.GetAssignmentResponse(assignment=ctx.renderer.assignment(assignment_for(sight, found)))

    async def ForgetAssignment(  # noqa: N802
        self,
        request: service_pb2.ForgetAssignmentRequest,
        context: Rpc,
    ) -> service_pb2.ForgetAssignmentResponse:
        """Remove the record of an assignment that holds nothing any more."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        name = text("name", request.name, required=True)
        sight = ctx.sight(context)
        gone = await ctx.engine.forget(name, sight, ENTRY.get())
        return service_pb2.ForgetAssignmentResponse(assignment=ctx.renderer.assignment(assignment_for(sight, gone)))

    def _result(self, outcome: Outcome, sight: Sight) -> dict[str, Any]:
        ctx = self._ctx
        assignment = assignment_for(sight, outcome.assignment) if outcome.assignment is not None else None
        return {
            "assignment": ctx.renderer.assignment(assignment) if assignment is not None else None,
            "plan": ctx.renderer.plan(plan_for(sight, outcome.plan)),
            "revision": ctx.store.revision,
            "resume_token": resume_token(ctx.store, sight),
        }


def _scope(request: Any) -> Scope:
    return enum("scope", assignment_pb2.Scope, request.scope, "SCOPE_", Scope, Scope.AUTO)


def _wait(request: Any, context: Rpc) -> float:
    """How long this call may take: its own wish, and always a little less than its caller's deadline."""
    wait_s = DEFAULT_WAIT_S
    if request.HasField("wait"):
        wait_s = duration_s("wait", request.wait, low=0.0, high=MAX_WAIT_S)
    remaining = context.time_remaining()
    if remaining is not None:
        wait_s = min(wait_s, max(0.0, remaining - BEFORE_DEADLINE_S))
    return wait_s
