"""An attach for the time of a block: what has to be taken back when the block ends."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from hostdev.errors import HostdevApiError, HostdevError, NotFoundError, UnfinishedError
from hostdev.v1 import assignment_pb2, service_pb2

_NOT_ANSWERED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
"""Codes that do not tell whether the server has begun."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What an attach has added to what the VM held before."""

    assignment: assignment_pb2.Assignment
    scope: assignment_pb2.Scope.ValueType

    @classmethod
    def of(cls, answer: service_pb2.AttachResponse) -> Holding:
        """What the answer says."""
        assignment = answer.assignment
        kinds = {step.kind for step in answer.plan.steps}
        live = assignment_pb2.PLAN_STEP_KIND_ATTACH_LIVE in kinds
        config = assignment_pb2.PLAN_STEP_KIND_ATTACH_CONFIG in kinds
        # The attach may have extended what the VM held in the other scope, which then is not ours to take away.
        if live and assignment.config and not config:
            return cls(assignment, assignment_pb2.SCOPE_LIVE)
        if config and assignment.live and not live:
            return cls(assignment, assignment_pb2.SCOPE_CONFIG)
        return cls(assignment, assignment_pb2.SCOPE_AUTO)

    @classmethod
    def unanswered(cls, request_id: str) -> Holding:
        """What is known before there is an answer: the name that the assignment has, if there is one."""
        return cls(assignment_pb2.Assignment(name=request_id), assignment_pb2.SCOPE_AUTO)

    def check_attached(self) -> None:
        """Whether the VM has it.

        Raises:
            UnfinishedError: the attach goes on.
        """
        if self.assignment.state != assignment_pb2.ASSIGNMENT_STATE_ATTACHED:
            raise UnfinishedError(self.assignment)

    def check_detached(self, answer: service_pb2.DetachResponse) -> None:
        """Whether it has been taken back.

        Raises:
            UnfinishedError: the guest has not let go yet.
        """
        if answer.assignment.state == assignment_pb2.ASSIGNMENT_STATE_DETACHING:
            raise UnfinishedError(answer.assignment)

    def note_on(self, failure: BaseException, error: HostdevError) -> None:
        """Block or attach failed, and taking back too: the first failure is raised and tells of the second."""
        if isinstance(error, NotFoundError):
            return  # it had not begun
        failure.add_note(f"assignment {self.assignment.name} was not taken back: {error}")


def may_be_held(failure: BaseException) -> bool:
    """Whether an attach that ended so may have begun, or be under way still: nobody else would take it back."""
    if isinstance(failure, UnfinishedError):
        return failure.assignment.state == assignment_pb2.ASSIGNMENT_STATE_ATTACHING
    if isinstance(failure, HostdevApiError):
        return failure.code in _NOT_ANSWERED
    return not isinstance(failure, Exception)  # Ctrl-C, a cancelled task


def tell_request(failure: BaseException, request_id: str) -> None:
    """Whoever gets the failure can find the assignment, and go on with it or take it back."""
    if isinstance(failure, HostdevError):
        failure.request_id = request_id
    failure.add_note(f"the attach has the request id {request_id}")
